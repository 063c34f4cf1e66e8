"""Replies: turns, waiting, failures of the provider, and processes that die in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.llm.conversation import ReplyItem, estimate_tokens
from base_server.service.llm.llm_errors import AIUnavailable
from base_server.template.chat.common.chat_model import ChatMessage
from base_server.template.chat.common.chat_serialize import ChatRoomDeleteRequest
from base_server.template.chat.messages.repository import NewMessage
from base_server.template.chat.replies.slot import ReplySlot, SlotLost
from base_server.template.chat.replies.slots import ReplySlots
from tests.chat_harness import ChatHarness
from tests.openai_stub import Reply
from tests.waiting import until


def slow(text: str = "slow reply", delay_s: float = 0.05) -> Reply:
    return Reply(tokens=[f"{word} " for word in text.split()], delay_s=delay_s)


async def running(chat: ChatHarness, calls: int = 1) -> None:
    await until(lambda: chat.provider.calls >= calls)


def assert_accounted(message: ChatMessage) -> None:
    """A reply without an end of its own still says who was asked and about how much it cost."""
    tokens = message.metadata["tokens"]
    assert message.metadata["model"] == "stub"
    assert tokens["prompt"] > 0
    assert tokens["completion"] == estimate_tokens(message.content)
    assert tokens["total"] == tokens["prompt"] + tokens["completion"]
    assert message.metadata["latency_ms"] >= 0


@pytest.mark.chat_settings(checkpoint_interval_s=0.02)
async def test_running_reply_is_listed_from_the_start_with_its_text(
    chat: ChatHarness,
) -> None:
    """A running reply is in the list from the start with its text so far."""
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(slow("one two three four five six " * 10, 0.06))
    sending = asyncio.create_task(chat.try_send(user, room.room_id, "question"))
    seen = set()

    async def streamed() -> bool:
        page = await chat.messages(user, room.room_id)
        if page.messages:
            assert page.messages[1].state in ("COMPOSING", "PENDING")
            if page.messages[1].is_streaming:
                seen.add(page.messages[1].content)
        return len(seen) > 2

    await until(streamed)
    response = await sending
    assert response.message is not None
    assert all(response.message.content.startswith(text) for text in seen)
    assert not (await chat.messages(user, room.room_id)).messages[1].is_streaming


async def test_a_second_send_waits_its_turn_and_knows_the_first_reply(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(slow("first answer"), slow("second answer"), slow("third answer"))
    sends = []
    for n in range(3):
        sends.append(asyncio.create_task(chat.try_send(user, room.room_id, f"question {n}")))
        await until(lambda n=n: _listed(chat, user, room.room_id, 2 * n + 2))
    responses = await asyncio.gather(*sends)
    assert [response.errorCode for response in responses] == [0, 0, 0]
    texts = await chat.texts(user, room.room_id)
    assert texts == [
        "question 0",
        "first answer ",
        "question 1",
        "second answer ",
        "question 2",
        "third answer ",
    ]
    spoken = [message["content"] for message in chat.provider.requests[2].messages]
    assert spoken == [
        "Be brief.",
        "question 0",
        "first answer ",
        "question 1",
        "second answer ",
        "question 2",
    ]
    assert chat.provider.most_running == 1


@pytest.mark.chat_settings(history_length=40)
async def test_no_more_of_a_room_is_read_for_a_reply_than_its_model_is_told(
    chat: ChatHarness,
) -> None:
    told = chat.container.settings.llm.max_conversation_length
    assert told < 40
    user = await chat.user()
    room = await chat.room(user)
    for n in range(told):
        await chat.send(user, room.room_id, f"m{n}")
    parts, caller = chat.template.parts, await chat.template.caller_of(user)
    turns = []
    for content in ("at once", "later"):
        ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
        accepted = await parts.messages.accept(
            caller, room.room_id, NewMessage(*ids, content, None, None, "queue")
        )
        assert accepted.slot is not None
        turns.append(accepted.slot)
    store = parts.replies._services.slots
    for turn in turns:
        asked = await store.read_question(turn, "claim")
        assert asked is not None
        assert len(asked.history) == told
        await store.end(turn, "claim", "said", {})


async def _listed(chat: ChatHarness, user, room_id: str, count: int) -> bool:  # type: ignore[no-untyped-def]
    return len((await chat.messages(user, room_id)).messages) == count


@pytest.mark.chat_settings(max_waiting_turns=1)
async def test_a_busy_room_refuses_when_asked_to_or_when_too_many_wait(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(slow("a b c d e f g h"))
    first = asyncio.create_task(chat.try_send(user, room.room_id, "one"))
    await running(chat)
    rejected = await chat.try_send(user, room.room_id, "two", on_busy="reject")
    assert rejected.errorCode == 1006
    assert rejected.error is not None
    page = await chat.messages(user, room.room_id)
    assert rejected.error.details == {"message_id": page.messages[1].message_id}
    waiting = asyncio.create_task(chat.try_send(user, room.room_id, "three"))
    await until(lambda: _listed(chat, user, room.room_id, 4))
    full = await chat.try_send(user, room.room_id, "four")
    assert full.errorCode == 1006
    assert full.error is not None
    assert full.error.details == rejected.error.details
    assert "a reply is running" in rejected.error.message
    assert "already queued" in full.error.message
    assert [(await first).errorCode, (await waiting).errorCode] == [0, 0]
    assert await chat.questions(user, room.room_id) == ["one", "three"]


async def test_a_repeated_send_attaches_to_the_running_reply(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(slow())
    sends = [
        chat.try_send(user, room.room_id, "same", client_message_id="same-id") for _ in range(10)
    ]
    responses = await asyncio.gather(*sends)
    assert {response.errorCode for response in responses} == {0}
    assert {response.message.content for response in responses if response.message} == {
        "slow reply "
    }
    assert chat.provider.calls == 1


@pytest.mark.parametrize(
    ("reply", "code", "text"),
    [
        pytest.param(Reply(status=500, error="boom"), 1020, "", id="answers 500"),
        pytest.param(Reply(status=429, error="slow down"), 1020, "", id="answers 429"),
        pytest.param(
            Reply(tokens=["half ", "an answer"], cut="mid_json"),
            1020,
            "half an answer",
            id="cut in the middle",
        ),
        pytest.param(Reply(tokens=[]), 1020, "", id="says nothing"),
    ],
)
async def test_a_failing_provider_keeps_the_question_and_the_room(
    chat: ChatHarness, reply: Reply, code: int, text: str
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(reply)
    response = await chat.try_send(user, room.room_id, "question", client_message_id="c")
    assert response.errorCode == code
    assert response.user_message is not None
    assert response.message is not None
    assert (response.message.content, response.message.metadata["finish_reason"]) == (text, "error")
    assert_accounted(response.message)
    calls = chat.provider.calls
    again = await chat.try_send(user, room.room_id, "question", client_message_id="c")
    assert (again.errorCode, chat.provider.calls) == (code, calls)
    for answer in (response, again):
        assert answer.error is not None
        assert (answer.http_status, answer.error.retryable) == (502, False)
        assert "failed" in answer.error.message
        assert "new client_message_id" in answer.error.message
    await chat.persist()
    assert [message.state for message in (await chat.messages(user, room.room_id)).messages] == [
        "SENT",
        "SENT",
    ]
    await chat.send(user, room.room_id, "next")
    assert not any(message["content"] == "" for message in chat.provider.requests[-1].messages)


async def test_a_provider_that_was_not_called_is_said_so(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_place(*_: Any, **__: Any) -> AsyncIterator[ReplyItem]:
        raise AIUnavailable("no free place", called=False, retry_after_s=2.0)
        yield

    user = await chat.user()
    room = await chat.room(user)
    with monkeypatch.context() as patch:
        patch.setattr(chat.container.ai, "stream_claimed", no_place)
        first = await chat.try_send(user, room.room_id, "question", client_message_id="c1")
    again = await chat.try_send(user, room.room_id, "question", client_message_id="c1")
    for answer in (first, again):
        assert answer.error is not None
        assert (answer.errorCode, answer.http_status, answer.error.retry_after_s) == (
            1020,
            503,
            2.0,
        )
        assert "was not called" in answer.error.message
    fresh = await chat.try_send(user, room.room_id, "question", client_message_id="c2")
    assert fresh.errorCode == 0


@pytest.mark.chat_settings(reply_deadline_s=3)
async def test_a_hanging_provider_ends_at_the_deadline_with_what_it_said(chat: ChatHarness) -> None:
    user = await chat.user()
    await chat.container.ai._models()  # the first reply would wait for the import of LangChain
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["some"], hang=True))
    response = await chat.try_send(user, room.room_id)
    assert response.errorCode == 1021
    assert response.message is not None
    assert (response.message.content, response.message.metadata["finish_reason"]) == (
        "some",
        "error",
    )
    assert_accounted(response.message)
    await until(lambda: all(call.closed_by_client for call in chat.provider.requests))
    await chat.send(user, room.room_id, "still works")


@pytest.mark.parametrize("what", ["message", "room"])
async def test_deleting_a_running_reply_stops_the_provider_and_frees_the_room(
    chat: ChatHarness, what: str
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(slow("a b c d e f g h i j k l m n o p q r s t u v w x y z", 0.2))
    sending = asyncio.create_task(chat.try_send(user, room.room_id, "question"))
    await running(chat)
    reply = (await chat.messages(user, room.room_id)).messages[1]
    if what == "message":
        assert await chat.delete_message(user, room.room_id, reply.message_id) == 0
    else:
        await chat.template.on_chat_room_delete_req(
            user, ChatRoomDeleteRequest(room_id=room.room_id)
        )
    response = await sending
    assert response.errorCode == 1005
    assert response.user_message is not None
    await until(lambda: chat.provider.requests[0].closed_by_client)
    assert await chat.state(reply.message_id) == "DELETED"
    await chat.persist()
    if what == "message":
        assert await chat.texts(user, room.room_id) == ["question"]
        await chat.send(user, room.room_id, "next")
        await chat.persist()
        rows = await chat.rows(user, "fp_chat_window_get", room.room_id, 10)
        assert [(row["seq"], bool(row["deleted"])) for row in rows] == [
            (1, False),
            (2, True),
            (3, False),
            (4, False),
        ]


async def test_a_waiting_question_deleted_before_its_turn_is_not_asked(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(slow("first " * 30))
    first = asyncio.create_task(chat.try_send(user, room.room_id, "one"))
    await running(chat)
    second = asyncio.create_task(chat.try_send(user, room.room_id, "two"))
    await until(lambda: _listed(chat, user, room.room_id, 4))
    question = (await chat.messages(user, room.room_id)).messages[2]
    assert await chat.delete_message(user, room.room_id, question.message_id) == 0
    await first
    response = await second
    assert response.message is not None
    assert response.message.metadata["finish_reason"] == "stopped"
    assert chat.provider.calls == 1


@pytest.mark.chat_settings(reply_lease_s=3, sweep_interval_s=0.1)
async def test_reply_of_a_dead_process_is_interrupted_and_the_next_runs(
    chat: ChatHarness,
) -> None:
    """A reply whose process died is interrupted and the next question is answered."""
    user = await chat.user()
    room = await chat.room(user)
    parts = chat.template.parts
    caller = await chat.template.caller_of(user)
    ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
    # As SIGKILL leaves it: accepted and streaming, but nobody runs it.
    accepted = await parts.messages.accept(
        caller, room.room_id, NewMessage(*ids, "one", None, None, "queue")
    )
    assert accepted.slot is not None
    turns = ReplySlots(chat.redis, parts.messages._streams, chat.template.wiring.settings)
    assert await turns.claim(accepted.slot, "claim") is not None
    await turns.append(accepted.slot, "claim", 0, "some words 🎉", '"model":"stub"')
    # The one behind it was accepted by the dead process too, so somebody else must run it.
    ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
    await parts.messages.accept(caller, room.room_id, NewMessage(*ids, "two", None, None, "queue"))
    chat.provider.script(Reply(tokens=["second"]))

    async def ended() -> bool:
        messages = (await chat.messages(user, room.room_id)).messages
        return not any(message.is_streaming for message in messages)

    await until(ended)
    messages = (await chat.messages(user, room.room_id)).messages
    assert [message.content for message in messages] == ["one", "some words 🎉", "two", "second"]
    assert (messages[1].metadata["finish_reason"], messages[1].metadata["model"]) == (
        "interrupted",
        "stub",
    )
    assert messages[3].metadata["finish_reason"] == "stop"
    with pytest.raises(SlotLost):
        await turns.append(accepted.slot, "claim", 15, "too late", "")
    late = await turns.end(accepted.slot, "claim", "too late", {"finish_reason": "stop"})
    assert not late.is_ours
    assert (await chat.messages(user, room.room_id)).messages[1].content == "some words 🎉"
    assert chat.provider.calls == 1


async def _has_partial(chat: ChatHarness, user, room_id: str) -> bool:  # type: ignore[no-untyped-def]
    return bool((await chat.messages(user, room_id)).messages[1].content)


async def test_stopping_the_server_keeps_the_partial_text(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(slow("word " * 100))
    sending = asyncio.create_task(chat.try_send(user, room.room_id, "one"))
    await until(lambda: _listed(chat, user, room.room_id, 2))
    await until(lambda: _has_partial(chat, user, room.room_id))
    await chat.template.parts.replies.stop(0.0)
    response = await sending
    assert response.errorCode == 0
    assert response.message is not None
    assert response.message.metadata["finish_reason"] == "interrupted"
    assert response.message.content.startswith("word ")
    assert_accounted(response.message)


@pytest.mark.chat_settings(window=4)
async def test_awaited_reply_that_left_the_window_is_not_deleted(
    chat: ChatHarness,
) -> None:
    """Seen under ``make chaos``: a settle trimmed the window between the two reads of an attached
    send."""
    user = await chat.user()
    room = await chat.room(user)
    sent = await chat.try_send(user, room.room_id, "one")
    await chat.send(user, room.room_id, "two")
    assert sent.message is not None
    assert sent.message.seq is not None
    caller = await chat.template.caller_of(user)
    persona = sent.message.metadata["ai_persona"]
    turn = ReplySlot(
        "", caller, room.room_id, sent.message.message_id, sent.message.seq, "", 0, persona
    )
    store = chat.template.parts.replies._services.slots
    assert sent.message.message_id in await store.final(turn)
    await chat.send(user, room.room_id, "three")
    await chat.persist()
    with pytest.raises(ServiceUnavailable, match="left the room's window"):
        await store.final(turn)
    request = ChatRoomDeleteRequest(room_id=room.room_id)
    assert (await chat.template.on_chat_room_delete_req(user, request)).errorCode == 0
    assert await store.final(turn) == ""
