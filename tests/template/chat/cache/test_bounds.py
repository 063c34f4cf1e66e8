"""What Redis holds of a room, a message, an event and a reply: the figures of docs/guarantees.md
(G9), measured."""

from __future__ import annotations

import uuid

import pytest

from base_server.template.chat.messages.repository import NewMessage
from base_server.template.chat.replies.slots import ReplySlots
from tests.chat_harness import ChatHarness

TEXT = "What would forty characters ask of you?!"
MESSAGES = 60
# Bytes beside the text itself, as docs/guarantees.md says them.
ROOM, STATE, ENTRY, CLAIM, EVENT, DELTA = 1300, 250, 400, 300, 900, 60


async def sizes(chat: ChatHarness) -> dict[str, list[int]]:
    """By kind of key, the bytes of each key of this test: name, value and what the server needs
    beside them."""
    prefix = f"{chat.container.settings.app_id}:TEST:"
    names = await chat.redis.execute("KEYS", f"{prefix}*")
    found = await chat.redis.execute_many(
        [("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names]
    )
    by_kind: dict[str, list[int]] = {}
    for name, size in zip(names, found, strict=True):
        by_kind.setdefault(name.partition("}:")[2].partition(":")[0], []).append(size)
    return by_kind


@pytest.mark.chat_settings(
    window=MESSAGES, batch_size=1000
)  # nothing is written before it is measured
async def test_bytes_of_a_room_a_message_and_an_event(chat: ChatHarness) -> None:
    user = await chat.user()
    first = await chat.room(user, "A room of people")
    before = await sizes(chat)
    rooms = [await chat.room(user, "A room of people") for _ in range(20)]
    made = await sizes(chat)
    kinds = ("room_rec", "room", "room_state", "rooms", "rooms_order")
    assert sum(sum(made[kind]) - sum(before[kind]) for kind in kinds) / len(rooms) <= ROOM
    for _ in range(MESSAGES // 2):
        await chat.send(user, first.room_id, TEXT, client_message_id=str(uuid.uuid4()))
    full = await sizes(chat)
    assert max(full["msg_state"]) <= STATE
    assert sum(full["messages"]) / MESSAGES <= len(TEXT) + ENTRY
    assert (sum(full["room_rec"]) - sum(made["room_rec"])) / (MESSAGES / 2) <= CLAIM
    assert (sum(full["queue"]) - sum(made["queue"])) / MESSAGES <= len(TEXT) + EVENT
    await chat.persist()
    after = await sizes(chat)
    assert max(after["msg_state"]) <= STATE
    assert max(after["queue"]) <= 1000, "an empty stream holds nothing of what was in it"


async def test_bytes_of_a_reply_while_it_runs(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    parts, caller = chat.template.parts, await chat.template.caller_of(user)
    ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
    accepted = await parts.messages.accept(
        caller, room.room_id, NewMessage(*ids, "q", None, None, "queue")
    )
    assert accepted.slot is not None
    store = ReplySlots(chat.redis, parts.messages._streams, chat.template.wiring.settings)
    for n in range(200):
        await store.append(accepted.slot, "claim", 20 * n, "twenty bytes of text", "")
    (size,) = (await sizes(chat))["reply"]
    assert size / 200 <= 20 + DELTA
    await store.end(accepted.slot, "claim", "twenty bytes of text" * 200, {"finish_reason": "stop"})
