"""One reply of this process, in a task of its own: it waits for its slot, asks the AI, and ends
exactly once."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.core.tracing import span
from base_server.service.llm.conversation import (
    Question,
    ReplyChunk,
    ReplyEnd,
    ReplyItem,
    ReplyStart,
)
from base_server.service.llm.llm_errors import AITimeout, AIUnavailable
from base_server.template.chat.cache.load import Loaded
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.replies.buffer import ReplyBuffer
from base_server.template.chat.replies.ending import ReplyEnding
from base_server.template.chat.replies.life import ReplyLife, ReplyState, StopReason
from base_server.template.chat.replies.metadata import LazyHistory
from base_server.template.chat.replies.signals import ReplySignal, ReplySignals
from base_server.template.chat.replies.slot import ReplySlot, RoomNotLoaded, SlotLost
from base_server.template.chat.replies.slots import ReplySlots, SlotQuestion
from base_server.template.chat.settings import ChatSettings

_POLL_S = 1.0
"""For a signal that was missed."""
_RETRY_S = 0.2
_FRESH_S = 0.5
"""An older question is read again before it is asked: messages may have been deleted meanwhile."""


class ReplySource(Protocol):
    """The one call of AIChatService that a reply needs."""

    def stream_claimed(
        self,
        ask: Callable[[], Awaitable[Question]],
        claim: Callable[[], Awaitable[None]],
        *,
        ai_persona: str | None = None,
    ) -> AsyncGenerator[ReplyItem, None]: ...


@dataclass(frozen=True)
class ReplyServices:
    """What every reply of the process works with."""

    slots: ReplySlots
    load_room: Callable[[Caller, str], Awaitable[Loaded]]
    ai: ReplySource
    signals: ReplySignals
    settings: ChatSettings
    tasks: TaskRegistry


class RunningReply:
    """Subscribes to its own signals. ``question``: what to ask, where that is known from the start.

    ``is_granted``: its slot was granted when it was made. ``is_only_process``: no other process can
    have asked."""

    def __init__(
        self,
        slot: ReplySlot,
        question: SlotQuestion | None,
        services: ReplyServices,
        ending: ReplyEnding,
        *,
        is_granted: bool,
        is_watched: bool,
        is_only_process: bool,
    ) -> None:
        self.slot = slot
        self.slot_granted = asyncio.Event()
        self.task: asyncio.Task[str]
        self._services = services
        self._slots = services.slots
        self._ending = ending
        self._life = ReplyLife()
        self._question = question
        self._question_read_s = time.monotonic()
        self._is_granted = is_granted
        self._is_adopted = is_granted and question is None
        self._is_only_process = is_only_process
        self._deadline_s = asyncio.get_running_loop().time() + services.settings.reply_deadline_s
        self._deadline: asyncio.Timeout | None = None
        # Names this task in the claim: only it gets the same answer again when the first was lost.
        self._claim_id = secrets.token_hex(8)
        self.buffer = ReplyBuffer(
            slot,
            self._claim_id,
            services.slots,
            services.settings,
            services.tasks,
            is_watched=is_watched,
            on_stored=lambda: services.signals.notify_local(slot.reply_id, ReplySignal.TEXT),
            on_lost=lambda: self.cancel(StopReason.ENDED_ELSEWHERE),
        )

    def __call__(self, signal: ReplySignal | None) -> None:
        match signal:
            case ReplySignal.ENDED:
                self.cancel(StopReason.ENDED_ELSEWHERE)
            case ReplySignal.WATCHED:
                self.buffer.watch()
            case ReplySignal.READY | None:
                self.slot_granted.set()

    def cancel(self, reason: StopReason) -> None:
        """Stop for ``reason``, unless it stops already; a call of the provider is closed."""
        if (
            self._life.cancel(reason)
            and self._deadline is not None
            and not self._deadline.expired()
        ):
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> str:
        """The final list entry; '' when the reply was deleted.

        Raises ReplyHandedOver when another process has the reply, ReplyPostponed when it waits for
        one."""
        outcome: ReplyEnd | BaseException
        try:
            async with asyncio.timeout_at(self._deadline_s) as self._deadline:
                outcome = await self._ask()
        except (Exception, asyncio.CancelledError) as error:
            outcome = error
        # No await between the block above and this line, so cancel() never meets a deadline that is
        # over.
        finish = self._life.end(_stop_reason(outcome, is_adopted=self._is_adopted))
        end = self._ending.finish(self.buffer, finish, outcome)
        if isinstance(outcome, asyncio.CancelledError):
            # The process cancels what is left at its end: a second cancellation must not cut the
            # end of the reply.
            end = self._services.tasks.finish(end, "end cancelled reply")
        try:
            return await end
        finally:
            self._life.move(ReplyState.DONE)

    async def _ask(self) -> ReplyEnd:
        """Ask the AI as soon as the slot is granted; its text goes to the buffer."""
        while True:
            self._check()
            if not self._is_granted:
                await self._wait_for_slot()
            self.buffer.open()
            try:
                with span("ai reply", persona=self.slot.persona):
                    return await self._collect()
            except _NotGranted:
                # The buffer goes on renewing the lease: the claim may have been stored, and its
                # answer lost.
                self._is_granted, self._question = False, None

    async def _collect(self) -> ReplyEnd:
        items = self._services.ai.stream_claimed(
            self._current_question, self._claim, ai_persona=self.slot.persona
        )
        async with aclosing(items):
            async for item in items:
                if isinstance(item, ReplyChunk):
                    self.buffer.add(item)
                elif isinstance(item, ReplyStart):
                    self.buffer.note_call(item)
                elif not self.buffer.text:
                    raise AIUnavailable("the model said nothing")
                else:
                    return item
        raise AIUnavailable("the reply has no end")

    async def _wait_for_slot(self) -> None:
        """Return once the slot is granted; the question is known then. Raises SlotLost."""
        while True:
            self.slot_granted.clear()
            backoff_s = _POLL_S
            try:
                if await self._read_question():
                    return
            except RoomNotLoaded:
                backoff_s = await self._load_room()
            except ServiceUnavailable:
                Logger.warn("turn not awaited: Redis is away", room_id=self.slot.room_id)
                backoff_s = _RETRY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await self.slot_granted.wait()

    async def _read_question(self) -> bool:
        """Read what to ask. Returns whether the slot is granted."""
        self._question = await self._slots.read_question(
            self.slot, self._claim_id, is_only_process=self._is_only_process
        )
        self._question_read_s = time.monotonic()
        return self._question is not None

    async def _current_question(self) -> Question:
        """Awaited by the AI service once the call may run, which can be long after the slot was
        granted."""
        while self._question is None or time.monotonic() - self._question_read_s > _FRESH_S:
            try:
                if not await self._read_question():
                    raise _NotGranted
            except RoomNotLoaded:
                # A load may take long: it must not occupy one of the AI calls.
                raise _NotGranted from None
            except ServiceUnavailable:
                await asyncio.sleep(_RETRY_S)
        if not self._question.text:
            raise _QuestionDeleted
        return Question(self._question.text, LazyHistory(self._question.history))

    async def _claim(self) -> None:
        """Awaited by the AI service right before the request to the provider goes out.

        Repeated while Redis is away: only an answer says whether the slot is ours."""
        while True:
            # Race: cancel() has woken nobody yet, and a claim that goes out now could not be
            # interrupted any more.
            self._check()
            self._life.move(ReplyState.CLAIMING)
            try:
                has_question = await self._slots.claim(
                    self.slot, self._claim_id, is_only_process=self._is_only_process
                )
            except RoomNotLoaded:
                has_question = None
            except ServiceUnavailable:
                self._life.move(ReplyState.WAITING)
                await asyncio.sleep(_RETRY_S)
                continue
            if has_question is None:
                self._life.move(ReplyState.WAITING)
                raise _NotGranted
            # Race: a shutdown that awaited this answer hands the slot over, before anybody was
            # asked.
            self._check()
            self._life.move(ReplyState.ANSWERING)
            self.buffer.begin()
            if not has_question:
                raise _QuestionDeleted
            return

    async def _load_room(self) -> float:
        """Load the reply's room. Returns the seconds to wait before the slot is looked at again.

        Raises SlotLost when the room does not exist any more."""
        slot = self.slot
        try:
            await self._slots.restore(slot)
            if await self._services.load_room(slot.caller, slot.room_id) is not Loaded.LOADED:
                await self._slots.forget(slot)
                raise SlotLost
        except ServiceUnavailable as outage:
            Logger.warn("room of a reply not loaded", room_id=slot.room_id, reason=outage.reason)
            return _POLL_S
        return 0.0

    def _check(self) -> None:
        if self._life.reason is not None:
            raise _Stopped


class _Stopped(Exception):
    """The reply was cancelled: the reason is known already."""


class _NotGranted(Exception):
    """The slot must be waited for again: the room must be loaded, or an older Redis came back."""


class _QuestionDeleted(Exception):
    """There is nothing to ask any more."""


_REASONS: dict[type[BaseException], StopReason] = {
    _QuestionDeleted: StopReason.QUESTION_DELETED,
    SlotLost: StopReason.ENDED_ELSEWHERE,
    asyncio.CancelledError: StopReason.SHUTDOWN,
    AITimeout: StopReason.TIMED_OUT,
    TimeoutError: StopReason.TIMED_OUT,
}


def _stop_reason(outcome: ReplyEnd | BaseException, *, is_adopted: bool) -> StopReason:
    """Why a reply stops that nobody has cancelled."""
    if isinstance(outcome, ReplyEnd):
        return StopReason.COMPLETED
    if is_adopted and isinstance(outcome, AIUnavailable) and not outcome.called:
        # The process that accepted it, or another one, may have capacity for it.
        return StopReason.NO_CAPACITY
    return next(
        (why for kind, why in _REASONS.items() if isinstance(outcome, kind)), StopReason.FAILED
    )
