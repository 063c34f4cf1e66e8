"""Resuming at every offset of a reply, wherever the reply is; and what a draft does when Redis is
not there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base_server.template.base.client_session import ClientSession
from base_server.template.base.errors import InvalidRequest
from base_server.template.base.event_stream import StreamEvent
from base_server.template.chat.common.chat_serialize import ChatMessageResumeRequest
from base_server.template.chat.messages.repository import NewMessage
from base_server.template.chat.replies.reader import text_after
from base_server.template.chat.replies.slot import StreamBehind
from base_server.template.chat.replies.slots import ReplySlots
from tests.chat_harness import ChatHarness
from tests.openai_stub import Reply
from tests.waiting import until

TEXT = "aé한🎉\r\n\u2028e\u0301 data: x "
TEXTS = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=8)


@given(TEXTS, st.integers(0, 200))
def test_what_was_read_and_the_rest_are_the_whole_from_any_offset(
    deltas: list[str], offset: int
) -> None:
    """Of a running reply, delta by delta, and of the stored text in one: the same rest or the same
    refusal."""
    whole = "".join(deltas)
    encoded = whole.encode()
    boundaries = {len(whole[:n].encode()) for n in range(len(whole) + 1)}
    if offset > len(encoded) + 1 or (offset < len(encoded) and offset not in boundaries):
        with pytest.raises(InvalidRequest):
            text_after(whole, len(encoded), offset)
        return
    assert text_after(whole, len(encoded), offset) == encoded[offset:].decode()
    end, rest = 0, ""
    for delta in deltas:
        end += len(delta.encode())
        if end > offset:  # what XRANGE gives
            rest += text_after(delta, end, offset)
    assert rest == encoded[offset:].decode()


async def resumed(
    chat: ChatHarness, user: ClientSession, room_id: str, reply_id: str, offset: int
) -> list[StreamEvent]:
    request = ChatMessageResumeRequest(room_id=room_id, message_id=reply_id, last_event_id=offset)
    given_back = await chat.template.on_chat_message_resume_req(user, request)
    assert hasattr(given_back, "aclose"), given_back
    return [event async for event in given_back]


async def refusal(
    chat: ChatHarness, user: ClientSession, room_id: str, reply_id: str, offset: int
) -> int:
    request = ChatMessageResumeRequest(room_id=room_id, message_id=reply_id, last_event_id=offset)
    response: Any = await chat.template.on_chat_message_resume_req(user, request)
    return int(response.errorCode)


async def _forget(
    chat: ChatHarness, user: ClientSession, room_id: str, reply_id: str, how: str
) -> None:
    """``just ended``, ``stream expired``, ``room expired`` (only the database has it), ``left the
    window``."""
    keys = chat.keys
    if how == "stream expired":
        assert await chat.ttl_ms(keys.room(room_id).reply_stream(reply_id)) > 0
        await chat.redis.execute("DEL", keys.room(room_id).reply_stream(reply_id))
    if how == "room expired":
        await chat.persist()
        await chat.redis.execute("DEL", keys.room(room_id).record, keys.room(room_id).messages, keys.room(room_id).json,
                                 keys.room(room_id).reply_stream(reply_id), keys.message_state(reply_id))  # fmt: skip
    if how == "left the window":
        for n in range(3):
            await chat.send(user, room_id, f"later {n}")
        await chat.persist()


@pytest.mark.chat_settings(window=4)
@pytest.mark.parametrize("how", ["just ended", "stream expired", "room expired", "left the window"])
async def test_a_reply_that_has_ended_resumes_at_every_offset(chat: ChatHarness, how: str) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(list(TEXT), delay_s=0.001))
    watching = chat.template.parts
    sent = asyncio.create_task(chat.try_send(user, room.room_id, "hello"))
    await until(lambda: len(watching.replies))
    reply_id = next(iter(watching.replies._running))
    assert watching.replies.watch(reply_id)
    response = await sent
    assert response.message is not None
    await _forget(chat, user, room.room_id, reply_id, how)
    length = len(TEXT.encode())
    boundaries = {len(TEXT[:n].encode()) for n in range(len(TEXT) + 1)}
    for offset in range(length + 4):
        if offset not in boundaries | {length + 1}:
            assert await refusal(chat, user, room.room_id, reply_id, offset) == 1002
            continue
        events = await resumed(chat, user, room.room_id, reply_id, offset)
        assert (
            "".join(event.data.get("text", "") for event in events)
            == TEXT.encode()[offset:].decode()
        )
        assert [(event.name, event.id) for event in events][-1] == ("reply.done", length + 1)
        assert len(events) == 1 + (offset < length)
        assert events[-1].data["message"]["content"] == TEXT


async def test_a_running_reply_refuses_an_offset_that_it_has_not_reached(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(["é한"], hang=True))
    sending = asyncio.create_task(chat.try_send(user, room.room_id, "hello"))
    await until(lambda: len(chat.template.parts.replies))
    reply_id = next(iter(chat.template.parts.replies._running))
    chat.template.parts.replies.watch(reply_id)

    async def said() -> bool:
        return (await chat.messages(user, room.room_id)).messages[1].content == "é한"

    await until(said)
    for offset, code in ((1, 1002), (3, 1002), (6, 1002), (7, 1002)):
        assert await refusal(chat, user, room.room_id, reply_id, offset) == code, offset
    reading = asyncio.create_task(resumed(chat, user, room.room_id, reply_id, 2))
    await until(lambda: len(chat.template.parts.readers) == 1)
    await chat.template.parts.replies.stop(0)
    events = await reading
    assert [(event.name, event.id) for event in events] == [
        ("reply.delta", 5),
        ("reply.stopped", 6),
    ]
    assert events[0].data["text"] == "한"
    assert events[1].data["message"]["metadata"]["finish_reason"] == "interrupted"
    await sending


async def test_text_that_is_appended_again_is_not_there_twice(chat: ChatHarness) -> None:
    """A lost answer: the writer does not know whether the text arrived, and has more by the time it
    asks again."""
    user = await chat.user()
    room = await chat.room(user)
    parts, caller = chat.template.parts, await chat.template.caller_of(user)
    ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
    accepted = await parts.messages.accept(
        caller, room.room_id, NewMessage(*ids, "q", None, None, "queue")
    )
    turn = accepted.slot
    assert turn is not None
    turns = ReplySlots(chat.redis, parts.messages._streams, chat.template.wiring.settings)
    for start, text in ((0, "é"), (0, "é"), (0, "é한 and"), (2, "한 and more"), (0, "")):
        await turns.append(turn, "claim", start, text, "")
    with pytest.raises(StreamBehind) as behind:
        await turns.append(turn, "claim", 100, "gap", "")
    assert behind.value.length == len("é한 and more".encode())
    reply = (await chat.messages(user, room.room_id)).messages[1]
    assert reply.content == "é한 and more"
    await turns.end(
        turn, "claim", "é한 and more!", {"finish_reason": "stop"}, start=5, unsent=" and more!"
    )
    key = chat.keys.room(room.room_id).reply_stream(turn.reply_id)
    entries = await chat.redis.execute("XRANGE", key, "-", "+")
    assert [entry_id for entry_id, _ in entries] == ["2-0", "9-0", "14-0", "15-0", "16-0"]
    assert "".join(fields[1] for _, fields in entries[:-1]) == "é한 and more!"
    assert entries[-1][1] == ["end", "stop"]
    assert 0 < await chat.ttl_ms(key) <= 300_000
