"""What is asked again, by a client or by ourselves: after deletes, after a Redis that forgot, with
a client's wrong clock, and when something else happened in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.redis_client.script import Script
from base_server.template.chat.cache.scripts import SCRIPTS
from base_server.template.chat.common.chat_serialize import (
    ChatRoomCreateRequest,
    ChatRoomDeleteRequest,
    ChatRoomUpdateRequest,
)
from base_server.template.chat.messages.repository import NewMessage
from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import PERSONA, ChatHarness, running_harness
from tests.openai_stub import OpenAIStub
from tests.template.chat.messages.test_writes import uuid7


@pytest.mark.chat_settings(window=4)
@pytest.mark.parametrize("what", ["question", "reply"])
@pytest.mark.parametrize("persisted", [True, False])
async def test_a_repeated_send_does_not_bring_back_what_was_deleted(
    chat: ChatHarness, what: str, persisted: bool
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    first = await chat.try_send(user, room.room_id, "deleted", client_message_id="c")
    for n in range(4):
        await chat.send(user, room.room_id, f"later {n}")
    await chat.persist()
    message = first.user_message if what == "question" else first.message
    assert message is not None
    assert await chat.delete_message(user, room.room_id, message.message_id) == 0
    if persisted:
        await chat.persist()
    again = await chat.try_send(user, room.room_id, "deleted", client_message_id="c")
    assert again.errorCode == 1008
    assert (again.user_message, again.message) == (None, None)
    assert chat.provider.calls == 5


@pytest.mark.parametrize(
    "goes_on", [False, True], ids=["nothing behind it", "its number given again"]
)
async def test_send_whose_reply_redis_lost_gets_no_other_message(
    chat: ChatHarness, goes_on: bool
) -> None:
    """cases/faults.md U5: its process is gone too, and may have asked."""
    user = await chat.user()
    room = await chat.room(user)
    caller = await chat.template.caller_of(user)
    ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
    message = NewMessage(*ids, "question", None, "c", "queue")
    await chat.template.parts.messages.accept(caller, room.room_id, message)
    await chat.persist()  # the question; its reply runs
    await chat.forget_everything()
    if goes_on:
        await chat.send(user, room.room_id, "another")
    again = await chat.try_send(user, room.room_id, "question", client_message_id="c")
    assert again.errorCode == 0
    assert again.message is not None
    assert (again.message.content, again.message.metadata["finish_reason"]) == ("", "interrupted")
    assert again.message.seq == 2
    assert (await chat.questions(user, room.room_id)) == (
        ["question", "another"] if goes_on else ["question"]
    )


@pytest.mark.chat_settings(window=4)
@pytest.mark.parametrize("reloaded", ["never", "whole", "without it"])
async def test_a_clients_clock_that_ran_ahead_does_not_make_a_send_twice(
    chat: ChatHarness, reloaded: str
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    client_id = uuid7(int((await chat.redis.execute("TIME"))[0]) * 1000 + 3_600_000)
    first = await chat.try_send(user, room.room_id, "early", client_message_id=client_id)
    record = chat.keys.room(room.room_id).record
    if reloaded == "whole":
        await chat.persist()
        await chat.redis.execute("DEL", record)
    for n in range(4):
        await chat.send(user, room.room_id, f"later {n}")
    await chat.persist()
    if reloaded == "without it":
        await chat.redis.execute("DEL", record)
        await chat.send(user, room.room_id, "loads the room")
    # The hour goes by: the newest message is later than the client's id.
    order = chat.keys.account(user.session.account_id).order
    later = int((await chat.redis.execute("TIME"))[0]) * 1000 + 7_200_000
    await chat.redis.execute("ZADD", order, later, room.room_id)
    again = await chat.try_send(user, room.room_id, "early", client_message_id=client_id)
    assert again.user_message is not None
    assert first.user_message is not None
    assert again.user_message.message_id == first.user_message.message_id


async def an_hour_passes(chat: ChatHarness, account_id: str, room_id: str, hours: int = 2) -> None:
    """For the account: what happens next is later than its newest activity."""
    later = (int((await chat.redis.execute("TIME"))[0]) + hours * 3600) * 1000
    await chat.redis.execute("ZADD", chat.keys.account(account_id).order, later, room_id)


@pytest.mark.parametrize("deleted", [True, False])
async def test_a_clients_clock_that_ran_ahead_does_not_make_a_room_twice(
    chat: ChatHarness, deleted: bool
) -> None:
    user, keys = await chat.user(), chat.keys
    account = user.session.account_id
    other = await chat.room(user)
    request_id = uuid7(int((await chat.redis.execute("TIME"))[0]) * 1000 + 3_600_000)
    first = await chat.room(user, "early", client_request_id=request_id)
    if deleted:
        gone = ChatRoomDeleteRequest(room_id=first.room_id)
        assert (await chat.template.on_chat_room_delete_req(user, gone)).errorCode == 0
    await chat.persist()
    await chat.redis.execute("DEL", keys.account(account).record, keys.account(account).rooms)
    assert (await chat.rooms(user)).total_count == 1 + (not deleted)
    await an_hour_passes(chat, account, other.room_id)
    request = ChatRoomCreateRequest(ai_persona=PERSONA, title="early", client_request_id=request_id)
    again = await chat.template.on_chat_room_create_req(user, request)
    if deleted:
        assert again.errorCode == 1004
    else:
        assert again.room is not None
        assert again.room.room_id == first.room_id
    await chat.persist()
    assert await chat.container.queue.dead_letters("chat_persistence") == []


@asynccontextmanager
async def held_behind(
    harness: ChatHarness, procedure: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[asyncio.Event, asyncio.Event]]:
    """(has read, goes on): this harness's first call of ``procedure`` has its answer and waits."""
    database, has_read, goes_on = harness.container.database, asyncio.Event(), asyncio.Event()
    call = database.call_shard_procedure

    async def held(shard_id: int, name: str, params: Any = ()) -> list[dict[str, Any]]:
        rows = await call(shard_id, name, params)
        if name == procedure and not has_read.is_set():
            has_read.set()
            await goes_on.wait()
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(database, "call_shard_procedure", held)
        yield has_read, goes_on


