"""An account's own limits: messages over time, and replies that are open at once."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from base_server.template.chat.common.chat_serialize import (
    ChatRoomCreateRequest,
    ChatRoomDeleteRequest,
)
from tests.chat_harness import PERSONA, ChatHarness
from tests.openai_stub import Reply
from tests.waiting import until


@pytest.mark.chat_settings(sends_per_minute=0.1, sends_at_once=3)
async def test_sends_over_the_limit_are_1010_and_store_nothing(
    chat: ChatHarness,
) -> None:
    """Sends over the limit are 1010 with the time to wait and store nothing."""
    user, other = await chat.user(), await chat.user()
    rooms = [(await chat.room(user)).room_id for _ in range(2)]
    for n in range(3):
        await chat.send(user, rooms[n % 2], f"m{n}", client_message_id=f"c-{n}")
    answers = await asyncio.gather(*(chat.try_send(user, rooms[n % 2], "over") for n in range(6)))
    refused = [answer for answer in answers if answer.errorCode == 1010]
    assert len(refused) == 6, "the account has one bucket, whatever the room"
    for answer in refused:
        assert answer.error is not None
        assert answer.error.retryable
        assert 0 < (answer.error.retry_after_s or 0) <= 600
        assert answer.user_message is None
    stored = await chat.questions(user, rooms[0]) + await chat.questions(user, rooms[1])
    assert len(stored) == 3
    # A repeat is no new send: it is answered although the bucket is empty, and takes nothing from
    # it.
    for _ in range(5):
        await chat.send(user, rooms[0], "m0", client_message_id="c-0")
    # Others are not concerned, and after the time that was told there is room for one.
    await chat.send(other, (await chat.room(other)).room_id, "mine")
    account, told_s = (
        chat.keys.account(user.session.account_id).record,
        answers[0].error.retry_after_s,
    )
    await chat.redis.execute("HINCRBY", account, "sends_at", -round(told_s * 1000))
    await chat.send(user, rooms[0], "later")


@pytest.mark.chat_settings(sends_per_minute=0.1, sends_at_once=1)
async def test_a_clock_that_was_set_back_does_not_keep_the_bucket_empty(chat: ChatHarness) -> None:
    user = await chat.user()
    room_id = (await chat.room(user)).room_id
    await chat.send(user, room_id)
    assert (await chat.try_send(user, room_id)).errorCode == 1010
    account = chat.keys.account(user.session.account_id).record
    await chat.redis.execute("HINCRBY", account, "sends_at", 3_600_000)
    await chat.send(user, room_id)
    assert (await chat.try_send(user, room_id)).errorCode == 1010


@pytest.mark.chat_settings(max_open_replies=2)
async def test_open_replies_are_limited_over_all_rooms(
    chat: ChatHarness,
) -> None:
    """Open replies are limited over all rooms and free again when they end."""
    user = await chat.user()
    rooms = [(await chat.room(user)).room_id for _ in range(3)]
    chat.provider.script(Reply(["a"], hang=True), Reply(["b"], hang=True))
    hanging = [asyncio.create_task(chat.try_send(user, room_id, "long")) for room_id in rooms[:2]]
    await until(lambda: chat.provider.running == 2)
    third = await chat.try_send(user, rooms[2], "one more")
    waiting = await chat.try_send(
        user, rooms[0], "a waiting one counts too", client_message_id=str(uuid.uuid4())
    )
    assert (third.errorCode, waiting.errorCode) == (1010, 1010)
    assert third.error is not None
    assert third.error.retry_after_s == 1
    page = await chat.messages(user, rooms[0])
    running = next(message for message in page.messages if message.is_streaming)
    assert await chat.delete_message(user, rooms[0], running.message_id) == 0
    await hanging[0]
    await chat.send(user, rooms[2], "now there is room")
    await chat.send(user, rooms[2], "and again: an ended reply gives its place back")
    hanging[1].cancel()


async def test_an_ended_reply_leaves_nothing_of_the_limit_behind(chat: ChatHarness) -> None:
    user = await chat.user()
    room_id = (await chat.room(user)).room_id
    await chat.send(user, room_id, "warm")
    key = chat.keys.account(user.session.account_id).open_replies
    assert await chat.redis.execute("ZCARD", key) == 0
    assert await chat.ttl_ms(key) == -2
    await chat.redis.execute("SET", key, "of another type")
    await chat.send(user, room_id, "a key of another type counts as missing")
    assert await chat.redis.execute("ZCARD", key) == 0


@pytest.mark.chat_settings(max_rooms_per_account=2)
async def test_rooms_over_the_limit_are_1010_until_one_is_deleted(
    chat: ChatHarness,
) -> None:
    """Rooms over the limit are 1010 and store nothing until one is deleted."""
    user = await chat.user()
    first = await chat.room(user, "first", client_request_id="r1")
    await chat.room(user, "second")
    refused = ChatRoomCreateRequest(ai_persona=PERSONA, title="third", client_request_id="r3")
    answer = await chat.template.on_chat_room_create_req(user, refused)
    assert (answer.errorCode, answer.room) == (1010, None)
    assert (
        await chat.room(user, "first", client_request_id="r1")
    ).room_id == first.room_id  # made before
    assert [room.title for room in (await chat.rooms(user)).rooms] == ["second", "first"]
    assert await chat.backlog() == 2
    gone = ChatRoomDeleteRequest(room_id=first.room_id)
    assert (await chat.template.on_chat_room_delete_req(user, gone)).errorCode == 0
    answer = await chat.template.on_chat_room_create_req(user, refused)
    assert answer.errorCode == 0, answer.error
