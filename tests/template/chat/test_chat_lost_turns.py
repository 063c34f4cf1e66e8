"""Replies whose room has to be read from the database: they go on, nobody waits for them, nobody is asked twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.db.db_settings import DatabaseSettings
from template.base.client_session import ClientSession
from template.chat.chat_message_store import NewMessage
from template.chat.chat_turn_store import TurnStore
from template.chat.common.chat_serialize import ChatMessageSendResponse, ChatMessageStopRequest
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_world import ChatWorld, running_world
from tests.openai_stub import OpenAIStub, Reply
from tests.template.chat.test_chat_settling import keys_for_good
from tests.waiting import PATIENCE_S, until

# Nobody in these tests waits so long for a load or for the reply; its process lives, so its lease does not run out.
NEVER = {"load_timeout_s": 300, "reply_deadline_s": 300, "reply_lease_s": 6}
SOON_S = PATIENCE_S


async def half_said(chat: ChatWorld, user: ClientSession, room_id: str) -> list[asyncio.Task[ChatMessageSendResponse]]:
    """A reply that has said "half " and hangs, and a question that waits behind it; both asked and not answered."""
    chat.provider.script(Reply(tokens=["half "], hang=True))
    sends = []
    for n in range(2):
        sends.append(asyncio.create_task(chat.try_send(user, room_id, f"q{n}")))

        async def listed(n: int = n) -> bool:
            messages = (await chat.messages(user, room_id)).messages
            return len(messages) == 2 * n + 4 and messages[3].content == "half "

        await until(listed, SOON_S)
    return sends


async def goes_on(chat: ChatWorld, user: ClientSession, room_id: str, *, first: str = "") -> None:
    """The room is served at once; the reply that hangs is stopped (or has ended), the one behind it is asked.

    ``first``: how the hanging reply has ended, if it did."""
    async with asyncio.timeout(SOON_S):
        messages = (await chat.messages(user, room_id)).messages
        assert [message.content for message in messages][:4] == ["first", "said", "q0", "half "]
        assert [message.seq for message in messages] == [1, 2, 3, 4, 5, 6]
        if messages[3].is_streaming:
            assert first != "interrupted"
            stop = ChatMessageStopRequest(room_id=room_id, message_id=messages[3].message_id)
            assert (await chat.template.on_chat_message_stop_req(user, stop)).errorCode == 0

        async def answered() -> bool:
            found = (await chat.messages(user, room_id)).messages
            return not any(message.is_streaming for message in found)

        await until(answered, SOON_S)
        messages = (await chat.messages(user, room_id)).messages
        assert messages[3].metadata["finish_reason"] in ({first} if first else {"stopped", "interrupted"})
        assert [message.content for message in messages][4:] == ["q1", "stub: q1"]
        await chat.send(user, room_id, "next")
    assert (await chat.rooms(user)).rooms[0].message_count == 8


async def all_written(chat: ChatWorld, user: ClientSession, room_id: str) -> None:
    await chat.persist()
    rows = await chat.rows(user, "fp_chat_window_get", room_id, 100)
    assert [row["seq"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["content"] for row in rows][3:] == ["half ", "q1", "stub: q1", "next", "stub: next"]
    assert await keys_for_good(chat) == []


async def asked_once(chat: ChatWorld) -> None:
    asked = [request.messages[-1]["content"] for request in chat.provider.requests]
    assert sorted(asked) == ["first", "next", "q0", "q1"]


@pytest.fixture
async def crashable(
    private_server: RedisServer, tmp_path: Path, app_id: str, provider: OpenAIStub
) -> AsyncIterator[ChatWorld]:
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with running_world(private_server.settings(), database, app_id, provider, **NEVER) as world:
        yield world


@pytest.mark.parametrize("written", [False, True], ids=["nothing written", "question written"])
async def test_a_room_is_served_at_once_when_redis_restarted_while_its_reply_ran(
    crashable: ChatWorld, private_server: RedisServer, written: bool
) -> None:
    chat, user = crashable, await crashable.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["said"]))
    await chat.send(user, room.room_id, "first")
    sends = await half_said(chat, user, room.room_id)
    if written:
        await chat.persist()
    await asyncio.to_thread(private_server.kill)
    await asyncio.to_thread(private_server.start)
    await goes_on(chat, user, room.room_id, first="stopped")
    async with asyncio.timeout(SOON_S):
        assert [response.errorCode for response in await asyncio.gather(*sends)] == [0, 0]
    await all_written(chat, user, room.room_id)
    await asked_once(chat)


DAMAGES = {
    "new run": [],
    "record gone": ["room_record"],
    "list gone": ["messages"],
    "record of another type": ["room_record!"],
    "list of another type": ["messages!"],
    "waiting turns of another type": ["turns!"],
}


@pytest.mark.chat_settings(**NEVER)
@pytest.mark.parametrize("damage", DAMAGES)
async def test_replies_outlive_what_redis_knew_of_their_room(chat: ChatWorld, damage: str) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["said"]))
    await chat.send(user, room.room_id, "first")
    await half_said(chat, user, room.room_id)
    for name in DAMAGES[damage]:
        key = getattr(chat.keys, name.rstrip("!"))(room.room_id)
        await chat.redis.execute("DEL", key)
        if name.endswith("!"):
            await chat.redis.execute("ZADD", key, 1, "x")
    if damage == "new run":
        await chat.redis.execute("INCR", chat.keys.epoch(chat.keys.account_partition(user.session.account_id)))
    await goes_on(chat, user, room.room_id, first="" if "record" in damage else "stopped")
    await all_written(chat, user, room.room_id)
    await asked_once(chat)


@pytest.mark.chat_settings(**NEVER)
@pytest.mark.parametrize(
    ("field", "value"), [("shard", None), ("owner", "nobody"), ("turn", "nonsense"), ("turn", "|||||")]
)
async def test_a_turn_that_cannot_be_read_does_not_keep_others_open(
    chat: ChatWorld, field: str, value: str | None
) -> None:
    user = await chat.user()
    rooms = [await chat.room(user) for _ in range(2)]
    for room in rooms:
        chat.provider.script(Reply(tokens=["said"]))
        await chat.send(user, room.room_id, "first")
        await half_said(chat, user, room.room_id)
    record = chat.keys.room_record(rooms[0].room_id)
    await chat.redis.execute(*(("HDEL", record, field) if value is None else ("HSET", record, field, value)))
    turns = TurnStore(chat.redis, chat.template._parts.messages._lanes, chat.template._wiring.settings)
    assert [found.turn.room_id for found in await turns.expired(all_open=True)] == [rooms[1].room_id]


@pytest.mark.chat_settings(**NEVER)
async def test_somebody_elses_request_does_not_end_a_reply(chat: ChatWorld) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["said"]))
    await chat.send(user, room.room_id, "first")
    await chat.persist()
    await half_said(chat, user, room.room_id)
    stranger = await chat.user()
    while chat.keys.account_partition(stranger.session.account_id) != chat.keys.account_partition(
        user.session.account_id
    ):
        stranger = await chat.user()
    await chat.redis.execute("DEL", chat.keys.room_record(room.room_id))
    async with asyncio.timeout(SOON_S):
        assert (await chat.try_messages(stranger, room.room_id)).errorCode == 1004
    waiting = await chat.redis.execute("LRANGE", chat.keys.messages(room.room_id), 2, -1)
    assert [text.count('"is_streaming":true') for text in waiting] == [0, 1, 0, 1]
    await goes_on(chat, user, room.room_id)


async def test_everything_that_was_streamed_of_an_interrupted_reply_is_kept(chat: ChatWorld) -> None:
    user = await chat.user()
    room = await chat.room(user)
    parts, owner = chat.template._parts, await chat.template._owner(user)
    ids = [chat.keys.new_id(owner.partition) for _ in range(3)]
    accepted = await parts.messages.accept(owner, room.room_id, NewMessage(*ids, "q", None, None, "queue"))
    assert accepted.turn is not None
    turns = TurnStore(chat.redis, parts.messages._lanes, chat.template._wiring.settings)
    await turns.append(accepted.turn, "claim", 0, "said ", "")
    await turns.append(accepted.turn, "claim", 5, "meanwhile", "")
    assert await turns.interrupt(accepted.turn) is not None
    reply = (await chat.messages(user, room.room_id)).messages[1]
    assert (reply.content, reply.is_streaming) == ("said meanwhile", False)
