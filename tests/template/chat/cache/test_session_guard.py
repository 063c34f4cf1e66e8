"""The session check in a request's first script: one call less, and nothing after a logout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ConnectionLostInFlight, ServiceUnavailable
from base_server.service.redis_client.script import Script
from base_server.template.account.ended_sessions import EndedSessions
from base_server.template.account.session_store import SessionStore
from base_server.template.base.client_session import ClientSession
from base_server.template.base.template_service import Call, TemplateService
from base_server.template.chat.cache.scripts import SCRIPTS
from base_server.template.chat.common.chat_protocol import ChatProtocol
from base_server.template.chat.domain.events import QUEUE_NAME
from tests.chat_harness import ChatHarness

LIST, ROOMS, SEND = ChatProtocol.MESSAGE_LIST, ChatProtocol.ROOM_LIST, ChatProtocol.MESSAGE_SEND


class EndpointDriver:
    """One process' driver for an account that has logged in, with a room of its own."""

    def __init__(self, chat: ChatHarness, token: str, user: ClientSession, room_id: str) -> None:
        self.chat, self.token, self.user, self.room_id = chat, token, user, room_id
        self.sessions = _sessions(chat)
        self._service = TemplateService(self.sessions)
        self._rows = {row.id: row for row in chat.template.endpoints()}

    @classmethod
    async def open(cls, chat: ChatHarness) -> EndpointDriver:
        user = await chat.user()
        room = await chat.room(user)
        await chat.send(user, room.room_id, "before")
        return cls(chat, await _sessions(chat).create(user.session), user, room.room_id)

    async def ask(self, protocol: ChatProtocol, **fields: Any) -> dict[str, Any]:
        if protocol is not ROOMS:
            fields = {"room_id": self.room_id, **fields}
        answer = await self._service.handle(
            self._rows[protocol.id], Call(json.dumps(fields).encode(), bearer=self.token)
        )
        return dict(json.loads(answer.body))

    async def log_out_elsewhere(self) -> None:
        session = await _sessions(self.chat).find(self.token)
        assert session is not None
        await _sessions(self.chat).delete(session.session_key)

    async def questions(self) -> list[str]:
        return await self.chat.questions(self.user, self.room_id)


def _sessions(chat: ChatHarness) -> SessionStore:
    """Of another process, so far as it remembers nothing."""
    return SessionStore(chat.container.cache, EndedSessions(chat.container.database, 100), 100)


@pytest.fixture
async def driver(chat: ChatHarness) -> EndpointDriver:
    return await EndpointDriver.open(chat)


@pytest.mark.chat_settings(
    delta_interval_s=60, checkpoint_interval_s=60
)  # a slow machine would note parts down
@pytest.mark.parametrize(("protocol", "calls"), [(LIST, 1), (ROOMS, 1), (SEND, 3)])
async def test_a_session_that_was_found_before_costs_no_call(
    driver: EndpointDriver, protocol: ChatProtocol, calls: int
) -> None:
    fields = {"content": "hello"} if protocol is SEND else {}
    for _ in range(2):  # found, and its script known
        assert (await driver.ask(protocol, **fields))["errorCode"] == 0
    await driver.chat.hush()
    redis = driver.chat.redis
    before = redis.round_trips
    assert (await driver.ask(protocol, **fields))["errorCode"] == 0
    assert redis.round_trips - before == calls


@pytest.mark.parametrize("protocol", [LIST, ROOMS, SEND])
async def test_who_has_logged_out_on_another_process_gets_and_does_nothing(
    driver: EndpointDriver, protocol: ChatProtocol
) -> None:
    assert (await driver.ask(LIST))["errorCode"] == 0
    await driver.log_out_elsewhere()
    events = await driver.chat.container.queue.backlog(QUEUE_NAME)
    fields = {"content": "too late"} if protocol is SEND else {}
    for _ in range(2):
        answer = await driver.ask(protocol, **fields)
        assert answer["errorCode"] == 10000
        assert not answer.get("rooms")
        assert not answer.get("messages")
    assert await driver.questions() == ["before"]
    assert await driver.chat.container.queue.backlog(QUEUE_NAME) == events


