"""The schema of the records (chat_records.py) against the scripts, the keys, and a Redis that is in
use."""

from __future__ import annotations

import asyncio
import inspect
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.template.base.envelope import Response
from base_server.template.chat.cache import keys as chat_keys
from base_server.template.chat.cache import records as chat_records
from base_server.template.chat.cache.keys import SIGNALS
from base_server.template.chat.cache.records import (
    ACCOUNT,
    BACKLOG_WATERMARK,
    FORMAT,
    RECORDS,
    RESERVED,
    ROOM,
    field_of,
    record_of,
)
from base_server.template.chat.common.chat_serialize import (
    ChatMessageDeleteRequest,
    ChatRoomDeleteRequest,
    ChatRoomUpdateRequest,
)
from base_server.template.chat.domain.states import MESSAGE_STATE_CODES, ROOM_STATE_CODES
from docs.generate_records import LUA, uses
from tests.chat_harness import ChatHarness
from tests.openai_stub import Reply
from tests.record_check import check_records
from tests.waiting import until

SENTINELS = ("STALE_GENERATION", "NO_GENERATION", "NO_EVENT", "UNNAMED_VERSION")


def test_scripts_use_only_fields_of_the_schema() -> None:
    unknown = [
        (use.by, use.record.key, use.field) for use in uses() if not field_of(use.record, use.field)
    ]
    assert unknown == []
    for record in (ROOM, ACCOUNT, BACKLOG_WATERMARK):
        written = {use.field for use in uses() if use.record is record and use.is_write}
        assert {field.name for field in record.fields} == written


def test_reserved_fields_are_used_by_no_script() -> None:
    reserved = {field.name for field in RESERVED}
    assert reserved.isdisjoint(use.field for use in uses())
    assert not [name for name in reserved if field_of(ROOM, name)]


