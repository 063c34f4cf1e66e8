"""One call of a provider: deadlines, retries, errors translated, text cleaned, the connection
closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Self

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.outputs import ChatGeneration

from base_server.service.core.logger import Logger
from base_server.service.llm.call_permit import CallPermit, needing
from base_server.service.llm.conversation import (
    FinishReason,
    ReplyChunk,
    ReplyEnd,
    ReplyItem,
    ReplyStart,
    tokens_of_bytes,
)
from base_server.service.llm.failures import (
    is_context_overflow,
    may_retry,
    retry_delay_s,
    translate,
)
from base_server.service.llm.llm_errors import AITimeout, AIUnavailable, ReplyWithheld
from base_server.service.llm.llm_settings import ProviderSettings
from base_server.service.llm.model_stream import ChunkReader, Chunks, ModelTraits, open_chunks
from base_server.service.llm.open_responses import OpenResponse, collect_responses
from base_server.service.llm.prompt import Prompt
from base_server.service.llm.reply_text import ReplyText
from base_server.service.llm.watch import Overdue, Watch

_USAGE_WAIT_S = 2.0  # after the finish reason: usage follows at once or not at all


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Seconds, counted from the start of the call except ``idle_s``."""

    connect_s: float
    first_token_s: float
    idle_s: float
    total_s: float
    max_retries: int
    max_chars: int

    @classmethod
    def of(cls, provider: ProviderSettings, max_chars: int) -> Self:
        return cls(
            provider.connect_timeout_s,
            provider.first_token_timeout_s,
            provider.idle_timeout_s,
            provider.timeout_s,
            provider.max_retries,
            max_chars,
        )


@dataclass(frozen=True, slots=True)
class CallTarget:
    """Whom a call asks, and as whom.

    ``model_name`` is the configured one; a reply may name it more exactly. ``address``: where the
    provider is, for the log, if that is known. ``prompt_tokens``: what a prompt may take of the
    model's context, None when its size is unknown."""

    model: BaseChatModel
    traits: ModelTraits
    limits: CallLimits
    persona: str
    provider: str
    model_name: str
    address: str | None
    prompt_tokens: int | None = None


