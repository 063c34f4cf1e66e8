"""Every operation × every id that it takes × {foreign, unknown, malformed}, made from the endpoint
tables.

The answer to another account's id is the answer to an id that does not exist, in status, headers
and body, and neither changes anything in Redis or the databases; warm (the room is in Redis), cold
(it must be read from the database), and while a reply runs in it. A new endpoint is attacked by
itself; a field of a new name fails the first test until it is listed here as an id or as something
else.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from application.base_web_server.config.loading import ServerSettings
from application.base_web_server.lifecycle import Server
from base_server.service.cache.cache_settings import CacheSettings
from base_server.template.base.endpoint import Access, Endpoint
from base_server.template.base.envelope import Request
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import HttpResponse
from base_server.template.chat.messages.pages import make_cursor
from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import PERSONA
from tests.isolation.endpoint_driver import PASSWORD, Account, EndpointDriver, running_driver
from tests.openai_stub import OpenAIStub, Reply
from tests.waiting import until

IDS = {"account_id", "room_id", "message_id", "client_message_id", "client_request_id", "cursor"}
OF_THE_ENVELOPE = set(Request.model_fields)
PLAIN = {
    "ai_persona": PERSONA, "before_timestamp": None, "content": "probe", "email": None, "last_event_id": None,
    "limit": 10, "new_title": "probe", "nickname": None, "on_busy": "reject", "page": 1, "password": "wrong password",
    "platform_type": None, "title": "probe",
}  # fmt: skip
"""Fields that name nothing of anybody's, with what a probe sends for the required ones."""

TELLS = {
    (
        1001,
        "account_id",
    ): "a name can be taken once and 2001 says so; signups are limited per address",
}
"""Where foreign and unknown differ, and why."""

ANY_ID = ["", "a b", "../x", "a" * 65, "room\n", "ｒoom", 7, True, ["x"], {"x": 1}]
MALFORMED: dict[str, list[Any]] = {
    "account_id": ["ab", "admin ", "a" * 65, 7, None],
    "room_id": [*ANY_ID, None],
    "message_id": [*ANY_ID, None],
    "client_message_id": ANY_ID,
    "client_request_id": ANY_ID,
    "cursor": ["", "nonsense", "a b", "A" * 257, 7],
}
CLIENT_IDS = {"client_message_id", "client_request_id"}
"""Alone they are new ids to their sender: accepted, so that a second probe would be a repeat of the
first."""
WAYS = [
    "in the account's partition",
    "on another shard",
    "in another partition",
    "with a running reply",
]


@dataclass
class Target:
    """Somebody's room: the account and the value of each id field that names something of it."""

    account: Account
    values: dict[str, str]
    running: bool = False

    def unknown(self, driver: EndpointDriver) -> dict[str, str]:
        """Ids of the same form and place that name nothing."""
        new_id = driver.harness.redis.partitions.new_id
        room_id = new_id(self.account.partition)
        return {
            "account_id": f"user{uuid.uuid4().hex[:12]}",
            "room_id": room_id,
            "message_id": new_id(self.account.partition),
            "client_message_id": str(uuid.uuid4()),
            "client_request_id": str(uuid.uuid4()),
            "cursor": make_cursor(room_id, 3),
        }


@pytest.fixture
async def driver(
    backends: tuple[CacheSettings, DatabaseBackend], app_id: str, provider: OpenAIStub
) -> AsyncIterator[EndpointDriver]:
    async with running_driver(*backends, app_id, provider, reply_deadline_s=600) as running:
        yield running


async def make_target(driver: EndpointDriver, account: Account, *, running: bool = False) -> Target:
    """A room with two answered questions; ``running``: and a third one whose reply hangs."""
    client_message_id, client_request_id = str(uuid.uuid4()), str(uuid.uuid4())
    made = {"ai_persona": PERSONA, "title": "mine", "client_request_id": client_request_id}
    room_id = (await driver.ok(account, "/api/chat/room/create", **made))["room"]["room_id"]
    secret = f"secret of {account.account_id}"
    first = await driver.ok(
        account,
        "/api/chat/message/send",
        room_id=room_id,
        content=secret,
        client_message_id=client_message_id,
    )
    await driver.ok(account, "/api/chat/message/send", room_id=room_id, content=secret)
    message_id = first["user_message"]["message_id"]
    if running:
        message_id = await _hanging_reply(driver, account, room_id)
    return Target(
        account,
        {
            "account_id": account.account_id,
            "room_id": room_id,
            "message_id": message_id,
            "client_message_id": client_message_id,
            "client_request_id": client_request_id,
            "cursor": make_cursor(room_id, 3),
        },
        running,
    )


