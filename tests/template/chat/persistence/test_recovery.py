"""What the chat does when Redis or the database was away, came back empty or old, or refuses an
event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from base_server.service.db.db_settings import DatabaseSettings
from base_server.template.chat.domain.events import QUEUE_NAME
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub
from tests.waiting import PATIENCE_S, until


@pytest.fixture
async def crashable(
    private_server: RedisServer, tmp_path: Path, app_id: str, provider: OpenAIStub
) -> AsyncIterator[ChatHarness]:
    """A chat whose Redis the test may kill, over SQLite files of its own."""
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with running_harness(private_server.settings(), database, app_id, provider) as harness:
        yield harness


async def test_a_killed_redis_comes_back_whole_and_nothing_is_missing(
    crashable: ChatHarness, private_server: RedisServer
) -> None:
    chat, user = crashable, await crashable.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "persisted")
    await chat.persist()
    await chat.send(user, room.room_id, "only in redis")
    private_server.kill()
    stale = await chat.messages(user, room.room_id)
    assert stale.stale
    assert [message.content for message in stale.messages if message.sender_type == "USER"] == [
        "persisted"
    ]
    assert (await chat.rooms(user)).stale
    assert (await chat.try_send(user, room.room_id, "refused")).errorCode in (1001, 5003)
    private_server.start()
    assert await chat.questions(user, room.room_id) == ["persisted", "only in redis"]
    await chat.send(user, room.room_id, "after")
    page = await chat.messages(user, room.room_id)
    assert not page.stale
    assert [message.seq for message in page.messages] == [1, 2, 3, 4, 5, 6]


async def test_a_stale_first_page_is_full_whatever_was_deleted(
    crashable: ChatHarness, private_server: RedisServer
) -> None:
    chat, user = crashable, await crashable.user()
    room = await chat.room(user)
    for n in range(4):
        await chat.send(user, room.room_id, f"{n}")
    everything = (await chat.messages(user, room.room_id)).messages
    for message in everything[-3:]:
        assert await chat.delete_message(user, room.room_id, message.message_id) == 0
    await chat.persist()
    private_server.kill()
    page = await chat.messages(user, room.room_id, limit=3)
    assert [message.message_id for message in page.messages] == [
        message.message_id for message in everything[2:5]
    ]
    assert (page.stale, page.has_more) == (True, True)
    private_server.start()
    older = await chat.messages(user, room.room_id, limit=3, cursor=page.next_cursor)
    assert [message.message_id for message in older.messages] == [
        message.message_id for message in everything[:2]
    ]


async def test_an_empty_redis_is_not_taken_for_the_truth(
    crashable: ChatHarness, private_server: RedisServer
) -> None:
    chat, user = crashable, await crashable.user()
    rooms = [await chat.room(user) for _ in range(3)]
    await chat.send(user, rooms[0].room_id, "in the database")
    await chat.persist()
    private_server.kill()
    for file in private_server.folder.glob("appendonlydir/*"):
        file.unlink()
    private_server.start()
    assert await chat.questions(user, rooms[0].room_id) == ["in the database"]
    assert (await chat.rooms(user)).total_count == 3
    await chat.send(user, rooms[0].room_id, "next")
    assert [message.seq for message in (await chat.messages(user, rooms[0].room_id)).messages] == [
        1,
        2,
        3,
        4,
    ]


async def test_a_flushed_redis_is_not_taken_for_the_truth(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "in the database")
    await chat.persist()
    await chat.forget_everything()
    assert await chat.questions(user, room.room_id) == ["in the database"]
    await chat.send(user, room.room_id, "next")
    assert (await chat.rooms(user)).total_count == 1
    await chat.persist()
    assert await chat.questions(user, room.room_id) == ["in the database", "next"]


async def test_an_old_redis_is_not_taken_for_the_truth(
    crashable: ChatHarness, private_server: RedisServer
) -> None:
    chat, user = crashable, await crashable.user()
    room, doomed = await chat.room(user), await chat.room(user)
    deleted = await chat.send(user, room.room_id, "deleted later")
    await chat.persist()
    private_server.kill()
    old = {file: file.read_bytes() for file in private_server.folder.glob("appendonlydir/*")}
    private_server.start()
    await chat.send(user, room.room_id, "saved after the copy")
    await chat.delete_message(user, room.room_id, deleted.message_id)
    late = await chat.room(user)
    from base_server.template.chat.common.chat_serialize import ChatRoomDeleteRequest  # noqa: PLC0415

    await chat.template.on_chat_room_delete_req(user, ChatRoomDeleteRequest(room_id=doomed.room_id))
    await chat.persist()
    private_server.kill()
    for file in private_server.folder.glob("appendonlydir/*"):
        file.unlink()
    for file, content in old.items():
        file.write_bytes(content)
    private_server.start()
    assert await chat.questions(user, room.room_id) == ["saved after the copy"]
    assert {found.room_id for found in (await chat.rooms(user)).rooms} == {
        room.room_id,
        late.room_id,
    }
    assert (await chat.try_messages(user, doomed.room_id)).errorCode == 1004
    await chat.send(user, room.room_id, "next")
    seqs = [message.seq for message in (await chat.messages(user, room.room_id)).messages]
    assert seqs == [2, 3, 4, 5, 6]


async def test_chat_goes_on_without_the_database_and_is_written_later(
    valkey_server: RedisServer, private_mariadb: DatabaseBackend, app_id: str, provider: OpenAIStub
) -> None:
    """Chat goes on while the database is away and is written when it is back."""
    assert private_mariadb.server is not None
    backend = replace(private_mariadb)
    async with running_harness(
        valkey_server.settings(), backend, app_id, provider, batch_interval_s=0.1
    ) as chat:
        user = await chat.user()
        room = await chat.room(user)
        private_mariadb.server.kill()
        for n in range(5):
            await chat.send(user, room.room_id, f"m{n}")
        assert await chat.questions(user, room.room_id) == [f"m{n}" for n in range(5)]
        assert await chat.backlog() >= 10
        health = {check.name: check.health.value for check in await chat.template.readiness()}
        assert health == {"chat_consumer": "ok"}
        private_mariadb.server.start()

        async def written() -> bool:
            return await chat.backlog() == 0

        await until(written)
        rows = await chat.rows(user, "fp_chat_messages_get", room.room_id, None, 100)
        assert [row["seq"] for row in reversed(rows)] == list(range(1, 11))


async def test_an_event_of_no_known_type_is_a_dead_letter_and_stops_nobody(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    sick, healthy = await chat.room(user), await chat.room(user)
    await chat.send(user, sick.room_id, "fine", client_message_id="once")
    await chat.persist()
    queue = chat.container.queue
    message_data = {
        "message_id": "x",
        "room_id": sick.room_id,
        "sender_type": "USER",
        "content": "client id is taken",
    }
    await queue.send_message(
        QUEUE_NAME,
        {
            "account_db_key": user.session.account_db_key,
            "shard_id": user.session.shard_id,
            "client_message_id": "once",
            "message_data": message_data,
        },
        "CHAT_MESSAGE_SAVE",
    )
    await queue.send_message(QUEUE_NAME, {"room_id": healthy.room_id}, "CHAT_NONSENSE")
    await chat.send(user, healthy.room_id, "goes on")
    await chat.persist()
    (letter,) = await queue.dead_letters(QUEUE_NAME)
    assert "CHAT_NONSENSE" in letter.reason
    # A client id that is taken is none for this message: it is stored without.
    assert await chat.questions(user, sick.room_id) == ["fine", "client id is taken"]
    assert await chat.questions(user, healthy.room_id) == ["goes on"]
    rows = await chat.rows(user, "fp_chat_messages_get", healthy.room_id, None, 10)
    assert len(rows) == 2


@pytest.mark.chat_settings(batch_interval_s=0.05)
async def test_two_processes_write_one_stream_once(
    backends: tuple[object, DatabaseBackend], chat: ChatHarness, app_id: str, provider: OpenAIStub
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    # A second set of services on the same servers, as another process would have it.
    async with running_harness(*backends, app_id, provider, batch_interval_s=0.05) as other:  # type: ignore[arg-type]
        worlds = (chat, other)
        await asyncio.gather(*(worlds[n % 2].send(user, room.room_id, f"m{n}") for n in range(8)))
        for harness in worlds:
            seqs = [
                message.seq
                for message in (await harness.messages(user, room.room_id, limit=50)).messages
            ]
            assert seqs == list(range(1, 17))
        await chat.persist()
    rows = await chat.rows(user, "fp_chat_messages_get", room.room_id, None, 100)
    assert [row["seq"] for row in reversed(rows)] == list(range(1, 17))
    assert await chat.container.queue.dead_letters(QUEUE_NAME) == []


_OF_ANY_KEY = ["room.messages", "room.record", "room.json", "room.state", "message.state"]
_OF_ANY_KEY += ["account.record", "account.rooms", "account.order"]
_DAMAGES = [(key, "wrong type") for key in _OF_ANY_KEY]
_DAMAGES += [
    (key, "undecodable") for key in ("room.messages", "room.json", "room.state", "message.state")
]
_DAMAGES += [(key, "shortened") for key in ("room.messages", "account.rooms", "account.order")]


@pytest.mark.parametrize("persisted", [True, False])
@pytest.mark.parametrize(("key", "damage"), _DAMAGES)
async def test_a_damaged_key_counts_as_a_miss(
    chat: ChatHarness, key: str, damage: str, persisted: bool
) -> None:
    user = await chat.user()
    room, other = await chat.room(user), await chat.room(user)
    await chat.send(user, room.room_id, "one")
    message = await chat.send(user, room.room_id, "two")
    if persisted:
        await chat.persist()
    of, part = key.split(".")
    bound = {
        "room": chat.keys.room(room.room_id),
        "account": chat.keys.account(user.session.account_id),
    }
    name = (
        chat.keys.message_state(message.message_id) if of == "message" else getattr(bound[of], part)
    )
    if damage == "wrong type":
        await chat.redis.execute("DEL", name)
        await chat.redis.execute(
            *(("SADD", name, "x") if key == "account.order" else ("ZADD", name, 1, "x"))
        )
    elif damage == "shortened":
        pop = {"room.messages": "LPOP", "account.rooms": "SPOP", "account.order": "ZPOPMIN"}[key]
        await chat.redis.execute(pop, name)
    elif key == "room.messages":
        await chat.redis.execute("LSET", name, 2, '{"message_id":"x","seq":}')
    else:
        await chat.redis.execute("SET", name, "{not json")
    if not persisted:
        # What is not in the database yet is written first; nothing else can know it.
        flushing = asyncio.create_task(chat.persist())
    assert await chat.questions(user, room.room_id) == ["one", "two"]
    assert {found.room_id for found in (await chat.rooms(user)).rooms} == {
        room.room_id,
        other.room_id,
    }
    await chat.send(user, room.room_id, "three")
    assert await chat.questions(user, room.room_id) == ["one", "two", "three"]
    if not persisted:
        await flushing
    await chat.persist()
    assert (await chat.rooms(user)).rooms[0].message_count == 6
