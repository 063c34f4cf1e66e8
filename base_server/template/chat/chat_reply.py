"""AI replies: each runs in a task of its own, under a turn, and ends exactly once.

Readers do not matter to it: the caller of ``message/send`` waits for the task, but its leaving stops
nothing. What was streamed is in Redis; a process that dies leaves its turn to the sweeper of another.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol

from service.core.errors import ServiceUnavailable
from service.core.logger import Logger
from service.core.tasks import TaskRegistry
from service.core.tracing import span
from service.llm.conversation import ReplyChunk, ReplyItem, ReplyStart
from service.llm.conversation import Turn as SpokenTurn
from service.llm.llm_errors import AITimeout, AIUnavailable, UnknownPersona
from template.base.errors import ErrorCode
from template.chat.chat_draft import Draft
from template.chat.chat_instruments import OPEN_REPLIES, REPLIES
from template.chat.chat_news import News, ReplyNews
from template.chat.chat_reply_facts import Spoken, call_facts, end_facts, end_of, failed
from template.chat.chat_settings import ChatSettings
from template.chat.chat_turn import Turn
from template.chat.chat_turn_store import Ended, TurnLost, TurnStore

_POLL_S = 1.0
_RETRY_S = 0.2


class ReplySource(Protocol):
    """The one call of AIChatService that a reply needs."""

    def stream(
        self,
        message: str,
        session_id: str,
        *,
        ai_persona: str | None = None,
        history: Sequence[SpokenTurn] | None = None,
    ) -> AsyncGenerator[ReplyItem, None]: ...


class RunningReply:
    """A reply of this process: it waits for its turn, then collects what the AI says. It hears the news of itself."""

    def __init__(self, turn: Turn, remaining_s: float) -> None:
        self.turn = turn
        self.deadline_s = time.monotonic() + remaining_s
        self.draft: Draft
        self.task: asyncio.Task[str]
        self.turn_came = asyncio.Event()
        self.is_lost = False
        self.is_waiting = self.is_leaving = self.is_ending = False
        self._asking: asyncio.Timeout | None = None

    def __call__(self, news: News | None) -> None:
        match news:
            case News.ENDED:
                self.lose()
            case News.WATCHED:
                self.draft.watch()
            case News.READY | None:
                self.turn_came.set()

    def lose(self) -> None:
        """Somebody else ended it: close the provider's connection, say nothing more."""
        self.is_lost = True
        self.turn_came.set()
        if self._asking is not None and not self._asking.expired():
            self._asking.reschedule(asyncio.get_running_loop().time())

    def leave(self) -> None:
        """This process stops: what runs ends as it is, what waits keeps its place for another process."""
        self.is_leaving = True
        if self.is_waiting:
            self.turn_came.set()
        elif not self.is_ending:
            self.task.cancel()

    async def collect(self, items: AsyncGenerator[ReplyItem, None]) -> dict[str, Any]:
        """Everything that the AI says goes into the draft; the reply's metadata.

        Raises TurnLost as soon as somebody else ended it, TimeoutError at the reply's deadline."""
        try:
            async with asyncio.timeout(max(0.0, self.deadline_s - time.monotonic())) as asking, aclosing(items):
                self._asking = asking
                if self.is_lost:
                    raise TurnLost
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
            if self.is_lost:
                raise TurnLost from None
            raise
        finally:
            self._asking = None


