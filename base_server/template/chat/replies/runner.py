"""AI replies: each runs in a task of its own, under a turn, and ends exactly once.

Readers do not matter to it: the caller of ``message/send`` waits for the task, but its leaving stops
nothing. What was streamed is in Redis; a process that dies leaves its turn to the sweeper of another.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Protocol

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.core.tracing import span
from base_server.service.llm.conversation import Question, ReplyChunk, ReplyItem, ReplyStart
from base_server.service.llm.llm_errors import AITimeout, AIUnavailable, UnknownPersona
from base_server.template.base.errors import ErrorCode
from base_server.template.chat.cache.loader import Loaded
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.metrics import OPEN_REPLIES, REPLIES
from base_server.template.chat.replies.buffer import ReplyBuffer
from base_server.template.chat.replies.metadata import (
    LazyHistory,
    call_facts,
    end_facts,
    end_of,
    failed,
)
from base_server.template.chat.replies.signals import ReplySignal, ReplySignals
from base_server.template.chat.replies.slot import ReplySlot
from base_server.template.chat.replies.slots import (
    Asked,
    Ended,
    ReplySlots,
    RoomNotLoaded,
    SlotLost,
)
from base_server.template.chat.settings import ChatSettings

_POLL_S = 1.0
_RETRY_S = 0.2
_FRESH_S = 0.5
"""What was to be asked so long ago is looked at again before it is asked."""


class ReplySource(Protocol):
    """The one call of AIChatService that a reply needs."""

    def stream_claimed(
        self,
        ask: Callable[[], Awaitable[Question]],
        claim: Callable[[], Awaitable[None]],
        *,
        ai_persona: str | None = None,
    ) -> AsyncGenerator[ReplyItem, None]: ...


class RunningReply:
    """A reply of this process: it waits for its turn, then collects what the AI says. It hears the news of itself.

    ``claim_id`` names this process's wish to ask. ``has_come``: its turn was there when it was made. ``asked``: what
    was to be asked then, if that is known. ``is_adopted``: its question was accepted elsewhere, or before.
    ``is_alone``: no other process can have asked it."""

    def __init__(
        self,
        turn: ReplySlot,
        asked: Asked | None,
        remaining_s: float,
        *,
        has_come: bool,
        is_alone: bool = False,
    ) -> None:
        self.turn = turn
        self.asked = asked
        self.asked_at_s = time.monotonic()
        self.claim_id = secrets.token_hex(8)
        self.deadline_s = time.monotonic() + remaining_s
        self.draft: ReplyBuffer
        self.task: asyncio.Task[str]
        self.has_come = has_come
        self.is_alone = is_alone
        self.is_adopted = has_come and asked is None
        self.turn_came = asyncio.Event()
        self.is_lost = False
        self.is_claiming = self.is_called = self.is_leaving = self.is_ending = False
        self._asking: asyncio.Timeout | None = None

    def __call__(self, news: ReplySignal | None) -> None:
        match news:
            case ReplySignal.ENDED:
                self.lose()
            case ReplySignal.WATCHED:
                self.draft.watch()
            case ReplySignal.READY | None:
                self.turn_came.set()

    def lose(self) -> None:
        """Somebody else ended it: close the provider's connection, say nothing more."""
        self.is_lost = True
        self.turn_came.set()
        self._wake()

    def leave(self) -> None:
        """This process stops: what was called ends as it is, what was not keeps its place for another process."""
        self.is_leaving = True
        self.turn_came.set()
        if self.is_called and not self.is_ending:
            self.task.cancel()
        elif not self.is_claiming:
            # A claim under way is awaited: its answer says whether there is something to give back.
            self._wake()

    def _wake(self) -> None:
        """End the wait of :meth:`collect`."""
        if self._asking is not None and not self._asking.expired():
            self._asking.reschedule(asyncio.get_running_loop().time())

    async def collect(self, items: AsyncGenerator[ReplyItem, None]) -> dict[str, Any]:
        """Everything that the AI says goes into the draft; the reply's metadata.

        Raises SlotLost as soon as somebody else ended it, Leaving when this process stops before anybody was called,
        TimeoutError at the reply's deadline."""
        try:
            async with (
                asyncio.timeout(max(0.0, self.deadline_s - time.monotonic())) as asking,
                aclosing(items),
            ):
                self._asking = asking
                self.check()
                async for item in items:
                    if isinstance(item, ReplyChunk):
                        self.draft.add(item)
                    elif isinstance(item, ReplyStart):
                        self.draft.ask(item)
                    elif not self.draft.text:
                        raise AIUnavailable("the model said nothing")
                    else:
                        return end_facts(item)
            raise AIUnavailable("the reply has no end")
        except TimeoutError:
            if not self.is_called or self.is_lost:
                self.check()
            raise
        finally:
            self._asking = None

    def check(self) -> None:
        """Raise SlotLost or Leaving when it is not to be asked here any more."""
        if self.is_lost:
            raise SlotLost
        if self.is_leaving:
            raise Leaving("chat", "this process stops, the question waits for another")


