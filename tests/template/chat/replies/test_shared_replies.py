"""Replies that two processes share: read at one, written at the other, taken up from one by the
other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

from base_server.service.cache.cache_settings import CacheSettings
from base_server.template.base.client_session import ClientSession
from base_server.template.base.event_stream import StreamEvent
from base_server.template.chat.common.chat_serialize import (
    ChatMessageResumeRequest,
    ChatMessageStopRequest,
    ChatRoomDeleteRequest,
)
from base_server.template.chat.messages.repository import NewMessage
from base_server.template.chat.replies.slots import ReplySlots
from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub, Reply
from tests.waiting import PATIENCE_S, until

HALF = Reply(tokens=["half "], hang=True)


@pytest.fixture
async def other(
    backends: tuple[CacheSettings, DatabaseBackend],
    chat: ChatHarness,
    app_id: str,
    provider: OpenAIStub,
) -> AsyncIterator[ChatHarness]:
    """A second set of services on the same servers, as another process would have it."""
    async with running_harness(*backends, app_id, provider) as harness:
        for each in (chat, harness):  # the first reply would wait for the import of LangChain
            await each.container.ai._models()
            # A reader learns of what happens elsewhere by a signal, or not in these tests.
            each.template.parts.readers.check_interval_s = 3600.0
        yield harness


async def reply_of(chat: ChatHarness, user: ClientSession, room_id: str, place: int = 1) -> str:
    """The id of a reply, once it is in the list."""

    async def listed() -> bool:
        return len((await chat.messages(user, room_id)).messages) > place

    await until(listed)
    return (await chat.messages(user, room_id)).messages[place].message_id


class Reader:
    """Reads a reply along in a task of its own. ``names``: of the events so far."""

    def __init__(self, chat: ChatHarness, events: AsyncIterator[StreamEvent]) -> None:
        self._readings = chat.template.parts.readers._readings
        self._events = events
        self.text = ""
        self.names: list[str] = []
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def of(cls, chat: ChatHarness, user: ClientSession, room_id: str, reply_id: str) -> Self:
        request = ChatMessageResumeRequest(room_id=room_id, message_id=reply_id, last_event_id=0)
        events: Any = await chat.template.on_chat_message_resume_req(user, request)
        assert hasattr(events, "aclose"), events
        return cls(chat, events)

    async def waits_behind(self, text: str) -> None:
        """Until it has this text and waits for news."""
        await until(
            lambda: self.text == text and all(reading._waiting for reading in self._readings)
        )

    async def end(self) -> str:
        """The name of the last event."""
        async with asyncio.timeout(PATIENCE_S):
            await self._task
        return self.names[-1]

    async def _read(self) -> None:
        async for event in self._events:
            self.names.append(event.name)
            self.text += event.data.get("text", "")


async def test_readers_of_foreign_replies_are_released_when_stopping(
    chat: ChatHarness, other: ChatHarness
) -> None:
    """Readers of replies that run elsewhere are let go at once when their process stops."""
    user = await chat.user()
    room, elsewhere = await chat.room(user), await chat.room(user)
    chat.provider.script(HALF, HALF)
    sends = [
        asyncio.create_task(chat.try_send(user, room.room_id)),
        asyncio.create_task(other.try_send(user, elsewhere.room_id)),
    ]
    own = await Reader.of(chat, user, room.room_id, await reply_of(chat, user, room.room_id))
    guest = await Reader.of(
        chat, user, elsewhere.room_id, await reply_of(chat, user, elsewhere.room_id)
    )
    await own.waits_behind("half ")
    await guest.waits_behind("half ")
    await chat.template.quiet()
    assert await guest.end() == "reply.delta", "it goes on there, and so can its reader"
    assert len(chat.template.parts.readers) == 1, "who reads what runs here stays"
    for harness in (chat, other):
        await harness.template.parts.replies.stop(0.0)
    assert await own.end() == "reply.stopped"
    await asyncio.gather(*sends)


@pytest.mark.parametrize("what", ["message", "room"])
async def test_a_delete_ends_readers_elsewhere_at_once(
    chat: ChatHarness, other: ChatHarness, what: str
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(HALF)
    sending = asyncio.create_task(chat.try_send(user, room.room_id))
    reply_id = await reply_of(chat, user, room.room_id)
    guest = await Reader.of(other, user, room.room_id, reply_id)
    await guest.waits_behind("half ")
    if what == "message":
        assert await chat.delete_message(user, room.room_id, reply_id) == 0
    else:
        await chat.template.on_chat_room_delete_req(
            user, ChatRoomDeleteRequest(room_id=room.room_id)
        )
    assert await guest.end() == "reply.error"
    await sending


async def test_a_turn_that_another_process_took_up_meanwhile_is_left_to_it(
    chat: ChatHarness, other: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first process stood still past the lease, between two looks at whether the turn has
    come."""
    user = await chat.user()
    room = await chat.room(user)
    parts, goes_on = chat.template.parts, asyncio.Event()
    look = ReplySlots.read_question

    async def stood_still(self: ReplySlots, *args: Any, **options: Any) -> Any:
        if self is parts.replies._services.slots:
            await goes_on.wait()
        return await look(self, *args, **options)

    monkeypatch.setattr(ReplySlots, "read_question", stood_still)
    chat.provider.script(HALF, Reply(tokens=["taken ", "up"], delay_s=0.3, hang=True))
    first = asyncio.create_task(chat.try_send(user, room.room_id, "one"))
    first_id = await reply_of(chat, user, room.room_id)
    second = asyncio.create_task(chat.try_send(user, room.room_id, "two"))
    second_id = await reply_of(chat, user, room.room_id, 3)
    reader = await Reader.of(chat, user, room.room_id, second_id)
    await until(lambda: chat.provider.calls == 1)
    await chat.template.on_chat_message_stop_req(
        user, ChatMessageStopRequest(room_id=room.room_id, message_id=first_id)
    )
    await other.template.parts.replies.sweep(all_open=True)
    await until(lambda: chat.provider.calls == 2)
    goes_on.set()
    await until(lambda: not parts.replies.runs_here(second_id))
    await reader.waits_behind("taken up")
    open_replies = chat.keys.account(user.session.account_id).open_replies
    assert await chat.redis.execute("ZSCORE", open_replies, second_id) is not None, (
        "it counts while it runs"
    )
    assert await chat.ttl_ms(chat.keys.room(room.room_id).reply_stream(second_id)) == -1, (
        "its text stays while it runs"
    )
    await other.template.parts.replies.stop(0.0)
    assert await reader.end() == "reply.stopped"
    await first
    answer = await second
    assert answer.message is not None, answer.error
    assert answer.message.content == "taken up"
    assert chat.provider.calls == 2


