"""AI replies: each runs in a task of its own, under a turn, and ends exactly once.

Readers do not matter to it: the caller of ``message/send`` waits for the task, but its leaving stops
nothing. What was streamed is in Redis; a process that dies leaves its turn to the sweeper of another.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from service.core.errors import ServiceUnavailable
from service.core.logger import Logger
from service.core.tasks import TaskRegistry
from service.llm.conversation import ReplyEnd, ReplyItem, ReplyStart
from service.llm.conversation import Turn as SpokenTurn
from service.llm.llm_errors import AITimeout, AIUnavailable, UnknownPersona
from template.base.errors import ApiError, ErrorCode
from template.chat.chat_message_store import Accepted
from template.chat.chat_settings import ChatSettings
from template.chat.chat_text import from_json, is_tombstone
from template.chat.chat_turn import Turn
from template.chat.chat_turn_store import Ended, TurnLost, TurnStore

_POLL_S = 0.2


class ReplySource(Protocol):
    """The one call of AIChatService that a reply needs."""

    def stream(
        self,
        message: str,
        session_id: str,
        *,
        ai_persona: str | None = None,
        history: Sequence[SpokenTurn] | None = None,
    ) -> AsyncIterator[ReplyItem]: ...


@dataclass
class _Draft:
    """A reply in the making: what the AI has said, and how much of it is in Redis.

    ``sent_at`` and ``deadline`` are of the monotonic clock: this process's wall clock may differ from Redis'."""

    deadline: float
    text: str = ""
    unsent: str = ""
    length: int = 0
    sent_at: float = 0.0
    started: float = field(default_factory=time.monotonic)
    asked: ReplyStart | None = None
    completion_tokens: int = 0

    def facts(self) -> dict[str, Any]:
        """How long it has taken, and model and estimated usage once somebody was asked."""
        facts: dict[str, Any] = {"latency_ms": round((time.monotonic() - self.started) * 1000)}
        if self.asked is not None:
            facts["model"] = self.asked.model
            facts["tokens"] = _tokens(self.asked.prompt_tokens, self.completion_tokens)
        return facts


class ChatReplies:
    """Runs, ends and sweeps replies of this process."""

    def __init__(self, turns: TurnStore, ai: ReplySource, settings: ChatSettings, tasks: TaskRegistry) -> None:
        self._turns = turns
        self._ai = ai
        self._settings = settings
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[str]] = {}
        self._ready: dict[str, asyncio.Event] = {}
        self._quiet = False

    def __len__(self) -> int:
        return len(self._running)

    async def reply_to(self, accepted: Accepted, content: str) -> str:
        """The reply's final list entry ('' when it was deleted), started here if its turn is new."""
        if accepted.turn is not None:
            question = content if accepted.granted else None
            self._start(accepted.turn, question, accepted.history, self._settings.reply_deadline_s)
            return await self._await(accepted.turn.reply_id)
        return accepted.reply

    async def attach(self, turn: Turn) -> str:
        """Wait for a reply that runs here or in another process; its final entry, '' when it was deleted."""
        if turn.reply_id in self._running:
            return await self._await(turn.reply_id)
        deadline = time.monotonic() + self._settings.reply_deadline_s + self._settings.reply_lease_s
        while time.monotonic() < deadline:
            entry = await self._turns.entry(turn)
            if not entry or not from_json(entry).get("is_streaming"):
                return entry
            await asyncio.sleep(_POLL_S)
        return await self._turns.entry(turn)

    async def sweep(self, *, all_open: bool = False) -> None:
        """End the replies whose process is silent past its lease, run those that nobody began.

        ``all_open``: no other process can be alive, so none is waited for (embedded default, at start)."""
        for found in await self._turns.expired(all_open=all_open):
            turn = found.turn
            if turn.reply_id in self._running:
                continue
            if found.phase == "ready" and not self._quiet:
                self._start(turn, None, (), found.remaining_s)
                continue
            ended = await self._turns.interrupt(turn, only_if_expired=not all_open)
            if ended is not None and ended.ours:
                Logger.warn("reply interrupted: its process is gone", room_id=turn.room_id, message_id=turn.reply_id)
                self._wake(ended.ready_token)

    def quiet(self) -> None:
        """Adopt no more turns; those that wait here go on until :meth:`stop`."""
        self._quiet = True

    async def stop(self, drain_s: float) -> None:
        """Let running replies finish for ``drain_s`` seconds, then end the rest as interrupted."""
        if running := list(self._running.values()):
            await asyncio.wait(running, timeout=drain_s)
        late = list(self._running.values())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _start(self, turn: Turn, question: str | None, history: Sequence[str], remaining_s: float) -> None:
        """``question`` None: the turn is not ours yet and brings its own question when it is."""
        started = time.monotonic()
        draft = _Draft(deadline=started + remaining_s, sent_at=started)
        task = self._tasks.spawn(self._run(turn, question, history, draft), f"reply {turn.reply_id}")
        self._running[turn.reply_id] = task
        self._ready[turn.token] = asyncio.Event()

        def ended(_: asyncio.Task[str]) -> None:
            self._running.pop(turn.reply_id, None)
            self._ready.pop(turn.token, None)

        task.add_done_callback(ended)

    async def _await(self, reply_id: str) -> str:
        return await asyncio.shield(self._running[reply_id])

    async def _run(self, turn: Turn, question: str | None, history: Sequence[str], draft: _Draft) -> str:
        metadata: dict[str, Any]
        try:
            if question is None:
                question, history = await self._take_turn(turn, draft.deadline)
            if not question:
                metadata = {"finish_reason": "stopped"}
            else:
                metadata = await self._generate(turn, question, history, draft)
        except TurnLost:
            await self._turns.forget(turn)
            return await self._turns.entry(turn)
        except asyncio.CancelledError:
            # Only stop() cancels a reply.
            metadata = draft.facts() | {"finish_reason": "interrupted"}
            ended = await self._tasks.finish(self._end(turn, draft.text, metadata), "end interrupted reply")
            return ended.entry if ended else ""
        except (AITimeout, TimeoutError):
            metadata = _failed(turn, ErrorCode.AI_TIMED_OUT)
        except AIUnavailable as error:
            metadata = _failed(turn, ErrorCode.AI_UNAVAILABLE) | _call_facts(error)
        except UnknownPersona:
            # The room's persona has left the configuration.
            metadata = _failed(turn, ErrorCode.AI_UNAVAILABLE) | {"called": False}
        except Exception as error:
            # Whatever it was, the reply ends (G7); the error is in the log.
            Logger.error("reply failed unexpectedly", message_id=turn.reply_id, exc_info=error)
            metadata = _failed(turn, ErrorCode.AI_UNAVAILABLE)
        ended = await self._end(turn, draft.text, draft.facts() | metadata)
        return (ended.entry if ended else "") or await self._turns.entry(turn)

    async def _take_turn(self, turn: Turn, deadline: float) -> tuple[str, Sequence[str]]:
        """Wait until the turn is ready; TimeoutError when the reply's deadline comes first."""
        ready, claim_id = self._ready[turn.token], secrets.token_hex(8)
        while time.monotonic() < deadline:
            try:
                if (claim := await self._turns.claim(turn, claim_id)) is not None:
                    return claim.question, claim.history
            except ServiceUnavailable:
                Logger.warn("turn not claimed: Redis is away", room_id=turn.room_id)
            with suppress(TimeoutError):
                await asyncio.wait_for(ready.wait(), _POLL_S)
        raise TimeoutError

    async def _generate(self, turn: Turn, question: str, history: Sequence[str], draft: _Draft) -> dict[str, Any]:
        """Collect the AI's answer into ``draft``, streaming it to Redis; returns the reply's metadata."""
        stream = self._ai.stream(question, session_id=turn.room_id, ai_persona=turn.persona, history=spoken(history))
        items = aiter(stream)
        following: asyncio.Future[ReplyItem] | None = None
        renew_s = self._settings.reply_lease_s / 3
        try:
            async with asyncio.timeout(max(0.0, draft.deadline - time.monotonic())):
                while True:
                    if following is None:
                        following = asyncio.ensure_future(anext(items))
                    due = self._settings.delta_interval_s if draft.unsent else renew_s
                    wait_s = max(0.0, draft.sent_at + due - time.monotonic())
                    await asyncio.wait({following}, timeout=wait_s)
                    if not following.done():
                        await self._flush(turn, draft)
                        continue
                    item, following = following.result(), None
                    if isinstance(item, ReplyEnd):
                        if not draft.text:
                            raise AIUnavailable("the model said nothing")
                        return _end_facts(item)
                    if isinstance(item, ReplyStart):
                        draft.asked = item
                        continue
                    draft.completion_tokens += item.tokens
                    draft.text += item.text
                    draft.unsent += item.text
                    if len(draft.unsent.encode()) >= self._settings.delta_bytes:
                        await self._flush(turn, draft)
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            # Closing the iterator closes the provider's connection.
            if (close := getattr(items, "aclose", None)) is not None:
                await close()

    async def _flush(self, turn: Turn, draft: _Draft) -> None:
        """Send what is unsent and renew the lease. Redis away: it stays unsent, the reply goes on."""
        draft.sent_at = time.monotonic()
        length = draft.length + len(draft.unsent.encode())
        try:
            await self._turns.append(turn, draft.unsent, length)
        except ServiceUnavailable:
            return
        draft.length, draft.unsent = length, ""

    async def _end(self, turn: Turn, text: str, metadata: dict[str, Any]) -> Ended | None:
        """End the reply, however long Redis is away within the lease; after that the sweeper does."""
        give_up = time.monotonic() + self._settings.reply_lease_s
        while True:
            try:
                ended = await self._turns.end(turn, text, metadata)
            except ServiceUnavailable as outage:
                if time.monotonic() >= give_up:
                    Logger.error("reply not ended: Redis is away", room_id=turn.room_id, reason=outage.reason)
                    raise
                await asyncio.sleep(_POLL_S)
                continue
            self._wake(ended.ready_token if ended else "")
            return ended

    def _wake(self, token: str) -> None:
        if (event := self._ready.get(token)) is not None:
            event.set()