class ChatReplies:
    """Runs, ends and sweeps replies of this process."""

    def __init__(
        self,
        turns: ReplySlots,
        load_room: Callable[[Caller, str], Awaitable[Loaded]],
        ai: ReplySource,
        news: ReplySignals,
        settings: ChatSettings,
        tasks: TaskRegistry,
    ) -> None:
        self._turns = turns
        self._load_room = load_room
        self._ai = ai
        self._news = news
        self._settings = settings
        self._tasks = tasks
        self._running: dict[str, RunningReply] = {}
        self._by_token: dict[str, RunningReply] = {}
        self._quiet = False

    def __len__(self) -> int:
        return len(self._running)

    def start(self, turn: ReplySlot, asked: Asked | None, *, has_come: bool, watched: bool) -> None:
        """Run a reply that nobody runs, unless it runs here already. ``has_come``: else it waits for its turn first.

        ``watched``: somebody reads along from the start."""
        if turn.reply_id in self._running:
            if watched:
                self.watch(turn.reply_id)
            return
        self._start(
            turn, asked, self._settings.reply_deadline_s, has_come=has_come, watched=watched
        )

    async def finished(self, reply_id: str) -> str:
        """The final list entry ('' when it was deleted) of a reply that runs here.

        Raises ReplyHandedOver when another process has it by now: this one stood still for longer than its lease."""
        return await asyncio.shield(self._running[reply_id].task)

    def watch(self, reply_id: str) -> bool:
        """Somebody reads along; False when it does not run here."""
        running = self._running.get(reply_id)
        if running is not None:
            running.draft.watch()
        return running is not None

    def runs_here(self, reply_id: str) -> bool:
        return reply_id in self._running

    def stopped(self, reply_id: str, ready_token: str) -> None:
        """A reply was ended from outside: do at once what the news will say."""
        self._news.tell_here(reply_id, ReplySignal.ENDED)
        self._wake(ready_token)

    async def sweep(self, *, all_open: bool = False) -> None:
        """End the replies whose process is silent past its lease, run those that nobody began.

        ``all_open``: no other process can be alive, so none is waited for (embedded default, at start)."""
        for found in await self._turns.expired(all_open=all_open):
            turn = found.turn
            if turn.reply_id in self._running:
                continue
            if not found.is_called:
                # Who stops leaves it to the others, or to whoever starts next.
                if not self._quiet:
                    # Nobody has waited for it in the meantime: the whole time begins now.
                    self._start(
                        turn,
                        None,
                        self._settings.reply_deadline_s,
                        has_come=True,
                        watched=True,
                        is_alone=all_open,
                    )
                continue
            ended = await self._turns.interrupt(turn, only_if_expired=not all_open)
            if ended is not None and ended.ours:
                Logger.warn(
                    "reply interrupted: its process is gone",
                    room_id=turn.room_id,
                    message_id=turn.reply_id,
                )
                REPLIES.add("interrupted")
                self._wake(ended.ready_token)

    def quiet(self) -> None:
        """Adopt no more turns; those that wait here go on until :meth:`stop`."""
        self._quiet = True

    async def stop(self, drain_s: float) -> None:
        """Let running replies finish for ``drain_s`` seconds, then end the rest as interrupted; questions that wait for
        their turn stay in the queue."""
        if running := [reply.task for reply in self._running.values()]:
            await asyncio.wait(running, timeout=drain_s)
        late = list(self._running.values())
        for reply in late:
            reply.leave()
        await asyncio.gather(*(reply.task for reply in late), return_exceptions=True)

    def _start(
        self,
        turn: ReplySlot,
        asked: Asked | None,
        remaining_s: float,
        *,
        has_come: bool,
        watched: bool,
        is_alone: bool = False,
    ) -> None:
        reply = RunningReply(turn, asked, remaining_s, has_come=has_come, is_alone=is_alone)
        reply.draft = ReplyBuffer(
            turn,
            reply.claim_id,
            self._turns,
            self._settings,
            self._tasks,
            watched=watched,
            on_stored=lambda: self._news.tell_here(turn.reply_id, ReplySignal.TEXT),
            on_lost=reply.lose,
        )
        self._running[turn.reply_id] = self._by_token[turn.token] = reply
        reply.task = self._tasks.spawn(self._run(reply), f"reply {turn.reply_id}")

    async def _run(self, reply: RunningReply) -> str:
        try:
            with self._news.heard_by(reply.turn.reply_id, reply), OPEN_REPLIES.track_in_progress():
                entry = await self._answer(reply)
            REPLIES.add(end_of(entry))
            return entry
        finally:
            del self._running[reply.turn.reply_id], self._by_token[reply.turn.token]
            self._news.tell_here(reply.turn.reply_id, ReplySignal.ENDED)

    async def _answer(self, reply: RunningReply) -> str:
        """Ask, and end the reply with what was said.

        Raises Leaving, and ReplyHandedOver when another process has the reply."""
        turn, draft = reply.turn, reply.draft
        try:
            try:
                metadata = await self._ask(reply)
            except asyncio.CancelledError:
                # Only stop() cancels a reply, and not one that is ending.
                end = self._end(reply, {"finish_reason": "interrupted"})
                return (await self._tasks.finish(end, "interrupt reply")).entry
            ended = await self._end(reply, metadata)
            return ended.entry or await self._turns.final(turn)
        except SlotLost:
            reply.is_ending = True
            await draft.close()
            if await self._turns.leave(turn):
                raise ReplyHandedOver("chat", "another process has taken up the reply") from None
            return await self._turns.final(turn)
        except Leaving:
            await draft.close()
            await self._hand_over(reply)
            raise

    async def _ask(self, reply: RunningReply) -> dict[str, Any]:
        """What the AI says goes into the draft; the reply's metadata, however it failed. Raises SlotLost, Leaving."""
        turn = reply.turn
        try:
            while True:
                if not reply.has_come:
                    await self._wait(reply)
                reply.draft.open()
                try:
                    with span("ai reply", persona=turn.persona):
                        ask, claim = partial(self._question, reply), partial(self._claim, reply)
                        return await reply.collect(
                            self._ai.stream_claimed(ask, claim, ai_persona=turn.persona)
                        )
                except _NotYet:
                    # The lease goes on: the claim may have been stored, and its answer lost.
                    reply.has_come, reply.asked = False, None
        except _QuestionDeleted:
            return {"finish_reason": "stopped"}
        except (AITimeout, TimeoutError):
            if reply.is_called:
                return failed(turn, ErrorCode.AI_TIMED_OUT)
        except AIUnavailable as error:
            if reply.is_adopted and not error.called and not reply.is_called:
                # Its own process, or another, may have a place for it.
                raise Leaving("chat", "this process has no place for the question") from None
            return failed(turn, ErrorCode.AI_UNAVAILABLE) | call_facts(error)
        except UnknownPersona:
            # The room's persona has left the configuration.
            pass
        except (SlotLost, Leaving):
            raise
        except Exception as error:
            # Whatever it was, the reply ends (G7); the error is in the log.
            Logger.error("reply failed unexpectedly", message_id=turn.reply_id, exc_info=error)
            return failed(turn, ErrorCode.AI_UNAVAILABLE)
        return failed(turn, ErrorCode.AI_UNAVAILABLE) | {"called": False}

    async def _wait(self, reply: RunningReply) -> None:
        """Until the turn has come. Raises TimeoutError when the reply's deadline is first, SlotLost, Leaving."""
        while time.monotonic() < reply.deadline_s:
            reply.turn_came.clear()
            reply.check()
            wait_s = _POLL_S
            try:
                if await self._look(reply):
                    return
            except RoomNotLoaded:
                wait_s = await self._load(reply)
            except ServiceUnavailable:
                Logger.warn("turn not awaited: Redis is away", room_id=reply.turn.room_id)
                wait_s = _RETRY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await reply.turn_came.wait()
        raise TimeoutError

    async def _look(self, reply: RunningReply) -> bool:
        """Whether the turn has come; then the reply knows what is to be asked."""
        reply.asked = await self._turns.look(reply.turn, reply.claim_id, is_alone=reply.is_alone)
        reply.asked_at_s = time.monotonic()
        return reply.asked is not None

    async def _question(self, reply: RunningReply) -> Question:
        """What is to be asked: as it stood a moment ago, since messages may be deleted while a reply waits for a place
        among the calls. Raises what ends :meth:`_ask`."""
        while reply.asked is None or time.monotonic() - reply.asked_at_s > _FRESH_S:
            reply.check()
            try:
                if not await self._look(reply):
                    raise _NotYet
            except RoomNotLoaded:
                raise _NotYet from None  # a load may take long: without a place among the calls
            except ServiceUnavailable:
                await asyncio.sleep(_RETRY_S)
        if not reply.asked.question:
            raise _QuestionDeleted
        return Question(reply.asked.question, LazyHistory(reply.asked.history))

    async def _claim(self, reply: RunningReply) -> None:
        """Take the turn, however often Redis does not answer: only an answer says whether it is ours.

        Awaited right before the request to the provider goes out. Raises what ends :meth:`_ask`."""
        while True:
            reply.check()
            reply.is_claiming = True
            try:
                is_there = await self._turns.claim(
                    reply.turn, reply.claim_id, is_alone=reply.is_alone
                )
            except RoomNotLoaded:
                raise _NotYet from None
            except ServiceUnavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            finally:
                reply.is_claiming = False
            if is_there is None:
                raise _NotYet
            reply.check()
            reply.is_called = True
            reply.draft.begin()
            if not is_there:
                raise _QuestionDeleted
            return

    async def _hand_over(self, reply: RunningReply) -> None:
        """This process does not ask: what it took, or may have taken, another may have."""
        try:
            await self._turns.hand_over(reply.turn, reply.claim_id)
        except ServiceUnavailable as outage:
            # Nobody may ask now: the sweeper ends it.
            Logger.warn("turn not handed over", room_id=reply.turn.room_id, reason=outage.reason)

    async def _load(self, reply: RunningReply) -> float:
        """Load the reply's room; for how long to wait before the next look at it, in seconds. Raises SlotLost when the
        room is not there any more."""
        turn = reply.turn
        try:
            await self._turns.restore(turn)
            if await self._load_room(turn.caller, turn.room_id) is not Loaded.LOADED:
                await self._turns.forget(turn)
                raise SlotLost
        except ServiceUnavailable as outage:
            Logger.warn("room of a reply not loaded", room_id=turn.room_id, reason=outage.reason)
            return _POLL_S
        return 0.0

    async def _end(self, reply: RunningReply, metadata: dict[str, Any]) -> Ended:
        """End the reply, however long Redis is away within the lease; after that the sweeper does."""
        turn, draft = reply.turn, reply.draft
        reply.is_ending = True
        await draft.close()
        facts = draft.facts() | metadata
        give_up = time.monotonic() + self._settings.reply_lease_s
        while True:
            try:
                ended = await self._turns.end(
                    turn,
                    reply.claim_id,
                    draft.text,
                    facts,
                    start=draft.stored_bytes,
                    unsent=draft.unsent,
                )
            except ServiceUnavailable as outage:
                if time.monotonic() >= give_up:
                    Logger.error(
                        "reply not ended: Redis is away", room_id=turn.room_id, reason=outage.reason
                    )
                    raise
                await asyncio.sleep(_RETRY_S)
                continue
            self._wake(ended.ready_token)
            return ended

    def _wake(self, token: str) -> None:
        if (reply := self._by_token.get(token)) is not None:
            reply.turn_came.set()


class ReplyHandedOver(ServiceUnavailable):
    """Another process runs the reply."""


class Leaving(ServiceUnavailable):
    """The process stops before it has called the AI: the turn stays where it is."""


class _NotYet(Exception):
    """The turn went back among those that wait: an older Redis came back."""


class _QuestionDeleted(Exception):
    """There is nothing to ask any more."""
