"""One call of a provider: deadlines, retries, errors translated, text cleaned, the connection closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Self, cast

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage

from service.core.logger import Logger
from service.llm.conversation import FinishReason, ReplyChunk, ReplyEnd, ReplyItem, ReplyStart, tokens_of_bytes
from service.llm.failures import may_retry, retry_delay_s, translate
from service.llm.llm_errors import AITimeout, AIUnavailable
from service.llm.llm_settings import ProviderSettings
from service.llm.open_responses import OpenResponse, collect_responses
from service.llm.prompt import count_tokens
from service.llm.reply_text import ReplyText

_USAGE_WAIT_S = 2.0  # after the finish reason: usage follows at once or not at all

Chunks = AsyncGenerator[AIMessageChunk, None]


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


class ProviderCall:
    """Streamed once with :meth:`stream`."""

    def __init__(
        self,
        model: BaseChatModel,
        messages: Sequence[BaseMessage],
        limits: CallLimits,
        *,
        persona: str,
        model_name: str,
    ) -> None:
        self._model = model
        self._messages = list(messages)
        self._limits = limits
        self._persona = persona
        self._model_name = model_name
        self._started_s = time.monotonic()
        self._speaking = False  # from the first text on
        self._finish_reason: str | None = None
        self._usage: tuple[int, int] | None = None
        self._prompt_tokens = count_tokens(self._messages)
        self._bytes = 0
        self._chars = 0
        self._responses: list[OpenResponse] = []

    async def stream(self) -> AsyncGenerator[ReplyItem, None]:
        """A ReplyStart, the reply's pieces, then one ReplyEnd. Raises only AIUnavailable and AITimeout.

        Closing the generator, or cancelling the task that waits for it, closes the provider's connection.
        """
        self._started_s = time.monotonic()
        yield ReplyStart(self._model_name, self._prompt_tokens)
        text = ReplyText()
        chunks, first = await self._open()
        try:
            chunk: AIMessageChunk | None = first
            while chunk is not None:
                if piece := self._take(text.push(self._noted(chunk))):
                    yield piece
                chunk = await self._after(chunks) if self._chars < self._limits.max_chars else None
            if rest := self._take(text.rest()):
                yield rest
            yield self._end()
        finally:
            await self._close(chunks)

    async def _open(self) -> tuple[Chunks, AIMessageChunk]:
        """Send the request, again if the provider refused it unserved, up to the first chunk."""
        for attempt in range(self._limits.max_retries + 1):
            chunks = cast(Chunks, self._model.astream(self._messages))
            try:
                with collect_responses(self._responses):
                    chunk = await self._next(chunks)
                if chunk is None:
                    raise AIUnavailable("empty reply")
                return chunks, chunk
            except AITimeout as error:
                raise self._failed(error) from None
            except Exception as error:  # anything at all: what comes out here is ours by contract
                delay_s = retry_delay_s(error, attempt + 1) if may_retry(error) else None
                out_of_time = delay_s is None or self._elapsed_s() + delay_s >= self._limits.first_token_s
                if attempt == self._limits.max_retries or delay_s is None or out_of_time:
                    raise self._failed(error) from None
            await asyncio.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    async def _after(self, chunks: Chunks) -> AIMessageChunk | None:
        """The next chunk, None at the end of a reply that has its finish reason."""
        try:
            chunk = await self._next(chunks)
        except Exception as error:  # as in _open
            if self._finish_reason is None:
                raise self._failed(error) from None
            return None  # the reply itself is whole; only usage is missing
        if chunk is None and self._finish_reason is None:
            raise self._failed(AIUnavailable("the reply was cut off"))
        return chunk

    async def _next(self, chunks: Chunks) -> AIMessageChunk | None:
        wait_s, phase, limit_s = self._patience()
        try:
            async with asyncio.timeout(wait_s):
                return await anext(chunks, None)
        except TimeoutError:
            raise AITimeout(phase, limit_s) from None

    async def _close(self, chunks: Chunks) -> None:
        try:
            await chunks.aclose()
        finally:
            for response in self._responses:
                await response.aclose()

    def _patience(self) -> tuple[float, str, float]:
        """How long to wait for the next chunk; phase and limit to name when it does not come."""
        limits, elapsed_s = self._limits, self._elapsed_s()
        if self._finish_reason is not None:
            wait_s, phase, limit_s = _USAGE_WAIT_S, "reply", limits.total_s
        elif self._speaking:
            wait_s, phase, limit_s = limits.idle_s, "next token", limits.idle_s
        else:
            wait_s, phase, limit_s = limits.first_token_s - elapsed_s, "first token", limits.first_token_s
        left_s = limits.total_s - elapsed_s
        return (wait_s, phase, limit_s) if wait_s <= left_s else (left_s, "reply", limits.total_s)

    def _noted(self, chunk: AIMessageChunk) -> str:
        delta = str(chunk.text)
        self._speaking = self._speaking or bool(delta)
        if usage := chunk.usage_metadata:
            self._usage = (usage["input_tokens"], usage["output_tokens"])
        if reason := chunk.response_metadata.get("finish_reason"):
            self._finish_reason = str(reason)
            self._model_name = chunk.response_metadata.get("model_name") or self._model_name
        return delta

    def _take(self, text: str) -> ReplyChunk | None:
        """What of ``text`` fits the reply, counted; None when that is nothing."""
        kept = text[: self._limits.max_chars - self._chars]
        self._chars += len(kept)
        if len(kept) < len(text) or self._chars >= self._limits.max_chars:
            self._finish_reason = "length"
        if not kept:
            return None
        before = self._completion_tokens()
        self._bytes += len(kept.encode("utf-8", "replace"))
        return ReplyChunk(kept, self._completion_tokens() - before)

    def _completion_tokens(self) -> int:
        return tokens_of_bytes(self._bytes)

    def _end(self) -> ReplyEnd:
        if self._finish_reason == "content_filter":
            raise self._failed(AIUnavailable("the provider withheld the reply"))
        prompt, completion = self._usage or (self._prompt_tokens, self._completion_tokens())
        reason: FinishReason = "length" if self._finish_reason == "length" else "stop"
        latency_ms = round(self._elapsed_s() * 1000)
        Logger.info(
            "ai reply",
            persona=self._persona,
            model=self._model_name,
            prompt_tokens=prompt,
            completion_tokens=completion,
            finish_reason=reason,
            latency_ms=latency_ms,
        )
        return ReplyEnd(self._model_name, prompt, completion, reason, latency_ms)

    def _failed(self, error: Exception) -> AIUnavailable | AITimeout:
        ours = translate(error, self._limits.connect_s)
        Logger.warn("ai reply failed", persona=self._persona, model=self._model_name, reason=str(ours))
        return ours

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s