async def _hanging_reply(driver: EndpointDriver, account: Account, room_id: str) -> str:
    """The id of a reply that runs until the test ends."""
    driver.harness.provider.script(Reply(["so far"], hang=True))
    before = driver.harness.provider.running
    driver.harness.container.tasks.spawn(
        driver.ok(account, "/api/chat/message/send", room_id=room_id, content="a long story"),
        "hanging send",
    )
    await until(lambda: driver.harness.provider.running > before)
    # Its first delta is stored, so that nothing of it changes by itself any more.
    await until(lambda: _has_stream(driver, room_id), what="the first delta")
    page = await driver.ok(account, "/api/chat/messages", room_id=room_id)
    return str(
        next(message["message_id"] for message in page["messages"] if message["is_streaming"])
    )


async def _has_stream(driver: EndpointDriver, room_id: str) -> bool:
    return any(f"reply:{room_id}" in key for key in await driver.redis_picture())


def id_fields(endpoint: Endpoint) -> list[str]:
    return [name for name in endpoint.request.model_fields if name in IDS]


def body_with(endpoint: Endpoint, own: Target, values: dict[str, Any]) -> dict[str, Any]:
    """A valid body of the caller's own ids and harmless texts, with ``values`` in place."""
    body: dict[str, Any] = {"sequence": 7}
    for name, field in endpoint.request.model_fields.items():
        if field.is_required():
            body[name] = own.values[name] if name in IDS else PLAIN[name]
    return body | values


