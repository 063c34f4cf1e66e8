"""Rooms and messages from the handler to the row, on every backend."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from datetime import datetime

import pytest

from base_server.template.base.client_session import ClientSession
from base_server.template.chat.common.chat_serialize import (
    ChatRoomDeleteRequest,
    ChatRoomUpdateRequest,
)
from tests.chat_harness import PERSONA, ChatHarness
from tests.openai_stub import Reply
from tests.waiting import until

TEXT = '안녕하세요 👩‍👩‍👧‍👦 \u202e {x} {{ "quoted" \\ \r\n\t</script> é ﷽'


def uuid7(ms: int) -> str:
    """A client's UUIDv7 of that time."""
    tail = uuid.uuid4().hex[13:]
    digits = f"{ms:012x}7{tail[:3]}8{tail[4:19]}"
    return str(uuid.UUID(digits[:32].ljust(32, "0")))


async def test_a_send_is_stored_answered_and_written_to_the_accounts_shard(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room = await chat.room(user, title="제목 🙂")
    chat.provider.script(Reply(tokens=["sure, ", "네 🎉"]))
    response = await chat.try_send(user, room.room_id, TEXT)
    assert response.errorCode == 0
    question, reply = response.user_message, response.message
    assert question is not None
    assert reply is not None
    assert (question.content, question.seq, question.sender_type) == (TEXT, 1, "USER")
    assert (reply.content, reply.seq, reply.sender_type) == ("sure, 네 🎉", 2, "AI")
    assert reply.parent_message_id == question.message_id
    assert reply.metadata["finish_reason"] == "stop"
    assert reply.metadata["ai_persona"] == PERSONA
    await chat.persist()
    rows = await chat.rows(user, "fp_chat_messages_get", room.room_id, None, 10)
    assert [(row["message_id"], row["content"], row["seq"]) for row in rows] == [
        (reply.message_id, "sure, 네 🎉", 2),
        (question.message_id, TEXT, 1),
    ]
    (stored,) = await chat.rows(user, "fp_chat_rooms_get", user.session.account_db_key)
    assert (stored["title"], stored["message_count"]) == ("제목 🙂", 2)
    page = await chat.messages(user, room.room_id)
    assert [message.state for message in page.messages] == ["SENT", "SENT"]
    assert [message.content for message in page.messages] == [TEXT, "sure, 네 🎉"]
    (listed,) = (await chat.rooms(user)).rooms
    assert (listed.state, listed.message_count, listed.title) == ("ACTIVE", 2, "제목 🙂")


async def test_states_log_every_step_to_the_end(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    response = await chat.try_send(user, room.room_id)
    assert response.user_message is not None
    assert response.message is not None
    await chat.persist()
    states = chat.template.parts.states
    assert [state for state, _ in await states.get_room_log(room.room_id)] == [
        "CREATING",
        "PENDING",
        "PROCESSING",
        "ACTIVE",
    ]
    question_log = await states.get_message_log(response.user_message.message_id)
    assert [state for state, _ in question_log] == ["PENDING", "PROCESSING", "SENT"]
    reply_log = await states.get_message_log(response.message.message_id)
    assert [state for state, _ in reply_log] == ["COMPOSING", "PENDING", "PROCESSING", "SENT"]
    await chat.delete_message(user, room.room_id, response.message.message_id)
    assert await chat.state(response.message.message_id) == "DELETING"
    await chat.template.on_chat_room_delete_req(user, ChatRoomDeleteRequest(room_id=room.room_id))
    await chat.persist()
    assert await chat.state(response.message.message_id) == "DELETED"
    assert (await states.get_room_log(room.room_id))[-2:][0][0] == "DELETING"
    assert (await states.get_room_state(room.room_id)).value == "DELETED"  # type: ignore[union-attr]


async def test_a_message_to_a_new_room_needs_no_wait_and_no_database(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    calls = chat.container.database.calls
    await chat.send(user, room.room_id, "at once")
    assert chat.container.database.calls == calls
    assert await chat.questions(user, room.room_id) == ["at once"]


@pytest.mark.chat_settings(delta_interval_s=60)  # a slow machine would send the reply in parts
async def test_a_cached_list_costs_one_round_trip_and_a_send_three(chat: ChatHarness) -> None:
    await chat.hush()
    user = await chat.user()
    rooms = [await chat.room(user) for _ in range(5)]
    await chat.send(user, rooms[0].room_id)
    before = chat.redis.round_trips
    await chat.rooms(user, limit=3)
    assert chat.redis.round_trips - before == 1
    await chat.messages(user, rooms[0].room_id)
    assert chat.redis.round_trips - before == 2
    await chat.send(user, rooms[0].room_id)
    assert chat.redis.round_trips - before == 5


async def test_a_batch_calls_one_procedure_a_message_type_and_shard(chat: ChatHarness) -> None:
    user = await chat.user()
    rooms = [await chat.room(user) for _ in range(4)]
    for room in rooms:
        message = await chat.send(user, room.room_id)
        await chat.delete_message(user, room.room_id, message.message_id)
        await chat.template.on_chat_room_update_req(
            user, ChatRoomUpdateRequest(room_id=room.room_id, new_title="n")
        )
    await chat.template.on_chat_room_delete_req(
        user, ChatRoomDeleteRequest(room_id=rooms[0].room_id)
    )
    calls = chat.container.database.calls
    await chat.persist()
    assert chat.container.database.calls - calls == 5 + 1  # the marks of the shard


async def test_a_batch_costs_three_round_trips_and_its_lock(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id)
    await chat.persist()
    for _ in range(20):
        await chat.send(user, room.room_id)
    consumer, bulk = chat.template.parts.consumer, chat.container.cache.get_bulk_client()
    await chat.hush()
    before = (bulk.round_trips, chat.redis.round_trips, chat.container.database.calls)
    consumer.flush((await chat.template.caller_of(user)).partition, user.session.shard_id)
    await until(lambda: not consumer.draining)
    after = (bulk.round_trips, chat.redis.round_trips, chat.container.database.calls)
    # Read, mark PROCESSING, settle; take the lock and give it back; the bulk procedure, which
    # raises the mark too.
    assert [now - then for then, now in zip(before, after, strict=True)] == [3, 2, 1]
    assert await chat.backlog() == 0


async def test_a_full_batch_is_written_before_the_interval(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    # The interval is an hour here; 50 waiting events start the consumer.
    for _ in range(25):
        await chat.send(user, room.room_id)

    async def written() -> bool:
        return await chat.backlog() < 50  # what came meanwhile waits for its own batch

    await until(written)


async def test_titles_change_and_the_last_one_wins(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user, title=None)
    assert room.title == "New chat"
    for title in ("first", '두번째 "title"'):
        response = await chat.template.on_chat_room_update_req(
            user, ChatRoomUpdateRequest(room_id=room.room_id, new_title=title)
        )
        assert (response.errorCode, response.new_title) == (0, title)
    await chat.persist()
    (row,) = await chat.rows(user, "fp_chat_room_get", room.room_id)
    assert row["title"] == '두번째 "title"'
    (listed,) = (await chat.rooms(user)).rooms
    assert listed.title == '두번째 "title"'


@pytest.mark.parametrize("when", ["before", "while", "after"])
async def test_message_deleted_around_its_persistence_stays_deleted(
    chat: ChatHarness, when: str
) -> None:
    """A message deleted before while or after it was persisted stays deleted."""
    user = await chat.user()
    room = await chat.room(user)
    message = await chat.send(user, room.room_id, "delete me")
    if when == "after":
        await chat.persist()
    if when == "while":
        writing = asyncio.create_task(chat.persist())
        await asyncio.sleep(0)
        assert await chat.delete_message(user, room.room_id, message.message_id) == 0
        await writing
    else:
        assert await chat.delete_message(user, room.room_id, message.message_id) == 0
    assert await chat.questions(user, room.room_id) == []
    assert await chat.delete_message(user, room.room_id, message.message_id) == 0
    await chat.persist()
    assert await chat.state(message.message_id) == "DELETED"
    await forget(chat, user.session.account_id, room.room_id)
    assert await chat.questions(user, room.room_id) == []
    rows = await chat.rows(user, "fp_chat_window_get", room.room_id, 10)
    assert [(row["seq"], bool(row["deleted"])) for row in rows] == [(1, True), (2, False)]
    (listed,) = (await chat.rooms(user)).rooms
    assert listed.message_count == 1


async def test_a_deleted_room_is_gone_for_good_and_deleting_it_again_is_no_error(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    kept, gone = await chat.room(user), await chat.room(user)
    await chat.send(user, gone.room_id)
    for _ in range(2):
        response = await chat.template.on_chat_room_delete_req(
            user, ChatRoomDeleteRequest(room_id=gone.room_id)
        )
        assert response.errorCode == 0
    assert (await chat.try_messages(user, gone.room_id)).errorCode == 1004
    assert (await chat.try_send(user, gone.room_id)).errorCode == 1004
    assert [room.room_id for room in (await chat.rooms(user)).rooms] == [kept.room_id]
    await chat.persist()
    await forget(chat, user.session.account_id, gone.room_id)
    assert (await chat.try_messages(user, gone.room_id)).errorCode == 1004
    assert [room.room_id for room in (await chat.rooms(user)).rooms] == [kept.room_id]
    response = await chat.template.on_chat_room_delete_req(
        user, ChatRoomDeleteRequest(room_id=gone.room_id)
    )
    assert response.errorCode == 0


async def test_delete_of_a_room_again_when_only_its_state_is_left_is_no_error(
    chat: ChatHarness,
) -> None:
    """Its tombstone has expired, the list is loaded and does not have it: nothing is to be taken
    from the list's length."""
    user = await chat.user()
    kept, gone = await chat.room(user), await chat.room(user)
    request = ChatRoomDeleteRequest(room_id=gone.room_id)
    assert (await chat.template.on_chat_room_delete_req(user, request)).errorCode == 0
    await chat.persist()
    await chat.redis.execute("DEL", chat.keys.room(gone.room_id).record)
    assert await chat.redis.execute("GET", chat.keys.room(gone.room_id).state)
    response = await chat.template.on_chat_room_delete_req(user, request)
    assert response.errorCode == 0, response.error
    assert [room.room_id for room in (await chat.rooms(user)).rooms] == [kept.room_id]


def unit_keys(chat: ChatHarness, account_id: str, room_id: str) -> list[str]:
    keys = chat.keys
    partition = keys.account_partition(account_id)
    return [
        keys.room(room_id, partition).record,
        keys.room(room_id, partition).messages,
        keys.room(room_id, partition).json,
        keys.room(room_id, partition).state,
        keys.account(account_id, partition).record,
        keys.account(account_id, partition).rooms,
        keys.account(account_id, partition).order,
    ]


async def forget(chat: ChatHarness, account_id: str, room_id: str) -> None:
    """As after their TTL."""
    await chat.redis.execute("DEL", *unit_keys(chat, account_id, room_id))


@pytest.mark.parametrize("new", ["message", "room", "nothing"])
async def test_lists_are_whole_after_any_key_expired_and_a_write(
    chat: ChatHarness, new: str
) -> None:
    """Lists are whole after any of their keys expired and something new came."""
    user = await chat.user()
    room, other = await chat.room(user), await chat.room(user)
    sent = ["one"]
    await chat.send(user, room.room_id, "one")
    rooms = {room.room_id, other.room_id}
    await chat.persist()
    keys = unit_keys(chat, user.session.account_id, room.room_id)
    for count in (1, 2, len(keys)):
        for subset in itertools.combinations(keys, count):
            await chat.redis.execute("DEL", *subset)
            if new == "message":
                sent.append(f"{len(sent)} after {count}")
                await chat.send(user, room.room_id, sent[-1])
            elif new == "room":
                rooms.add((await chat.room(user)).room_id)
            assert await chat.questions(user, room.room_id) == sent
            page = await chat.rooms(user, limit=100)
            assert {room.room_id for room in page.rooms} == rooms
            assert page.total_count == len(rooms)
            await chat.persist()
    # Newest activity first, whatever was reloaded in between.
    times = [room.last_message_at for room in (await chat.rooms(user, limit=100)).rooms]
    assert times == sorted(times, reverse=True)
    all_messages = (await chat.messages(user, room.room_id, limit=100)).messages
    assert [message.seq for message in all_messages] == list(range(1, len(all_messages) + 1))


async def test_what_is_unpersisted_has_no_ttl_and_what_is_persisted_has_one(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    message = await chat.send(user, room.room_id)
    keys = unit_keys(chat, user.session.account_id, room.room_id)
    keys.append(chat.keys.message_state(message.message_id))
    # The account's list was loaded before the first write and is pinned with it.
    assert [await chat.ttl_ms(key) for key in keys] == [-1] * len(keys)
    await chat.persist()
    ttls = [await chat.ttl_ms(key) for key in keys]
    hours = [round(ttl / 3_600_000) for ttl in ttls]
    assert hours == [1, 1, 1, 24, 1, 1, 1, 24]
    # The list expires no later than the cards that it names.
    assert max(ttls[4:7]) <= ttls[2]


async def test_a_room_older_than_its_states_accepts_messages(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    message = await chat.send(user, room.room_id, "old")
    await chat.persist()
    await chat.redis.execute(
        "DEL", chat.keys.room(room.room_id).state, chat.keys.message_state(message.message_id)
    )
    await chat.send(user, room.room_id, "new")
    assert await chat.questions(user, room.room_id) == ["old", "new"]
    page = await chat.messages(user, room.room_id)
    assert page.messages[0].state == "SENT"
    assert (await chat.rooms(user)).rooms[0].state == "ACTIVE"
    assert await chat.delete_message(user, room.room_id, message.message_id) == 0
    await chat.persist()
    assert await chat.questions(user, room.room_id) == ["new"]


async def test_a_repeated_send_gives_the_same_messages_and_calls_the_ai_once(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    first = await chat.try_send(user, room.room_id, "once", client_message_id="c-1")
    again = await chat.try_send(user, room.room_id, "once", client_message_id="c-1")
    assert again.errorCode == 0
    assert first.user_message is not None
    assert again.user_message is not None
    assert again.user_message.message_id == first.user_message.message_id
    assert again.message is not None
    assert first.message is not None
    assert (again.message.message_id, again.message.content) == (
        first.message.message_id,
        first.message.content,
    )
    assert chat.provider.calls == 1
    other = await chat.try_send(user, room.room_id, "another body", client_message_id="c-1")
    assert other.errorCode == 1007
    await chat.persist()
    await forget(chat, user.session.account_id, room.room_id)
    reloaded = await chat.try_send(user, room.room_id, "once", client_message_id="c-1")
    assert reloaded.user_message is not None
    assert reloaded.user_message.message_id == first.user_message.message_id
    assert len(await chat.texts(user, room.room_id)) == 2
    assert chat.provider.calls == 1


@pytest.mark.chat_settings(window=4)
@pytest.mark.parametrize("form", ["uuid7", "text"])
async def test_a_send_repeated_after_its_window_passed_is_still_the_same_send(
    chat: ChatHarness, form: str
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    created_ms = datetime.fromisoformat(room.created_at).timestamp() * 1000
    now_ms = 0
    while (
        now_ms <= created_ms
    ):  # later than the room, so that only the window's floor tells its age
        seconds, micros = await chat.redis.execute("TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
    client_id = uuid7(now_ms) if form == "uuid7" else "my-own-id"
    first = await chat.try_send(user, room.room_id, "early", client_message_id=client_id)
    for n in range(4):
        await chat.send(user, room.room_id, f"later {n}")
    await chat.persist()
    assert await chat.redis.execute("LLEN", chat.keys.room(room.room_id).messages) == 4
    again = await chat.try_send(user, room.room_id, "early", client_message_id=client_id)
    assert again.errorCode == 0, again.error
    assert again.user_message is not None
    assert first.user_message is not None
    assert again.user_message.message_id == first.user_message.message_id
    assert (
        await chat.try_send(user, room.room_id, "other", client_message_id=client_id)
    ).errorCode == 1007
    calls = chat.container.database.calls
    fresh = uuid7(now_ms + 1_000_000_000)
    await chat.send(user, room.room_id, "future id", client_message_id=fresh)
    assert (
        chat.container.database.calls == calls + 1
    )  # a clock that runs ahead proves nothing: one look
    assert chat.provider.calls == 6


async def test_a_repeated_create_gives_the_same_room(chat: ChatHarness) -> None:
    user = await chat.user()
    first = await chat.room(user, "t", client_request_id="r-1")
    assert (await chat.room(user, "t", client_request_id="r-1")).room_id == first.room_id
    await chat.persist()
    await forget(chat, user.session.account_id, first.room_id)
    assert (await chat.room(user, "t", client_request_id="r-1")).room_id == first.room_id
    assert (await chat.rooms(user)).total_count == 1


async def test_nothing_of_anyone_elses_can_be_read_or_changed(chat: ChatHarness) -> None:
    owner, stranger = await chat.user(), await chat.user()

    def place(user: ClientSession) -> tuple[int, int]:
        return chat.keys.account_partition(user.session.account_id), user.session.shard_id

    # One in the same partition and shard: neither the id nor the database gives the room away.
    while place(stranger) != place(owner):
        stranger = await chat.user()
    room = await chat.room(owner)
    message = await chat.send(owner, room.room_id, "mine")
    for loaded in (True, False):
        if not loaded:
            await chat.persist()
            await forget(chat, owner.session.account_id, room.room_id)
        assert (await chat.try_messages(stranger, room.room_id)).errorCode == 1004
        assert (await chat.try_send(stranger, room.room_id)).errorCode == 1004
        assert await chat.delete_message(stranger, room.room_id, message.message_id) == 1004
        rename = ChatRoomUpdateRequest(room_id=room.room_id, new_title="taken")
        assert (await chat.template.on_chat_room_update_req(stranger, rename)).errorCode == 1004
        delete = ChatRoomDeleteRequest(room_id=room.room_id)
        assert (await chat.template.on_chat_room_delete_req(stranger, delete)).errorCode == 1004
        assert (await chat.rooms(stranger)).total_count == 0
    assert await chat.questions(owner, room.room_id) == ["mine"]
    assert (await chat.rooms(owner)).rooms[0].title == "room"
    await chat.template.on_chat_room_delete_req(owner, delete)
    for _ in range(2):
        assert (await chat.template.on_chat_room_delete_req(stranger, delete)).errorCode == 1004
        await chat.persist()
        await forget(chat, owner.session.account_id, room.room_id)


async def test_many_first_reads_of_a_cold_room_cost_one_load(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "cold")
    await chat.persist()
    await forget(chat, user.session.account_id, room.room_id)
    calls = chat.container.database.calls
    pages = await asyncio.gather(*(chat.questions(user, room.room_id) for _ in range(100)))
    assert pages == [["cold"]] * 100
    assert chat.container.database.calls - calls == 2  # the room's row and its window


async def test_parallel_sends_to_one_room_have_their_seqs_without_gaps(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await asyncio.gather(*(chat.send(user, room.room_id, f"m{n}") for n in range(8)))
    page = await chat.messages(user, room.room_id, limit=100)
    assert [message.seq for message in page.messages] == list(range(1, 17))
    by_id = {message.message_id: message for message in page.messages}
    for reply in page.messages[1::2]:
        assert reply.sender_type == "AI"
        assert reply.parent_message_id is not None
        assert by_id[reply.parent_message_id].seq == (reply.seq or 0) - 1
    await chat.persist()
    rows = await chat.rows(user, "fp_chat_messages_get", room.room_id, None, 100)
    assert [row["seq"] for row in reversed(rows)] == list(range(1, 17))