def spoken(entries: Sequence[str]) -> list[SpokenTurn]:
    """List entries as the AI's history: what was deleted, failed empty or still runs is left out."""
    turns = []
    for text in entries:
        if is_tombstone(text):
            continue
        message = from_json(text)
        if message["content"] and not message.get("is_streaming"):
            turns.append(SpokenTurn(message["sender_type"], message["content"]))
    return turns


def failure_of(metadata: dict[str, Any]) -> ApiError | None:
    """The error that a reply's metadata tells of, as the waiting caller gets it."""
    if metadata.get("finish_reason") != "error":
        return None
    code = ErrorCode[metadata.get("error", ErrorCode.AI_UNAVAILABLE.name)]
    not_called = code is ErrorCode.AI_UNAVAILABLE and metadata.get("called") is False
    return ApiError(code, http_status=503 if not_called else None, retry_after_s=metadata.get("retry_after_s"))


def _end_facts(end: ReplyEnd) -> dict[str, Any]:
    return {
        "model": end.model,
        "tokens": _tokens(end.prompt_tokens, end.completion_tokens),
        "finish_reason": end.finish_reason,
        "latency_ms": end.latency_ms,
    }


def _tokens(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt": prompt, "completion": completion, "total": prompt + completion}


def _failed(turn: Turn, code: ErrorCode) -> dict[str, Any]:
    Logger.warn("reply failed", room_id=turn.room_id, message_id=turn.reply_id, code=code.name)
    return {"finish_reason": "error", "error": code.name}


def _call_facts(error: AIUnavailable) -> dict[str, Any]:
    facts: dict[str, Any] = {"called": error.called}
    if error.retry_after_s is not None:
        facts["retry_after_s"] = error.retry_after_s
    return facts