@pytest.mark.parametrize("fields", [{"limit": 0}, {"room_id": "not a room"}, {"room_id": "room_1"}])
async def test_without_a_session_nothing_is_told_of_the_request(
    driver: EndpointDriver, fields: dict[str, Any]
) -> None:
    assert (await driver.ask(LIST))["errorCode"] == 0
    assert (await driver.ask(LIST, **fields))["errorCode"] in (1002, 1004)
    await driver.log_out_elsewhere()
    assert (await driver.ask(LIST, **fields))["errorCode"] == 10000


async def test_in_another_run_of_redis_the_session_is_looked_up_again(
    driver: EndpointDriver,
) -> None:
    assert (await driver.ask(LIST))["errorCode"] == 0
    redis, partition = driver.chat.redis, int(driver.token[:2])
    epoch = redis.key("epoch", partition)
    await redis.execute("INCR", epoch)
    await driver.chat.persist()
    assert [m["content"] for m in (await driver.ask(LIST))["messages"]][:1] == ["before"]
    await driver.log_out_elsewhere()
    await redis.execute("INCR", epoch)
    assert (await driver.ask(LIST))["errorCode"] == 10000


@pytest.mark.parametrize("protocol", [LIST, ROOMS])
async def test_without_redis_a_believed_session_reads_nothing_from_the_database(
    driver: EndpointDriver, protocol: ChatProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await driver.ask(protocol))["errorCode"] == 0
    await driver.chat.persist()

    async def away(*_: Any, **__: Any) -> Any:
        raise ServiceUnavailable("cache", "away")

    monkeypatch.setattr(CacheClient, "run_script", away)
    monkeypatch.setattr(CacheClient, "execute_many", away)
    answer = await driver.ask(protocol)
    assert answer["errorCode"] == 5003
    assert not answer.get("messages")
    assert not answer.get("rooms")


@pytest.mark.parametrize("logged_out", [False, True])
async def test_a_lost_answer_is_asked_for_again_only_while_the_session_goes_on(
    driver: EndpointDriver, monkeypatch: pytest.MonkeyPatch, logged_out: bool
) -> None:
    assert (await driver.ask(LIST))["errorCode"] == 0
    once = CacheClient.run_script
    lost: list[Any] = []

    async def lose(
        self: CacheClient, script: Script, keys: Sequence[str], args: Sequence[Any], **options: Any
    ) -> Any:
        answer = await once(self, script, keys, args, **options)
        if script is SCRIPTS["accept_send"] and options.get("precondition") is not None:
            lost.append(answer)
            if logged_out:
                await driver.log_out_elsewhere()
            raise ConnectionLostInFlight("cache", "connection lost")
        return answer

    monkeypatch.setattr(CacheClient, "run_script", lose)
    answer = await driver.ask(SEND, content="once")
    assert len(lost) == 1
    # Stored it is; nobody says that it was not.
    assert answer["errorCode"] == (5003 if logged_out else 0)
    monkeypatch.undo()
    assert await driver.questions() == ["before", "once"]


@pytest.mark.parametrize("remembered", [True, False])
async def test_full_redis_refuses_writes_as_an_outage(
    driver: EndpointDriver, remembered: bool
) -> None:
    """A full Redis refuses writes as an outage however the session was found."""
    if remembered:
        assert (await driver.ask(LIST))["errorCode"] == 0
    redis = driver.chat.redis
    await redis.execute("CONFIG", "SET", "maxmemory", "1")
    try:
        codes = {(await driver.ask(SEND, content="refused"))["errorCode"] for _ in range(2)}
    finally:
        await redis.execute("CONFIG", "SET", "maxmemory", "0")
    # 1001 when it is the send that was refused, 5003 when it is the script that proves the session.
    assert codes == ({5003} if remembered else {1001, 5003})
    assert await driver.questions() == ["before"]
