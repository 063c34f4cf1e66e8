"""A send repeated with its client_message_id: after deletes, after a Redis that forgot, with a client's wrong clock."""

from __future__ import annotations

import pytest

from template.chat.chat_message_store import NewMessage
from tests.chat_world import ChatWorld
from tests.template.chat.test_chat_writes import uuid7


@pytest.mark.chat_settings(window=4)
@pytest.mark.parametrize("what", ["question", "reply"])
@pytest.mark.parametrize("persisted", [True, False])
async def test_a_repeated_send_does_not_bring_back_what_was_deleted(
    chat: ChatWorld, what: str, persisted: bool
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


@pytest.mark.parametrize("goes_on", [False, True], ids=["nothing behind it", "its number given again"])
async def test_a_send_whose_reply_redis_lost_is_answered_and_not_with_anothers_message(
    chat: ChatWorld, goes_on: bool
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    owner = await chat.template._owner(user)
    ids = [chat.keys.new_id(owner.partition) for _ in range(3)]
    message = NewMessage(*ids, "question", None, "c", "queue")
    await chat.template._parts.messages.accept(owner, room.room_id, message)
    await chat.persist()  # the question; its reply runs
    await chat.redis.execute("DEL", *await chat.redis.execute("KEYS", f"{chat.container.settings.app_id}:*"))
    if goes_on:
        await chat.send(user, room.room_id, "another")
    again = await chat.try_send(user, room.room_id, "question", client_message_id="c")
    assert again.errorCode == 1008
    assert again.message is None
    assert (await chat.questions(user, room.room_id)) == (["question", "another"] if goes_on else ["question"])


@pytest.mark.chat_settings(window=4)
@pytest.mark.parametrize("reloaded", ["never", "whole", "without it"])
async def test_a_clients_clock_that_ran_ahead_does_not_make_a_send_twice(chat: ChatWorld, reloaded: str) -> None:
    user = await chat.user()
    room = await chat.room(user)
    client_id = uuid7(int((await chat.redis.execute("TIME"))[0]) * 1000 + 3_600_000)
    first = await chat.try_send(user, room.room_id, "early", client_message_id=client_id)
    record = chat.keys.room_record(room.room_id)
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
    order = chat.keys.account_order(user.session.account_id)
    later = int((await chat.redis.execute("TIME"))[0]) * 1000 + 7_200_000
    await chat.redis.execute("ZADD", order, later, room.room_id)
    again = await chat.try_send(user, room.room_id, "early", client_message_id=client_id)
    assert again.user_message is not None
    assert first.user_message is not None
    assert again.user_message.message_id == first.user_message.message_id
