"""A connection lost behind every call: each script runs twice with the same arguments and answers
as it did first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.redis_client.script import Script
from base_server.template.chat.cache.scripts import SCRIPTS
from base_server.template.chat.chat_state_machine import (
    MessageState,
    RoomState,
    get_chat_state_machine,
)
from base_server.template.chat.common.chat_serialize import (
    ChatRoomDeleteRequest,
    ChatRoomUpdateRequest,
)
from base_server.template.chat.domain.events import QUEUE_NAME
from tests.chat_harness import ChatHarness
from tests.openai_stub import Reply
from tests.waiting import until


@pytest.fixture(autouse=True)
def every_first_answer_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    once = CacheClient.run_script

    async def twice(
        self: CacheClient,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        *,
        repeatable: bool = True,
        **options: Any,
    ) -> Any:
        if repeatable and script in SCRIPTS.values():
            await once(self, script, keys, args, **options)
        return await once(self, script, keys, args, repeatable=repeatable, **options)

    monkeypatch.setattr(CacheClient, "run_script", twice)


async def events(chat: ChatHarness) -> int:
    """How many events were ever put into the streams."""
    count = 0
    for stream in chat.container.queue.streams(QUEUE_NAME):
        if await chat.redis.execute("EXISTS", stream.key):
            facts = await chat.redis.execute("XINFO", "STREAM", stream.key)
            count += facts[facts.index("entries-added") + 1]
    return count


async def test_every_operation_is_done_once_and_answers_as_if_nothing_was_lost(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room = await chat.room(user, client_request_id="r")
    assert await events(chat) == 1
    chat.provider.script(Reply(tokens=["an ", "answer"]))
    response = await chat.try_send(user, room.room_id, "question", client_message_id="c")
    assert response.errorCode == 0, response.error
    question, reply = response.user_message, response.message
    assert question is not None
    assert reply is not None
    assert (reply.content, reply.metadata["finish_reason"], reply.is_streaming) == (
        "an answer",
        "stop",
        False,
    )
    assert await events(chat) == 3
    await chat.persist()
    rename = ChatRoomUpdateRequest(room_id=room.room_id, new_title="renamed")
    assert (await chat.template.on_chat_room_update_req(user, rename)).errorCode == 0
    assert await events(chat) == 4
    assert (await chat.rooms(user)).rooms[0].title == "renamed"
    await chat.persist()
    assert await chat.delete_message(user, room.room_id, question.message_id) == 0
    assert await events(chat) == 5
    assert (await chat.rooms(user)).rooms[0].message_count == 1
    assert await chat.texts(user, room.room_id) == ["an answer"]
    await chat.persist()
    (row,) = await chat.rows(user, "fp_chat_rooms_get", user.session.account_db_key)
    assert (row["title"], row["message_count"], row["last_seq"]) == ("renamed", 1, 2)
    delete = ChatRoomDeleteRequest(room_id=room.room_id)
    assert (await chat.template.on_chat_room_delete_req(user, delete)).errorCode == 0
    assert await events(chat) == 6
    await chat.persist()
    assert (await chat.rooms(user)).total_count == 0
    assert chat.provider.calls == 1


async def test_deletes_by_state_calls_report_what_they_did(chat: ChatHarness) -> None:
    """cases/promises.md P1: false would be a refusal of what the call itself has just done."""
    user, states = await chat.user(), get_chat_state_machine()
    room = await chat.room(user)
    await chat.send(user, room.room_id)
    question, reply = (await chat.messages(user, room.room_id)).messages
    await chat.persist()
    moved = await states.transition_message(question.message_id, MessageState.DELETING)
    assert (bool(moved), moved.before) == (True, "SENT")
    assert await states.smart_delete_message(reply.message_id) == (True, "DELETING")
    left = await states.transition_room(room.room_id, RoomState.DELETING)
    assert (bool(left), left.before) == (True, "ACTIVE")
    assert await events(chat) == 6


async def test_questions_that_wait_are_answered_in_their_turn(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(*(Reply(tokens=[f"a{n} "] * 4, delay_s=0.02) for n in range(3)))
    sends = []
    for n in range(3):
        sends.append(asyncio.create_task(chat.try_send(user, room.room_id, f"q{n}")))

        async def accepted(n: int = n) -> bool:
            return len((await chat.messages(user, room.room_id)).messages) == 2 * n + 2

        await until(accepted)
    responses = await asyncio.gather(*sends)
    assert [response.message.content for response in responses if response.message] == [
        f"a{n} " * 4 for n in range(3)
    ]
    assert chat.provider.calls == 3


async def test_a_room_that_went_cold_is_loaded_whole(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "one")
    await chat.persist()
    account, keys = user.session.account_id, chat.keys
    await chat.redis.execute("DEL", keys.room(room.room_id).record, keys.account(account).record)
    await chat.send(user, room.room_id, "two")
    assert await chat.questions(user, room.room_id) == ["one", "two"]
    assert (await chat.rooms(user)).total_count == 1