class ProviderCall:
    """Made on the event loop and streamed once with :meth:`stream`."""

    def __init__(self, target: CallTarget, prompt: Prompt, permit: CallPermit) -> None:
        self._target = target
        self._permit = permit
        self._limits = target.limits
        self._prompt = prompt
        self._reader = ChunkReader(target.traits)
        self._watch = Watch()
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        self._first_token_s: float | None = None
        self._attempts = 0
        self._is_shortened = False
        self._bytes = 0
        self._chars = 0
        self._responses: list[OpenResponse] = []

    async def stream(self) -> AsyncGenerator[ReplyItem, None]:
        """A ReplyStart, the reply's pieces, then one ReplyEnd. Raises only AIUnavailable and
        AITimeout, and what the permit raises.

        Closing the generator, or cancelling the task that waits for it, closes the provider's
        connection."""
        self._started = self._clock()
        outcome, failure = "left", None  # stopped, interrupted or deleted
        chunks: Chunks | None = None
        chunk: ChatGeneration | None
        try:
            yield ReplyStart(self._target.model_name, self._prompt.tokens)
            chunks, chunk = await self._open()
            if self._is_shortened:
                yield ReplyStart(self._target.model_name, self._prompt.tokens)
            text = ReplyText()
            while chunk is not None:
                if piece := self._take(text.push(self._delta(chunk))):
                    yield piece
                chunk = await self._after(chunks) if self._chars < self._limits.max_chars else None
            if piece := self._take(text.flush()):
                yield piece
            end = self._end()
            outcome = "done"
            yield end
        except (AIUnavailable, AITimeout) as error:
            outcome, failure = "failed", error
            raise
        finally:
            self._watch.stop()
            self._log(outcome, failure)
            await self._close(chunks)

    def abort(self) -> None:
        """End the call, from outside, with AIUnavailable."""
        self._watch.ring(AIUnavailable("the AI service was stopped"))

    async def _open(self) -> tuple[Chunks, ChatGeneration]:
        """Send the request, again if the provider refused it unserved, up to the first chunk.

        A prompt that is too long for the model is sent once more with half of its history.
        """
        while True:
            self._attempts += 1
            chunks = open_chunks(self._target.model, self._prompt.messages)
            try:
                with collect_responses(self._responses), needing(self._permit):
                    if not self._target.traits.obtains_permit:
                        await self._permit.obtain()
                    chunk = await self._next(chunks)
                if chunk is None:
                    raise AIUnavailable("empty reply")
                return chunks, chunk
            except AITimeout:
                raise
            except Exception as error:  # anything at all: what comes out here is ours by contract
                if self._permit.failure is not None:
                    raise self._permit.failure from None
                if is_context_overflow(error) and self._shorten():
                    continue
                retries = self._attempts - (2 if self._is_shortened else 1)
                delay_s = retry_delay_s(error, retries + 1) if may_retry(error) else None
                out_of_time = (
                    delay_s is None or self._elapsed_s() + delay_s >= self._limits.first_token_s
                )
                if retries >= self._limits.max_retries or delay_s is None or out_of_time:
                    raise translate(error, self._limits.connect_s, self._limits.total_s) from None
            await asyncio.sleep(delay_s)

    def _shorten(self) -> bool:
        """Leave out half of the history, once; false when that was done or there is none."""
        shorter = None if self._is_shortened else self._prompt.with_half_the_history()
        if shorter is None:
            return False
        Logger.warn(
            "ai prompt too long: sent again with half of the history",
            persona=self._target.persona,
            provider=self._target.provider,
            model=self._target.model_name,
            prompt_tokens=self._prompt.tokens,
            next_prompt_tokens=shorter.tokens,
            fix="set context_tokens of the model to its context size",
        )
        self._is_shortened, self._prompt = True, shorter
        return True

    async def _after(self, chunks: Chunks) -> ChatGeneration | None:
        """The next chunk, None at the end of a reply that is whole."""
        try:
            chunk = await self._next(chunks)
        except Exception as error:  # as in _open
            if self._reader.reason is None:
                raise translate(error, self._limits.connect_s, self._limits.total_s) from None
            return None  # the reply itself is whole; only usage is missing
        if (
            chunk is None
            and self._reader.reason is None
            and self._target.traits.says_why
            and not self._came_to_done()
        ):
            raise AIUnavailable("the reply was cut off")
        return chunk

    def _came_to_done(self) -> bool:
        """Whether the stream ended with ``[DONE]``: some servers give no other sign that a reply is
        whole."""
        return (
            self._target.traits.done_is_whole
            and bool(self._responses)
            and self._responses[-1].is_done
        )

    async def _next(self, chunks: Chunks) -> ChatGeneration | None:
        try:
            return await self._watch.next_of(chunks, self._due())
        except Overdue:
            raise self._too_slow() from None

    async def _close(self, chunks: Chunks | None) -> None:
        try:
            if chunks is not None:
                await chunks.aclose()
        finally:
            for response in self._responses:
                await response.aclose()

    def _due(self) -> float:
        """Until when the next chunk has to come, by the loop's clock."""
        limits = self._limits
        if self._first_token_s is None:
            due = self._started + limits.first_token_s
        else:
            due = self._clock() + (limits.idle_s if self._reader.reason is None else _USAGE_WAIT_S)
        return min(due, self._started + limits.total_s)

    def _too_slow(self) -> AITimeout:
        limits = self._limits
        if self._elapsed_s() >= limits.total_s:
            return AITimeout("reply", limits.total_s)
        if self._first_token_s is None:
            return AITimeout("first token", limits.first_token_s)
        return AITimeout("next token", limits.idle_s)

    def _delta(self, chunk: ChatGeneration) -> str:
        try:
            delta = self._reader.text(chunk)
        except Exception as error:  # as in _open: LangChain passes on what came, of any type
            raise translate(error, self._limits.connect_s, self._limits.total_s) from None
        if delta and self._first_token_s is None:
            self._first_token_s = self._elapsed_s()
        return delta

    def _take(self, text: str) -> ReplyChunk | None:
        """What of ``text`` fits the reply, counted; None when that is nothing."""
        if not text:
            return None
        kept = text[: self._limits.max_chars - self._chars]
        self._chars += len(kept)
        if self._chars >= self._limits.max_chars:
            self._reader.note_reason("length")
        before = tokens_of_bytes(self._bytes)
        self._bytes += len(kept.encode())
        return ReplyChunk(kept, tokens_of_bytes(self._bytes) - before) if kept else None

    def _end(self) -> ReplyEnd:
        if self._reader.reason == "withheld":
            raise ReplyWithheld
        if self._reader.reason == "unknown":
            raise AIUnavailable(
                f"the reply ended with an unknown finish reason: {self._reader.unknown_reason}"
            )
        if not self._chars:
            raise AIUnavailable("empty reply")
        prompt, completion = self._usage()
        reason: FinishReason = "length" if self._reader.reason == "length" else "stop"
        return ReplyEnd(
            self._answered_by(), prompt, completion, reason, round(self._elapsed_s() * 1000)
        )

    def _usage(self) -> tuple[int, int]:
        """Prompt and completion tokens: the provider's where it sent them, or estimated."""
        prompt, completion = self._reader.usage or (0, 0)
        return prompt or self._prompt.tokens, completion or tokens_of_bytes(self._bytes)

    def _answered_by(self) -> str:
        return self._reader.model_name or self._target.model_name

    def _log(self, outcome: str, failure: Exception | None) -> None:
        prompt, completion = self._usage()
        fields = {
            "persona": self._target.persona,
            "provider": self._target.provider,
            "model": self._answered_by(),
            "outcome": outcome,
            "attempts": self._attempts,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "first_token_ms": self._first_token_s and round(self._first_token_s * 1000),
            "latency_ms": round(self._elapsed_s() * 1000),
        }
        if failure is None:
            Logger.info("ai call", **fields)
        else:
            Logger.warn("ai call", **fields, base_url=self._target.address, reason=str(failure))

    def _elapsed_s(self) -> float:
        return self._clock() - self._started