@pytest.mark.chat_settings(window=4)
async def test_unknown_send_is_looked_up_again_when_the_window_moved(
    backends: tuple[Any, DatabaseBackend],
    chat: ChatHarness,
    app_id: str,
    provider: OpenAIStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A send that the database did not know is asked for again when the window went on."""
    user = await chat.user()
    room = await chat.room(user)
    for n in range(4):
        await chat.send(user, room.room_id, f"before {n}")
    await chat.persist()  # the window is shorter than the room
    async with (
        running_harness(*backends, app_id, provider, window=4) as slow,
        held_behind(slow, "fp_chat_message_find_client", monkeypatch) as (has_read, goes_on),
    ):
        late = asyncio.create_task(slow.try_send(user, room.room_id, "once", client_message_id="c"))
        await has_read.wait()
        first = await chat.send(user, room.room_id, "once", client_message_id="c")
        for n in range(4):
            await chat.send(user, room.room_id, f"later {n}")
        await chat.persist()
        goes_on.set()
        response = await late
    assert response.errorCode == 0, response.error
    assert response.user_message is not None
    assert response.user_message.message_id == first.message_id
    await chat.persist()
    assert await chat.container.queue.dead_letters("chat_persistence") == []
    assert (await chat.questions(user, room.room_id)).count("once") == 1


async def test_unknown_room_is_looked_up_again_after_the_list_was_reloaded(
    backends: tuple[Any, DatabaseBackend],
    chat: ChatHarness,
    app_id: str,
    provider: OpenAIStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A room that the database did not know is asked for again when the list was loaded again."""
    user, keys = await chat.user(), chat.keys
    account = user.session.account_id
    async with (
        running_harness(*backends, app_id, provider) as slow,
        held_behind(slow, "fp_chat_room_find_request", monkeypatch) as (has_read, goes_on),
    ):
        late = asyncio.create_task(slow.room(user, "once", client_request_id="r"))
        await has_read.wait()
        first = await chat.room(user, "once", client_request_id="r")
        await chat.persist()
        await chat.redis.execute("DEL", keys.account(account).record, keys.account(account).rooms)
        assert (await chat.rooms(user)).total_count == 1
        # As if its room had been deleted, which the new list does not have either.
        await chat.redis.execute("HDEL", keys.account(account).record, "r:r")
        goes_on.set()
        assert (await late).room_id == first.room_id
    await chat.persist()
    assert await chat.container.queue.dead_letters("chat_persistence") == []


@pytest.mark.parametrize("reloaded", [False, True])
async def test_own_repeat_of_a_rename_restores_no_older_title(
    backends: tuple[Any, DatabaseBackend],
    chat: ChatHarness,
    app_id: str,
    provider: OpenAIStub,
    monkeypatch: pytest.MonkeyPatch,
    reloaded: bool,
) -> None:
    """A rename repeated by ourselves does not bring back the older title."""
    user, keys = await chat.user(), chat.keys
    room = await chat.room(user)
    once = CacheClient.run_script
    lost: list[Any] = []

    async def rename(harness: ChatHarness, title: str) -> None:
        request = ChatRoomUpdateRequest(room_id=room.room_id, new_title=title)
        assert (await harness.template.on_chat_room_update_req(user, request)).errorCode == 0

    async with running_harness(*backends, app_id, provider) as other:

        async def answer_lost(
            self: CacheClient,
            script: Script,
            keys_: Sequence[str],
            args: Sequence[Any],
            **options: Any,
        ) -> Any:
            answer = await once(self, script, keys_, args, **options)
            if script is SCRIPTS["update_room"] and "older" in args[2] and not lost:
                lost.append(answer)
                await rename(other, "newer")
                if reloaded:
                    await chat.persist()
                    await chat.redis.execute(
                        "DEL", keys.room(room.room_id).record, keys.room(room.room_id).messages
                    )
                answer = await once(self, script, keys_, args, **options)
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(CacheClient, "run_script", answer_lost)
            await rename(chat, "older")
    assert (await chat.rooms(user)).rooms[0].title == "newer"
    await chat.persist()
    rows = await chat.rows(user, "fp_chat_rooms_get", user.session.account_db_key)
    assert [row["title"] for row in rows] == ["newer"]