class ChatReplies:
    """Runs, ends and sweeps replies of this process."""

    def __init__(
        self, turns: TurnStore, ai: ReplySource, news: ReplyNews, settings: ChatSettings, tasks: TaskRegistry
    ) -> None:
        self._turns = turns
        self._ai = ai
        self._news = news
        self._settings = settings
        self._tasks = tasks
        self._running: dict[str, RunningReply] = {}
        self._by_token: dict[str, RunningReply] = {}
        self._quiet = False

    def __len__(self) -> int:
        return len(self._running)

    def start(self, turn: Turn, question: str | None, history: Sequence[str], *, watched: bool) -> None:
        """Run a reply that was accepted here. ``question`` None: the turn waits and brings its own when it comes.

        ``watched``: somebody reads along from the start."""
        self._start(turn, question, history, self._settings.reply_deadline_s, watched=watched)

    async def finished(self, reply_id: str) -> str:
        """The final list entry ('' when it was deleted) of a reply that runs here.

        Raises TakenUp when another process has it by now: this one stood still for longer than its lease."""
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
        self._news.tell_here(reply_id, News.ENDED)
        self._wake(ready_token)

    async def sweep(self, *, all_open: bool = False) -> None:
        """End the replies whose process is silent past its lease, run those that nobody began.

        ``all_open``: no other process can be alive, so none is waited for (embedded default, at start)."""
        for found in await self._turns.expired(all_open=all_open):
            turn = found.turn
            if turn.reply_id in self._running:
                continue
            if found.phase == "ready":
                # Who stops leaves it to the others, or to whoever starts next.
                if not self._quiet:
                    self._start(turn, None, (), found.remaining_s, watched=True)
                continue
            ended = await self._turns.interrupt(turn, only_if_expired=not all_open)
            if ended is not None and ended.ours:
                Logger.warn("reply interrupted: its process is gone", room_id=turn.room_id, message_id=turn.reply_id)
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
        self, turn: Turn, question: str | None, history: Sequence[str], remaining_s: float, *, watched: bool
    ) -> None:
        reply = RunningReply(turn, remaining_s)
        reply.draft = Draft(
            turn,
            self._turns,
            self._settings,
            self._tasks,
            watched=watched,
            on_stored=lambda: self._news.tell_here(turn.reply_id, News.TEXT),
            on_lost=reply.lose,
        )
        self._running[turn.reply_id] = self._by_token[turn.token] = reply
        reply.task = self._tasks.spawn(self._run(reply, question, history), f"reply {turn.reply_id}")

    async def _run(self, reply: RunningReply, question: str | None, history: Sequence[str]) -> str:
        try:
            with self._news.heard_by(reply.turn.reply_id, reply), OPEN_REPLIES.held():
                entry = await self._answer(reply, question, history)
            REPLIES.add(end_of(entry))
            return entry
        finally:
            del self._running[reply.turn.reply_id], self._by_token[reply.turn.token]
            self._news.tell_here(reply.turn.reply_id, News.ENDED)

    async def _answer(self, reply: RunningReply, question: str | None, history: Sequence[str]) -> str:
        turn, draft = reply.turn, reply.draft
        metadata: dict[str, Any]
        try:
            if question is None:
                question, history = await self._take_turn(reply)
            draft.open()
            metadata = await self._ask(reply, question, history) if question else {"finish_reason": "stopped"}
        except TurnLost:
            reply.is_ending = True
            await draft.close()
            if await self._turns.leave(turn):
                raise TakenUp("chat", "another process has taken up the reply") from None
            return await self._turns.final(turn)
        except _Leaving:
            raise
        except asyncio.CancelledError:
            # Only stop() cancels a reply, and not one that is ending.
            ended = await self._tasks.finish(self._end(reply, {"finish_reason": "interrupted"}), "interrupt reply")
            return ended.entry
        except (AITimeout, TimeoutError):
            metadata = failed(turn, ErrorCode.AI_TIMED_OUT)
        except AIUnavailable as error:
            metadata = failed(turn, ErrorCode.AI_UNAVAILABLE) | call_facts(error)
        except UnknownPersona:
            # The room's persona has left the configuration.
            metadata = failed(turn, ErrorCode.AI_UNAVAILABLE) | {"called": False}
        except Exception as error:
            # Whatever it was, the reply ends (G7); the error is in the log.
            Logger.error("reply failed unexpectedly", message_id=turn.reply_id, exc_info=error)
            metadata = failed(turn, ErrorCode.AI_UNAVAILABLE)
        ended = await self._end(reply, metadata)
        return ended.entry or await self._turns.final(turn)

    async def _take_turn(self, reply: RunningReply) -> tuple[str, Sequence[str]]:
        """Wait until the turn is ready. Raises TimeoutError when the reply's deadline comes first, _Leaving when the
        process's stop does."""
        claim_id = secrets.token_hex(8)
        reply.is_waiting = True
        try:
            while time.monotonic() < reply.deadline_s:
                reply.turn_came.clear()
                if reply.is_leaving:
                    raise _Leaving("chat", "this process stops, the question waits for another")
                wait_s = _POLL_S
                try:
                    if (claim := await self._turns.claim(reply.turn, claim_id)) is not None:
                        break
                except ServiceUnavailable:
                    Logger.warn("turn not claimed: Redis is away", room_id=reply.turn.room_id)
                    wait_s = _RETRY_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await reply.turn_came.wait()
            else:
                raise TimeoutError
        finally:
            reply.is_waiting = False
        if reply.is_leaving:
            # It is ours after all: nobody else may call it.
            reply.leave()
        return claim.question, claim.history

    async def _ask(self, reply: RunningReply, question: str, history: Sequence[str]) -> dict[str, Any]:
        turn = reply.turn
        with span("ai reply", persona=turn.persona):
            return await reply.collect(
                self._ai.stream(question, session_id=turn.room_id, ai_persona=turn.persona, history=Spoken(history))
            )

    async def _end(self, reply: RunningReply, metadata: dict[str, Any]) -> Ended:
        """End the reply, however long Redis is away within the lease; after that the sweeper does."""
        turn, draft = reply.turn, reply.draft
        reply.is_ending = True
        await draft.close()
        facts = draft.facts() | metadata
        give_up = time.monotonic() + self._settings.reply_lease_s
        while True:
            try:
                ended = await self._turns.end(turn, draft.text, facts, start=draft.stored_bytes, unsent=draft.unsent)
            except ServiceUnavailable as outage:
                if time.monotonic() >= give_up:
                    Logger.error("reply not ended: Redis is away", room_id=turn.room_id, reason=outage.reason)
                    raise
                await asyncio.sleep(_RETRY_S)
                continue
            self._wake(ended.ready_token)
            return ended

    def _wake(self, token: str) -> None:
        if (reply := self._by_token.get(token)) is not None:
            reply.turn_came.set()


class TakenUp(ServiceUnavailable):
    """Another process runs the reply."""


class _Leaving(ServiceUnavailable):
    """The process stops before the reply's turn has come: the turn stays where it is."""
