"""After a batch: what is in MySQL may expire, all of it and nothing else, whatever was repeated,
refused or deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from base_server.template.chat.common.chat_serialize import (
    ChatRoomDeleteRequest,
    ChatRoomUpdateRequest,
)
from base_server.template.chat.domain.events import QUEUE_NAME
from base_server.template.chat.messages.repository import NewMessage
from base_server.template.chat.persistence.batch_states import BatchStates
from base_server.template.chat.replies.slot import SlotLost
from base_server.template.chat.replies.slots import ReplySlots
from tests.chat_harness import ChatHarness
from tests.openai_stub import Reply
from tests.refusing_database import POISON, Refusing
from tests.waiting import until

# Kept permanently, a fixed number of them: the run, the partition count, where a stream's backlog
# ended, the streams.
_FOR_GOOD = (
    "epoch",
    "epoch_run",
    "partitions",
    "lane_mark",
    "global_mark",
    "queue",
    "queue_dead",
)


async def keys_for_good(chat: ChatHarness) -> list[str]:
    """Keys of this test that have no TTL and are none of the few that need none."""
    names = list(await chat.redis.scan(f"{chat.container.settings.app_id}:TEST:*"))
    ttls = await chat.redis.execute_many([("PTTL", name) for name in names])
    return [
        name for name, ttl in zip(names, ttls, strict=True) if ttl == -1 and not is_for_good(name)
    ]


def is_for_good(name: str) -> bool:
    """Is it one of the few keys that need no TTL?"""
    return name.endswith(":partitions") or name.partition("}:")[2].partition(":")[0] in _FOR_GOOD


async def deliver_again(chat: ChatHarness) -> None:
    """Every waiting event once more, behind the others."""
    for stream in chat.container.queue.streams(QUEUE_NAME):
        for _, fields in await chat.redis.execute("XRANGE", stream.key, "-", "+"):
            await chat.redis.execute("XADD", stream.key, "*", *fields)


async def delete_room(chat: ChatHarness, user: object, room_id: str) -> None:
    request = ChatRoomDeleteRequest(room_id=room_id)
    assert (await chat.template.on_chat_room_delete_req(user, request)).errorCode == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("again", [False, True], ids=["once", "delivered twice"])
async def test_when_all_is_written_everything_expires(chat: ChatHarness, again: bool) -> None:
    user = await chat.user()
    kept, gone, busy = [await chat.room(user) for _ in range(3)]
    for room in (kept, gone, busy):
        message = await chat.send(user, room.room_id, "one")
        await chat.send(user, room.room_id, "two", client_message_id="c")
        await chat.delete_message(user, room.room_id, message.message_id)
    rename = ChatRoomUpdateRequest(room_id=kept.room_id, new_title="new")
    await chat.template.on_chat_room_update_req(user, rename)
    # Deleted while a reply runs and others wait behind it.
    chat.provider.script(Reply(tokens=["word "] * 50, delay_s=0.05))
    sends = [asyncio.create_task(chat.try_send(user, busy.room_id, f"waits {n}")) for n in range(3)]

    async def all_wait() -> bool:
        return len((await chat.messages(user, busy.room_id)).messages) == 9

    await until(all_wait)
    running = (await chat.messages(user, busy.room_id)).messages
    await chat.delete_message(user, busy.room_id, running[-1].message_id)
    for room in (gone, busy):
        await delete_room(chat, user, room.room_id)
    await asyncio.gather(*sends)
    if again:
        await deliver_again(chat)
    await chat.persist()
    assert await keys_for_good(chat) == []


@pytest.mark.chat_settings(window=2)
@pytest.mark.parametrize(
    "write", ["send", "rename", "delete in the window", "delete below the window", "delete room"]
)
async def test_every_write_takes_the_ttls_away_until_it_is_written(
    chat: ChatHarness, write: str
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    old = await chat.send(user, room.room_id, "old")
    new = await chat.send(user, room.room_id, "new")
    await chat.persist()
    assert await keys_for_good(chat) == []
    keys, account = chat.keys, user.session.account_id
    pinned = [
        keys.room(room.room_id).record,
        keys.room(room.room_id).messages,
        keys.room(room.room_id).json,
    ]
    if write == "send":
        await chat.send(user, room.room_id, "newest")
        pinned += [
            keys.account(account).record,
            keys.account(account).rooms,
            keys.account(account).order,
        ]
    elif write == "rename":
        rename = ChatRoomUpdateRequest(room_id=room.room_id, new_title="t")
        assert (await chat.template.on_chat_room_update_req(user, rename)).errorCode == 0
    elif write == "delete room":
        await delete_room(chat, user, room.room_id)
        pinned = [
            keys.room(room.room_id).record,
            keys.room(room.room_id).state,
            keys.account(account).record,
        ]
    else:
        message_id = (new if write == "delete in the window" else old).message_id
        assert await chat.delete_message(user, room.room_id, message_id) == 0
        pinned.append(keys.message_state(message_id))
    assert [await chat.ttl_ms(key) for key in pinned] == [-1] * len(pinned)
    await chat.persist()
    assert await keys_for_good(chat) == []


async def test_what_the_database_refuses_stays_readable_and_does_not_expire(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "one")
    await chat.persist()
    # The first question is refused, those behind it wait.
    Refusing(chat)
    for text in (POISON, "three"):
        await chat.send(user, room.room_id, text)
    await chat.persist()
    letters = await chat.container.queue.dead_letters(QUEUE_NAME)
    assert [letter.fields["seq"] for letter in letters] == ["3", "4", "5", "6"]
    assert "refused by the database" in letters[0].reason
    keys = chat.keys
    pinned = [
        keys.room(room.room_id).record,
        keys.room(room.room_id).messages,
        keys.room(room.room_id).json,
    ]
    pinned += [
        keys.account(user.session.account_id).record,
        keys.account(user.session.account_id).rooms,
    ]
    assert [await chat.ttl_ms(key) for key in pinned] == [-1] * len(pinned)
    assert await chat.questions(user, room.room_id) == ["one", POISON, "three"]


async def test_a_room_with_an_open_turn_does_not_expire(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    parts, caller = chat.template.parts, await chat.template.caller_of(user)
    ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
    accepted = await parts.messages.accept(
        caller, room.room_id, NewMessage(*ids, "q", None, None, "queue")
    )
    assert accepted.slot is not None
    store = ReplySlots(chat.redis, parts.messages._streams, chat.template.wiring.settings)
    await store.append(accepted.slot, "claim", 0, "some ", "")
    # A sweeper that found it before the lease was renewed.
    assert await store.interrupt(accepted.slot, only_if_expired=True) is None
    await chat.persist()
    keys, reply_id = chat.keys, accepted.slot.reply_id
    pinned = [
        keys.room(room.room_id).record,
        keys.room(room.room_id).messages,
        keys.room(room.room_id).json,
    ]
    pinned += [
        keys.message_state(reply_id),
        keys.room(room.room_id, caller.partition).reply_stream(reply_id),
    ]
    assert [await chat.ttl_ms(key) for key in pinned] == [-1] * len(pinned)
    await store.end(accepted.slot, "claim", "some text", {"finish_reason": "stop"})
    await chat.persist()
    assert await keys_for_good(chat) == []
    assert await chat.texts(user, room.room_id) == ["q", "some text"]


@pytest.mark.chat_settings(window=2)
async def test_a_question_that_waits_is_not_trimmed_however_small_the_window_is(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    parts, caller = chat.template.parts, await chat.template.caller_of(user)
    turns = []
    for n in range(4):
        ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
        accepted = await parts.messages.accept(
            caller, room.room_id, NewMessage(*ids, f"q{n}", None, f"c{n}", "queue")
        )
        assert accepted.slot is not None
        turns.append(accepted.slot)
    store = ReplySlots(chat.redis, parts.messages._streams, chat.template.wiring.settings)
    for n, turn in enumerate(turns):
        # The process of the next slot may come to it late: its process is gone, or another one's.
        await chat.persist()
        if n > 0:
            asked = await store.read_question(turn, "the test")
            assert asked is not None
            assert asked.text == f"q{n}"
            assert await store.claim(turn, "the test")
            with pytest.raises(SlotLost):  # another process that found it ready too
                await store.claim(turn, "another")
            late = await store.end(turns[n - 1], "the test", "late", {"finish_reason": "stop"})
            assert late is not None
            assert not late.is_ours
        await store.end(turn, "the test", f"a{n}", {"finish_reason": "stop"})
    await chat.persist()
    assert await chat.redis.execute("LLEN", chat.keys.room(room.room_id).messages) == 2
    assert await chat.texts(user, room.room_id) == [f"{who}{n}" for n in range(4) for who in "qa"]


@pytest.mark.parametrize("garbage", ["{not json", "", "12", "[]", "{}"])
async def test_a_damaged_card_is_read_again(chat: ChatHarness, garbage: str) -> None:
    user = await chat.user()
    room = await chat.room(user, "title", client_request_id="r")
    await chat.persist()
    await chat.redis.execute("SET", chat.keys.room(room.room_id).json, garbage)
    assert (await chat.room(user, "title", client_request_id="r")).title == "title"
    await chat.redis.execute("SET", chat.keys.room(room.room_id).json, garbage)
    assert [found.title for found in (await chat.rooms(user)).rooms] == ["title"]


@pytest.mark.chat_settings(window=2)
@pytest.mark.parametrize("garbage", ["{not json", "", "12", '{"message_id":"x"}'])
async def test_a_damaged_entry_hurts_neither_its_room_nor_others(
    chat: ChatHarness, garbage: str
) -> None:
    user = await chat.user()
    damaged, other = await chat.room(user), await chat.room(user)
    for room in (damaged, other):
        await chat.send(user, room.room_id, "one")
        await chat.send(user, room.room_id, "two")
    await chat.redis.execute("LSET", chat.keys.room(damaged.room_id).messages, 0, garbage)
    await chat.persist()
    await chat.redis.execute("LSET", chat.keys.room(damaged.room_id).messages, 0, garbage)
    for room in (damaged, other):
        assert await chat.questions(user, room.room_id) == ["one", "two"]
        assert [
            message.state for message in (await chat.messages(user, room.room_id)).messages
        ] == ["SENT"] * 4
    assert await keys_for_good(chat) == []


@pytest.mark.parametrize("write", ["send", "rename", "delete message", "room"])
async def test_a_write_while_a_batch_is_written_is_not_taken_for_written(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    message = await chat.send(user, room.room_id, "in the batch")
    call, is_writing, goes_on = (
        chat.container.database.call_shard_procedure,
        asyncio.Event(),
        asyncio.Event(),
    )

    async def held_up(shard_id: int, procedure: str, params: Any = ()) -> list[dict[str, Any]]:
        rows = await call(shard_id, procedure, params)
        if procedure == "fp_chat_message_batch_save" and not goes_on.is_set():
            is_writing.set()
            await goes_on.wait()
        return rows

    monkeypatch.setattr(chat.container.database, "call_shard_procedure", held_up)
    writing = asyncio.create_task(chat.persist())
    await is_writing.wait()
    # From here on the batch is in the database, and what comes now is not in the batch.
    keys, account = chat.keys, user.session.account_id
    pinned = [
        keys.room(room.room_id).record,
        keys.room(room.room_id).messages,
        keys.room(room.room_id).json,
    ]
    if write == "send":
        await chat.send(user, room.room_id, "meanwhile")
    elif write == "rename":
        rename = ChatRoomUpdateRequest(room_id=room.room_id, new_title="t")
        assert (await chat.template.on_chat_room_update_req(user, rename)).errorCode == 0
    elif write == "delete message":
        assert await chat.delete_message(user, room.room_id, message.message_id) == 0
    else:
        pinned = [keys.room((await chat.room(user)).room_id).record]
    if write in ("send", "room"):
        pinned += [
            keys.account(account).record,
            keys.account(account).rooms,
            keys.account(account).order,
        ]
    ttls: list[list[int]] = []
    acknowledge = BatchStates.acknowledge

    async def and_then_look(self: BatchStates, *args: Any) -> None:
        await acknowledge(self, *args)
        ttls.append([await chat.ttl_ms(key) for key in pinned])

    monkeypatch.setattr(BatchStates, "acknowledge", and_then_look)
    goes_on.set()
    await writing
    assert ttls[0] == [-1] * len(pinned)
    assert await keys_for_good(chat) == []


async def test_what_is_being_written_is_processing(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    message = await chat.send(user, room.room_id, "now")
    database, seen = chat.container.database, []
    call = database.call_shard_procedure

    async def looked_at(shard_id: int, name: str, params: Any = ()) -> list[dict[str, Any]]:
        if name == "fp_chat_message_batch_save":
            room_state = await chat.template.parts.states.get_room_state(room.room_id)
            seen.append((await chat.state(message.message_id), room_state and room_state.value))
        return await call(shard_id, name, params)

    monkeypatch.setattr(database, "call_shard_procedure", looked_at)
    await chat.persist()
    assert seen == [("PROCESSING", "PROCESSING")]