@pytest.mark.chat_settings(sweep_interval_s=3)
@pytest.mark.parametrize("how", ["ended", "stopped", "silent", "deleted", "interrupted"])
async def test_a_question_whose_process_is_gone_does_not_wait_for_a_whole_lease(
    chat: ChatHarness, how: str
) -> None:
    user = await chat.user()
    room_id = (await chat.room(user)).room_id
    parts, caller = chat.template.parts, await chat.template.caller_of(user)
    turns = []
    for content in ("one", "two"):
        ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
        accepted = await parts.messages.accept(
            caller, room_id, NewMessage(*ids, content, None, None, "queue")
        )
        assert accepted.slot is not None
        turns.append(accepted.slot)
    store = parts.replies._services.slots
    if how == "ended":
        await store.end(turns[0], "claim", "said", {})
    elif how == "stopped":
        await parts.reply_repository.stop(caller, room_id, turns[0].reply_id)
    elif how == "silent":
        await store.interrupt(turns[0])
    elif how == "deleted":
        await chat.delete_message(user, room_id, turns[0].reply_id)
    else:
        ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
        await parts.messages.accept(
            caller, room_id, NewMessage(*ids, "three", None, None, "interrupt")
        )
    ready_until = float(
        await chat.redis.execute("ZSCORE", chat.keys.partition(caller.partition).leases, room_id)
    )
    seconds, micros = await chat.redis.execute("TIME")
    assert ready_until - (int(seconds) * 1000 + int(micros) / 1000) <= 2000
    assert chat.template.wiring.settings.reply_lease_s > 2
    await until(lambda: chat.provider.calls, what="the sweep runs it")