def told(answer: HttpResponse, *echoed: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body as the caller sees them, without ids, times, numbers that any new
    thing has, and what the caller sent."""
    text = answer.body.decode()
    for value in echoed:
        text = text.replace(value, "ID")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+\+00:00", "TIME", text)
    text = re.sub(r'"(seq|latency_ms|message_count|prompt|total)":\d+', r'"\1":0', text)
    return answer.status, answer.headers, json.loads(text)


def test_every_field_of_every_shipped_protocol_is_known_here() -> None:
    context = TemplateContext()
    Server(ServerSettings(), context)
    unknown = {
        (endpoint.id, name)
        for endpoint in context.endpoints()
        for name in endpoint.request.model_fields
        if name not in IDS | OF_THE_ENVELOPE | set(PLAIN)
    }
    assert not unknown, "is it an id? List it in IDS with a value in Target, else in PLAIN"
    assert {name for endpoint in context.endpoints() for name in id_fields(endpoint)} == IDS


def test_the_matrix_has_the_protocols_of_a_shipped_server(driver: EndpointDriver) -> None:
    context = TemplateContext()
    Server(ServerSettings(), context)
    shipped = [(endpoint.id, endpoint.path) for endpoint in context.endpoints()]
    assert [(endpoint.id, endpoint.path) for endpoint in driver.endpoints] == shipped


async def make_targets(driver: EndpointDriver, own: Account) -> dict[str, Target]:
    other_partition = (own.partition + 1) % driver.harness.redis.partitions.count
    accounts = [
        await driver.account(own.partition, own.shard_id),
        await driver.account(own.partition, 3 - own.shard_id),
        await driver.account(other_partition),
        await driver.account(own.partition, own.shard_id),
    ]
    targets = {
        way: await make_target(driver, account)
        for way, account in zip(WAYS[:3], accounts[:3], strict=True)
    }
    await driver.harness.persist()
    targets[WAYS[3]] = await make_target(driver, accounts[3], running=True)
    return targets


async def test_a_foreign_id_is_answered_as_an_unknown_one_and_changes_nothing(
    driver: EndpointDriver,
) -> None:
    me = await driver.account()
    # A send and a stream share their client ids: each in a room of its own.
    owns = [await make_target(driver, me) for _ in range(2)]
    targets = await make_targets(driver, me)
    await driver.harness.persist()
    before = await _all_that_they_see(driver, targets)
    probes = 0
    for endpoint in driver.endpoints:
        own, fields = owns[bool(endpoint.events)], id_fields(endpoint)
        choices = [[field] for field in fields] + ([fields] if len(fields) > 1 else [])
        for chosen, (way, target), cold in product(choices, targets.items(), (False, True)):
            if (endpoint.id, chosen[0]) in TELLS or (
                cold and (target.running or chosen[0] in CLIENT_IDS)
            ):
                continue
            if cold:
                await driver.forget(*target.values.values())
            else:
                await _warm(driver, target)
            await _compare(
                driver, endpoint, own, target, chosen, f"{endpoint.path} {chosen} {way} {cold=}"
            )
            probes += 1
    assert probes > 60
    assert await _all_that_they_see(driver, targets) == before
    asked = [
        str(call.messages)
        for call in driver.harness.provider.requests
        if call.messages[-1]["content"] == "probe"
    ]
    assert asked, "no probe was accepted: client ids of others are new ones to me"
    assert not [
        text for text in asked for target in targets.values() if target.account.account_id in text
    ]


async def _warm(driver: EndpointDriver, target: Target) -> None:
    await driver.ok(target.account, "/api/chat/rooms")
    await driver.ok(target.account, "/api/chat/messages", room_id=target.values["room_id"])


async def _compare(
    driver: EndpointDriver,
    endpoint: Endpoint,
    own: Target,
    target: Target,
    chosen: list[str],
    what: str,
) -> None:
    foreign = {name: target.values[name] for name in chosen}
    twin = {name: value for name, value in target.unknown(driver).items() if name in chosen}
    rows, picture = await driver.rows(target.account), await driver.redis_picture()
    asked = driver.harness.provider.calls
    answer = await driver.call(endpoint, body_with(endpoint, own, foreign), own.account.token)
    asked_for_foreign = driver.harness.provider.calls - asked
    changed = _changed(picture, await driver.redis_picture())
    theirs = [
        key
        for key in changed
        if _names(key, target) and not key.split("}:")[1].startswith("room_load:")
    ]
    assert not theirs, f"{what} changed {theirs}"
    assert await driver.rows(target.account) == rows, what
    unknown = await driver.call(endpoint, body_with(endpoint, own, twin), own.account.token)
    assert told(answer, *foreign.values()) == told(unknown, *twin.values()), what
    assert asked_for_foreign == driver.harness.provider.calls - asked - asked_for_foreign, what
    if answer.error_code:
        # What was cold for me may have been loaded; a load's token and its mark of the backlog hold
        # nothing.
        harmless = (own.account.account_id, *own.values.values(), "_load:", "lane_mark:")
        strange = [key for key in changed if not any(name in key for name in harmless)]
        assert not strange, f"{what} changed {strange}"


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


def _names(key: str, target: Target) -> bool:
    return any(target.values[name] in key for name in ("account_id", "room_id", "message_id"))


async def _all_that_they_see(driver: EndpointDriver, targets: dict[str, Target]) -> Any:
    seen = []
    for target in targets.values():
        rooms = await driver.ok(target.account, "/api/chat/rooms")
        page = await driver.ok(
            target.account, "/api/chat/messages", room_id=target.values["room_id"]
        )
        seen.append((rooms["rooms"], rooms["total_count"], page["messages"]))
    return seen


async def test_a_malformed_id_is_named_before_anything_is_looked_at(driver: EndpointDriver) -> None:
    me = await driver.account()
    own = await make_target(driver, me)
    await driver.harness.persist()
    await driver.harness.hush()
    picture, round_trips = await driver.redis_picture(), 0
    for endpoint in driver.endpoints:
        for name in id_fields(endpoint):
            for value in MALFORMED[name]:
                before = driver.harness.redis.round_trips
                answer = await driver.call(
                    endpoint, body_with(endpoint, own, {name: value}), me.token
                )
                body = json.loads(answer.body)
                assert (answer.status, body["errorCode"]) == (400, 1002), (
                    endpoint.path,
                    name,
                    value,
                )
                assert body["error"]["details"]["field"] == name, (endpoint.path, name, value)
                round_trips = max(round_trips, driver.harness.redis.round_trips - before)
    assert round_trips <= 1, "only the session is looked up"
    assert await driver.redis_picture() == picture


async def test_every_invalid_session_gets_the_same_error(
    driver: EndpointDriver,
) -> None:
    """A session that is missing malformed unknown or ended is one answer."""
    ended = await driver.account()
    session = await driver.sessions.find(ended.token)
    assert session is not None
    await driver.sessions.delete(session.session_key)
    tokens = [
        None,
        "",
        "nonsense",
        "99." + "a" * 43,
        f"{ended.partition:02d}." + "a" * 43,
        ended.token,
    ]
    own = await make_target(driver, await driver.account())
    for endpoint in driver.endpoints:
        if endpoint.access is Access.USER:
            answers = [
                await driver.call(endpoint, body_with(endpoint, own, {}), token) for token in tokens
            ]
            assert {(answer.status, answer.body, answer.error_code) for answer in answers} == {
                (401, answers[0].body, 10000)
            }, endpoint.path


async def test_nobody_logs_in_as_another_with_his_own_password(driver: EndpointDriver) -> None:
    """Positive control of the whole file: with the right password and token the same servers
    open."""
    signup, login = driver.context.find_by_protocol(1001), driver.context.find_by_protocol(1002)
    assert signup is not None
    assert login is not None
    names = [f"user{uuid.uuid4().hex[:12]}" for _ in range(2)]
    for name in names:
        assert (
            await driver.call(signup, {"account_id": name, "password": PASSWORD + name})
        ).error_code == 0
    crossed = await driver.call(login, {"account_id": names[0], "password": PASSWORD + names[1]})
    right = await driver.call(login, {"account_id": names[0], "password": PASSWORD + names[0]})
    assert (crossed.error_code, right.error_code) == (2002, 0)