def test_schema_has_every_key_of_the_chat() -> None:
    source = inspect.getsource(chat_keys)
    keys = {re.sub(r"\{(\w+)\}", "x", key) for key in re.findall(r'prefix\}([^"]+)"', source)}
    assert [key for key in keys if record_of(key) is None] == []
    assert record_of(SIGNALS) is None, "a channel"
    names = [record.key.partition("{")[0] for record in RECORDS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", SENTINELS)
def test_sentinels_have_one_value_on_both_sides(name: str) -> None:
    prelude = (LUA / "_records.lua").read_text(encoding="utf-8")
    assert f"local {name} = '{getattr(chat_records, name)}'\n" in prelude


def test_state_codes_are_those_of_the_scripts() -> None:
    prelude = (LUA / "_states.lua").read_text(encoding="utf-8")
    table = re.search(r"= \{\n([^}]*COMPOSING = 'C'[^}]*)\}", prelude)
    assert table is not None
    written = {(code, state) for state, code in re.findall(r"(\w+) = '([A-Z])'", table[1])}
    assert written == {*ROOM_STATE_CODES.items(), *MESSAGE_STATE_CODES.items()}


def test_sentinels_stand_in_no_script_as_literals() -> None:
    for file in LUA.rglob("*.lua"):
        text = re.sub(
            r"^local [A-Z_]+ = .*$", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        assert not re.search(r"'epoch', '0'|'-1'|'0-0'", text), file.name


async def test_redis_in_use_has_what_the_schema_says(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user, title=None, client_request_id=str(uuid.uuid4()))
    deleted = (await chat.room(user)).room_id
    await chat.send(user, room.room_id, client_message_id=str(uuid.uuid4()))
    await chat.persist()
    chat.provider.script(Reply(["half"], hang=True))
    running = asyncio.create_task(chat.try_send(user, room.room_id, "one"))
    await until(lambda: chat.provider.calls == 2)
    waiting = asyncio.create_task(chat.try_send(user, room.room_id, "two", on_busy="queue"))
    await until(lambda: chat.redis.scan(chat.redis.keyspace.pattern("turns:*")))
    await until(lambda: chat.redis.scan(chat.redis.keyspace.pattern("reply:*")))
    assert (
        await chat.template.on_chat_room_delete_req(user, ChatRoomDeleteRequest(room_id=deleted))
    ).errorCode == 0
    names = sorted(await chat.redis.scan(chat.redis.keyspace.pattern("*")))
    kinds = await chat.redis.execute_many([("TYPE", name) for name in names])
    fields = [
        await chat.redis.execute("HKEYS", n) if k == "hash" else []
        for n, k in zip(names, kinds, strict=True)
    ]
    answers = {
        "TYPE": dict(zip(names, kinds, strict=True)),
        "HKEYS": dict(zip(names, fields, strict=True)),
    }
    found = check_records(names, lambda command, name: answers[command][name])
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    assert {ROOM.key, ACCOUNT.key, "messages:{room_id}", "turns:{room_id}", "turn_leases"} <= set(
        found
    )


async def content_of(cache: CacheClient) -> dict[str, Any]:
    """All that this harness has in Redis."""
    readers = {"string": ("GET",), "hash": ("HGETALL",), "list": ("LRANGE", 0, -1), "set": ("SMEMBERS",),
               "zset": ("ZRANGE", 0, -1, "WITHSCORES"), "stream": ("XRANGE", "-", "+")}  # fmt: skip
    found = {}
    for name in sorted(await cache.scan(cache.keyspace.pattern("*"))):
        command, *arguments = readers[await cache.execute("TYPE", name)]
        found[name] = repr(await cache.execute(command, name, *arguments))
    return found


@pytest.mark.parametrize("of", ["room", "account"])
async def test_record_of_a_newer_format_is_left_alone(
    chat: ChatHarness, of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server of an older version says why, and writes nothing; it serves when the record is of
    its own format."""
    await chat.hush()
    user = await chat.user()
    room_id = (await chat.room(user)).room_id
    question = await chat.send(user, room_id)
    await chat.persist()
    p = chat.keys.account_partition(user.session.account_id)
    record = (
        chat.keys.room(room_id, p).record
        if of == "room"
        else chat.keys.account(user.session.account_id, p).record
    )
    assert await chat.redis.execute("HGET", record, "format") == str(FORMAT)
    await chat.redis.execute("HSET", record, "format", FORMAT + 1)
    before = await content_of(chat.redis)
    template = chat.template
    rename = ChatRoomUpdateRequest(room_id=room_id, new_title="new")
    delete_message = ChatMessageDeleteRequest(room_id=room_id, message_id=question.message_id)
    delete_room = ChatRoomDeleteRequest(room_id=room_id)
    calls: dict[str, Callable[[], Awaitable[Response]]] = {
        "send": lambda: chat.try_send(user, room_id),
        "delete the room": lambda: template.on_chat_room_delete_req(user, delete_room),
    }
    if of == "room":
        calls |= {
            "rename": lambda: template.on_chat_room_update_req(user, rename),
            "delete a message": lambda: template.on_chat_message_delete_req(user, delete_message),
        }
    for name, call in calls.items():
        response = await call()
        assert response.errorCode in (1001, 5003), (name, response)
        assert await content_of(chat.redis) == before, name
    if of == "room":
        assert (await chat.try_messages(user, room_id)).stale, (
            "from MySQL, as in an outage of Redis"
        )
        assert await content_of(chat.redis) == before
    logged = capsys.readouterr().out
    assert (
        logged.count("a newer version has written records that this server does not know") == 1
    ), "once a minute"
    assert "NEWERFORMAT a record has format 2, this server knows 1: upgrade it" in logged
    await chat.redis.execute("HSET", record, "format", FORMAT)
    await chat.send(user, room_id, "again")
    assert await chat.questions(user, room_id) == ["hello", "again"]


async def test_batch_with_a_record_of_a_newer_format_waits_for_a_newer_server(
    chat: ChatHarness,
) -> None:
    """Its rows are written, which can be done twice; its events stay until a newer server settles
    them."""
    await chat.hush()
    user = await chat.user()
    room_id = (await chat.room(user)).room_id
    await chat.persist()
    await chat.send(user, room_id)
    record = chat.keys.room(room_id, chat.keys.account_partition(user.session.account_id)).record
    await chat.redis.execute("HSET", record, "format", FORMAT + 1)
    backlog = await chat.backlog()
    for _ in range(2):
        await chat.template.parts.consumer.write_waiting()
        await until(lambda: not chat.template.parts.consumer.draining)
        assert await chat.backlog() == backlog
    await chat.redis.execute("HSET", record, "format", FORMAT)
    await chat.persist()
    assert [row["seq"] for row in await chat.rows(user, "fp_chat_window_get", room_id, 10)] == [
        1,
        2,
    ]


async def test_reply_whose_record_becomes_newer_is_not_written(chat: ChatHarness) -> None:
    """Its process goes on when the record is of its own format again, as after an outage."""
    await chat.hush()
    user = await chat.user()
    room_id = (await chat.room(user)).room_id
    chat.provider.script(Reply(["half ", "whole"], delay_s=0.2))
    sending = asyncio.create_task(chat.try_send(user, room_id))
    await until(lambda: chat.provider.calls == 1)
    record = chat.keys.room(room_id, chat.keys.account_partition(user.session.account_id)).record
    await chat.redis.execute("HSET", record, "format", FORMAT + 1)
    await until(lambda: chat.provider.requests[0].finished)
    await asyncio.sleep(0.3)
    assert await chat.redis.execute("HGET", record, "turn_token")
    await chat.redis.execute("HSET", record, "format", FORMAT)
    response = await sending
    assert response.message is not None
    assert response.message.content == "half whole"
