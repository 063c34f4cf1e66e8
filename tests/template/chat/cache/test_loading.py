"""Loads that meet: other processes, writes, and records that are gone although they should not
be."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from base_server.service.db.database_service import DatabaseService
from base_server.template.base.client_session import ClientSession
from base_server.template.base.session_info import SessionInfo
from base_server.template.chat.domain.states import RoomState
from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub


@pytest.mark.parametrize("what", ["room", "account"])
async def test_processes_that_load_the_same_at_once_do_not_hinder_each_other(
    backends: tuple[Any, DatabaseBackend],
    chat: ChatHarness,
    app_id: str,
    provider: OpenAIStub,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "cold")
    await chat.persist()
    keys, account = chat.keys, user.session.account_id
    await chat.redis.execute("DEL", keys.room(room.room_id).record, keys.account(account).record)
    calls = 0

    def slow_down(database: DatabaseService) -> None:
        call = database.call_shard_procedure

        async def slow(*args: Any) -> list[dict[str, Any]]:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0.1)
            return await call(*args)

        monkeypatch.setattr(database, "call_shard_procedure", slow)

    async with AsyncExitStack() as stack:
        worlds = [
            await stack.enter_async_context(running_harness(*backends, app_id, provider))
            for _ in range(3)
        ]
        for harness in worlds:
            slow_down(harness.container.database)

        async def read(index: int, harness: ChatHarness) -> int:
            await asyncio.sleep(index * 0.07)  # each begins while another reads the database
            if what == "room":
                return len((await harness.messages(user, room.room_id)).messages)
            return (await harness.rooms(user)).total_count

        answers = await asyncio.gather(
            *(read(index, harness) for index, harness in enumerate(worlds))
        )
        assert answers == [2 if what == "room" else 1] * 3
        assert calls <= 2 * len(worlds)  # a room is read with two calls, and an account


@pytest.mark.parametrize("lost", ["room_record", "account_record"])
async def test_lost_record_with_waiting_events_is_not_loaded_too_early(
    chat: ChatHarness, lost: str
) -> None:
    """A record that is gone while its events wait is not read from the database too early."""
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "one")
    await chat.persist()
    await chat.send(user, room.room_id, "two")
    other = await chat.room(user)
    keys = chat.keys
    name = (
        keys.room(room.room_id).record
        if lost == "room_record"
        else keys.account(user.session.account_id).record
    )
    await chat.redis.execute("DEL", name)
    await chat.send(user, room.room_id, "three")
    assert await chat.questions(user, room.room_id) == ["one", "two", "three"]
    assert {found.room_id for found in (await chat.rooms(user)).rooms} == {
        room.room_id,
        other.room_id,
    }
    await chat.persist()
    rows = await chat.rows(user, "fp_chat_messages_get", room.room_id, None, 10)
    assert [row["seq"] for row in rows] == [6, 5, 4, 3, 2, 1]
    assert await chat.container.queue.dead_letters("chat_persistence") == []


@pytest.mark.parametrize("what", ["room", "account"])
async def test_a_load_that_read_before_a_write_does_not_bring_back_what_was_then(
    backends: tuple[Any, DatabaseBackend],
    chat: ChatHarness,
    app_id: str,
    provider: OpenAIStub,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "one")
    await chat.persist()
    keys = chat.keys
    name = (
        keys.room(room.room_id).record
        if what == "room"
        else keys.account(user.session.account_id).record
    )
    last_read = "fp_chat_window_get" if what == "room" else "fp_chat_rooms_get"
    await chat.redis.execute("DEL", name)
    has_read, goes_on = asyncio.Event(), asyncio.Event()
    async with running_harness(*backends, app_id, provider) as slow:
        call = slow.container.database.call_shard_procedure

        async def held_up(shard_id: int, procedure: str, params: Any = ()) -> list[dict[str, Any]]:
            rows = await call(shard_id, procedure, params)
            if procedure == last_read:
                has_read.set()
                await goes_on.wait()
            return rows

        monkeypatch.setattr(slow.container.database, "call_shard_procedure", held_up)
        reading = asyncio.create_task(
            slow.questions(user, room.room_id) if what == "room" else slow.rooms(user)  # type: ignore[arg-type]
        )
        await has_read.wait()
        # Another process loads the same, writes, has it written, and all of it expires.
        await chat.send(user, room.room_id, "two")
        other = await chat.room(user)
        await chat.persist()
        await chat.redis.execute("DEL", name)
        goes_on.set()
        answer = await reading
    if what == "room":
        assert answer == ["one", "two"]
        assert await chat.questions(user, room.room_id) == ["one", "two"]
    else:
        rooms = {room.room_id, other.room_id}
        assert {found.room_id for found in answer.rooms} == rooms
        assert {found.room_id for found in (await chat.rooms(user)).rooms} == rooms


async def test_waiting_events_are_written_before_a_new_redis_run_loads(
    chat: ChatHarness,
) -> None:
    """What a new Redis run finds waiting is written before anything is loaded."""
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "one")
    await chat.persist()
    await chat.send(user, room.room_id, "two")
    keys = chat.keys
    # The stream came back, what belongs to it did not.
    lost = [
        keys.room(room.room_id).record,
        keys.room(room.room_id).messages,
        keys.room(room.room_id).json,
    ]
    lost += [
        keys.account(user.session.account_id).record,
        keys.account(user.session.account_id).rooms,
    ]
    await chat.redis.execute("DEL", *lost, keys.account(user.session.account_id).order)
    await chat.redis.execute(
        "INCR", keys.partition(keys.account_partition(user.session.account_id)).generation
    )
    assert await chat.questions(user, room.room_id) == ["one", "two"]
    await chat.send(user, room.room_id, "three")
    assert [found.message_count for found in (await chat.rooms(user)).rooms] == [6]


async def test_deleting_room_is_not_loaded_from_the_database(
    chat: ChatHarness,
) -> None:
    """What is being deleted is not loaded though the database still has it."""
    user = await chat.user()
    kept, gone = await chat.room(user), await chat.room(user)
    await chat.send(user, gone.room_id, "one")
    await chat.persist()
    # As a host's own code does it, which knows the state alone.
    assert await chat.template.parts.states.transition_room(gone.room_id, RoomState.DELETING)
    keys, account = chat.keys, user.session.account_id
    await chat.redis.execute("DEL", keys.room(gone.room_id).record, keys.account(account).record)
    assert [room.room_id for room in (await chat.rooms(user)).rooms] == [kept.room_id]
    assert (await chat.try_messages(user, gone.room_id)).errorCode == 1004
    assert (await chat.try_send(user, gone.room_id)).errorCode == 1004


async def test_a_new_room_without_its_keys_is_found_while_its_create_waits(
    chat: ChatHarness,
) -> None:
    """cases/faults.md U9: it was 1004 until the next batch."""
    user = await chat.user()
    await chat.rooms(user)
    room_id = (await chat.room(user)).room_id
    keys = chat.keys
    await chat.redis.execute(
        "DEL",
        keys.room(room_id).record,
        keys.room(room_id).messages,
        keys.room(room_id).json,
        keys.room(room_id).state,
    )
    assert await chat.backlog() > 0
    assert (await chat.messages(user, room_id)).messages == []
    await chat.send(user, room_id, "still there")


async def test_list_of_an_account_that_is_gone_is_not_that_of_its_name(chat: ChatHarness) -> None:
    """cases/faults.md U11: keys of the list bear the account's name, the record says whose list it
    is."""
    gone = await chat.user()
    room = await chat.room(gone, "secret", client_request_id="request-1")
    await chat.send(gone, room.room_id, "secret")
    assert (await chat.rooms(gone)).total_count == 1
    session = gone.session
    for shard_id in (session.shard_id, 3 - session.shard_id):
        key = session.account_db_key + shard_id
        namesake = ClientSession(SessionInfo(session.account_id, key, shard_id))
        persisting = asyncio.create_task(
            chat.persist()
        )  # the list may have to wait for the other's events
        assert (await chat.rooms(namesake)).total_count == 0
        await persisting
        assert (await chat.try_messages(namesake, room.room_id)).errorCode == 1004
        assert (await chat.try_send(namesake, room.room_id)).errorCode == 1004
        own = await chat.room(namesake, "own", client_request_id="request-1")
        assert [listed.room_id for listed in (await chat.rooms(namesake)).rooms] == [own.room_id]
        await chat.persist()
        assert [listed.room_id for listed in (await chat.rooms(gone)).rooms] == [room.room_id]
