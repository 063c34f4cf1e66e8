"""The schema of the records (chat_records.py) against the scripts, the keys, and a Redis that is in use."""

from __future__ import annotations

import asyncio
import inspect
import re
import uuid

import pytest

from docs.generate_records import LUA, uses
from template.chat import chat_records
from template.chat.chat_keys import NEWS, ChatKeys
from template.chat.chat_records import ACCOUNT, LANE_MARK, RECORDS, ROOM, field_of, record_of
from template.chat.common.chat_serialize import ChatRoomDeleteRequest
from tests.chat_world import ChatWorld
from tests.openai_stub import Reply
from tests.record_check import check_records
from tests.waiting import until

SENTINELS = ("STALE_GENERATION", "NO_GENERATION", "NO_EVENT", "UNNAMED_VERSION")


def test_scripts_use_only_fields_of_the_schema() -> None:
    unknown = [(use.by, use.record.key, use.field) for use in uses() if not field_of(use.record, use.field)]
    assert unknown == []
    for record in (ROOM, ACCOUNT, LANE_MARK):
        written = {use.field for use in uses() if use.record is record and use.is_write}
        assert {field.name for field in record.fields} == written


def test_schema_has_every_key_of_the_chat() -> None:
    source = inspect.getsource(ChatKeys)
    keys = {re.sub(r"\{(\w+)\}", "x", key) for key in re.findall(r'_key\(f?"([^"]+)"', source)}
    assert [key for key in keys if record_of(key) is None] == []
    assert record_of(NEWS) is None, "a channel"
    names = [record.key.partition("{")[0] for record in RECORDS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", SENTINELS)
def test_sentinels_have_one_value_on_both_sides(name: str) -> None:
    prelude = (LUA / "_prelude.lua").read_text(encoding="utf-8")
    assert f"local {name} = '{getattr(chat_records, name)}'\n" in prelude


def test_sentinels_stand_in_no_script_as_literals() -> None:
    for file in LUA.glob("*.lua"):
        text = re.sub(r"^local [A-Z_]+ = .*$", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert not re.search(r"'epoch', '0'|'-1'|'0-0'", text), file.name


async def test_redis_in_use_has_what_the_schema_says(chat: ChatWorld) -> None:
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
    assert (await chat.template.on_chat_room_delete_req(user, ChatRoomDeleteRequest(room_id=deleted))).errorCode == 0
    names = sorted(await chat.redis.scan(chat.redis.keyspace.pattern("*")))
    kinds = await chat.redis.execute_many([("TYPE", name) for name in names])
    fields = [await chat.redis.execute("HKEYS", n) if k == "hash" else [] for n, k in zip(names, kinds, strict=True)]
    answers = {"TYPE": dict(zip(names, kinds, strict=True)), "HKEYS": dict(zip(names, fields, strict=True))}
    found = check_records(names, lambda command, name: answers[command][name])
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    assert {ROOM.key, ACCOUNT.key, "messages:{room_id}", "turns:{room_id}", "turn_leases"} <= set(found)
