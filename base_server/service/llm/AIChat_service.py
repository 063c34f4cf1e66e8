"""AIChatService: replies of language models, streamed.

LangChain is imported in a thread, never on the loop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.facade import Facade, facade
from base_server.service.core.heap import heap_growing_for_good
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.call_gate import CallGate
from base_server.service.llm.call_meter import CallMeter
from base_server.service.llm.call_permit import CallPermit
from base_server.service.llm.conversation import (
    HistoryMessage,
    Question,
    ReplyChunk,
    ReplyEnd,
    ReplyItem,
    as_history_message,
)
from base_server.service.llm.histories import Histories, HistoryReader
from base_server.service.llm.llm_errors import AIUnavailable
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.llm.personas import PersonaInfo, Personas

if TYPE_CHECKING:
    from base_server.service.llm.chat_memory import SessionChatHistory
    from base_server.service.llm.models import ModelSet


class SessionMemory:
    """What ``AIChatService.mem(session_id)`` gives."""

    def __init__(self, histories: Histories, session_id: str) -> None:
        self.session_id = session_id
        self._histories = histories
        self._chat_memory: SessionChatHistory | None = None

    @property
    def chat_memory(self) -> SessionChatHistory:
        """The session's LangChain ``BaseChatMessageHistory``, one object for the life of this
        one."""
        if self._chat_memory is None:
            # LangChain is imported when it is needed.
            from base_server.service.llm.chat_memory import SessionChatHistory  # noqa: PLC0415

            self._chat_memory = SessionChatHistory(self._histories, self.session_id)
        return self._chat_memory


class AIChatService(Facade):
    """One object per process.

    Raises :class:`StartError` at once for a provider key that must be there and is not."""

    def __init__(
        self,
        settings: LlmSettings,
        cache: CacheService,
        tasks: TaskRegistry,
        env: str,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._personas = Personas(settings, env, os.environ if environ is None else environ)
        self._histories = Histories(settings, cache, tasks)
        self._gate = CallGate(
            settings.max_concurrent_requests, settings.max_waiting_requests, settings.wait_timeout_s
        )
        self._loading: asyncio.Task[ModelSet] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Begin importing LangChain in a thread; warns of models without a key.

        Returns at once, except where only LangChain can tell whether the configuration is right
        (:meth:`Personas.need_a_look`): then it raises StartError for what is missing or wrong.
        """
        self._stopped = False
        self._personas.warn_about_keys()
        loading = self._load()
        if self._personas.need_a_look():
            await asyncio.shield(loading)

    async def wait_until_ready(self) -> None:
        """Return when a call costs no more than the next one: LangChain is imported, the models are
        built.

        What cannot be built is logged, and tried again by each call."""
        with suppress(AIUnavailable):
            await self._models()

    async def check(self) -> None:
        """Raise StartError where :meth:`start` would; nothing is started."""
        if self._personas.need_a_look():
            try:
                await self._load()
            finally:
                await self.stop()

    async def stop(self) -> None:
        """Replies that still run fail with AIUnavailable, and the providers' connections are
        closed."""
        self._stopped = True
        loading, self._loading = self._loading, None
        if loading is not None:
            await asyncio.wait({loading})
            if not loading.cancelled() and loading.exception() is None:
                await loading.result().close()

    @facade
    async def stream(
        self,
        message: str,
        session_id: str,
        *,
        ai_persona: str | None = None,
        history: Sequence[HistoryMessage] | None = None,
    ) -> AsyncGenerator[ReplyItem, None]:
        """The reply to ``message``: a ReplyStart for each provider that is asked, ReplyChunks as
        they come, then one ReplyEnd.

        Without ``history`` the session's own is read, and question and reply are added to it once
        the reply is whole (never for a registered reader's sessions). Raises UnknownPersona,
        AIUnavailable, AITimeout, and ServiceUnavailable when the session's history cannot be read.
        Closing the iterator closes the provider's connection."""
        earlier, own = history, False
        if earlier is None:
            self._personas.resolve(ai_persona)
            stored = await self._histories.read(session_id)
            earlier, own = stored.messages, stored.own
        question = Question(message, earlier)

        async def ask() -> Question:
            return question

        async def claim() -> None:
            """Nobody else may ask."""

        pieces: list[str] = []
        async with aclosing(self.stream_claimed(ask, claim, ai_persona=ai_persona)) as items:
            async for item in items:
                if isinstance(item, ReplyChunk):
                    pieces.append(item.text)
                elif own and isinstance(item, ReplyEnd):
                    await self._remember(session_id, message, "".join(pieces))
                yield item

    @facade
    async def stream_claimed(
        self,
        ask: Callable[[], Awaitable[Question]],
        claim: Callable[[], Awaitable[None]],
        *,
        ai_persona: str | None = None,
    ) -> AsyncGenerator[ReplyItem, None]:
        """As :meth:`stream`, for a caller that knows only at the last moment what to ask, and
        whether.

        ``ask`` is awaited once the call may run, ``claim`` right before the request to the provider
        goes out. What they raise ends the stream, and nobody was asked."""
        persona = self._personas.resolve(ai_persona)
        permit = CallPermit(claim)
        with CallMeter(persona) as meter:
            models = await self._models()
            async with self._gate:
                try:
                    question = await ask()
                except BaseException:
                    meter.forget()
                    raise
                try:
                    async with aclosing(
                        models.stream(persona, question.history, question.message, permit)
                    ) as items:
                        async for item in items:
                            meter.note(item)
                            yield item
                finally:
                    if permit.failure is not None:
                        meter.forget()

    @facade
    async def chat(
        self,
        message: str,
        session_id: str,
        ai_persona: str | None = None,
        *,
        history: Sequence[HistoryMessage] | None = None,
    ) -> dict[str, Any]:
        """:meth:`stream`, collected: ``{"session_id", "reply", "model", "tokens": {"prompt",
        "completion", "total"}, "finish_reason", "latency_ms"}``."""
        pieces: list[str] = []
        answer: dict[str, Any] = {}
        async with aclosing(
            self.stream(message, session_id, ai_persona=ai_persona, history=history)
        ) as items:
            async for item in items:
                if isinstance(item, ReplyChunk):
                    pieces.append(item.text)
                elif isinstance(item, ReplyEnd):
                    answer = _described(item)
        return {"session_id": session_id, "reply": "".join(pieces), **answer}

    @facade
    async def process_message(
        self, *, room_id: str, user_message: str, ai_persona: str | None = None
    ) -> str:
        """The text of the reply to ``user_message`` in the session ``room_id``."""
        answer = await self.chat(user_message, room_id, ai_persona)
        return str(answer["reply"])

    @facade
    async def load_chat_history(self, session_id: str, messages: Iterable[Any]) -> None:
        """Put ``messages`` (see :func:`as_history_message`) in place of the session's own history.

        Without effect for a registered reader's sessions: they are read where they are kept.
        """
        await self._histories.replace(
            session_id, [as_history_message(message) for message in messages]
        )

    @facade
    def mem(self, session_id: str) -> SessionMemory:
        """A handle to the session's conversation; nothing is read yet."""
        return SessionMemory(self._histories, session_id)

    @facade
    def register_history(self, reader: HistoryReader) -> None:
        """``reader(session_id)`` is asked first for a session's messages; None: not one of its
        sessions."""
        self._histories.register(reader)

    @facade
    def personas(self) -> list[PersonaInfo]:
        """All personas, in the order of the configuration."""
        return self._personas.infos()

    @facade
    def resolve_persona(self, name: str | None) -> str:
        """The canonical name of a persona; None is the default one. Raises UnknownPersona."""
        return self._personas.resolve(name)

    def status(self) -> dict[str, Any]:
        """``{"warm", "running", "waiting", "demo"}``: models built, calls now, calls waiting,
        personas without key."""
        loading = self._loading
        warm = (
            loading is not None
            and loading.done()
            and not loading.cancelled()
            and loading.exception() is None
        )
        return {
            "warm": warm,
            "running": self._gate.running,
            "waiting": self._gate.waiting,
            "demo": self._personas.demo_only(),
        }

    async def _models(self) -> ModelSet:
        if self._stopped:
            raise AIUnavailable("the AI service is stopped", called=False)
        loading = self._load()
        try:
            return loading.result() if loading.done() else await asyncio.shield(loading)
        except Exception as error:  # an import or a constructor of a third party: anything
            Logger.error("ai models could not be built", error=type(error).__name__)
            self._loading = (
                None if self._loading is loading else self._loading
            )  # the next call tries again
            raise AIUnavailable("the models could not be built", called=False) from error

    def _load(self) -> asyncio.Task[ModelSet]:
        if self._loading is None:
            work = asyncio.to_thread(_import_and_build, self._settings, self._personas)
            self._loading = self._tasks.spawn(work, "ai models")
        return self._loading

    async def _remember(self, session_id: str, question: str, reply: str) -> None:
        try:
            await self._histories.append(
                session_id, [HistoryMessage("USER", question), HistoryMessage("AI", reply)]
            )
        except ServiceUnavailable as error:
            # The reply is there and paid for: losing the memory of it is the smaller harm.
            Logger.warn("ai history not stored", session_id=session_id, error=str(error))


def _import_and_build(settings: LlmSettings, personas: Personas) -> ModelSet:
    is_first = "langchain_core" not in sys.modules
    with heap_growing_for_good() if is_first else nullcontext():
        # One to three seconds: in a thread.
        from base_server.service.llm import chat_memory, models  # noqa: F401, PLC0415

        return models.ModelSet(settings, personas)


def _described(end: ReplyEnd) -> dict[str, Any]:
    return {
        "model": end.model,
        "tokens": {
            "prompt": end.prompt_tokens,
            "completion": end.completion_tokens,
            "total": end.prompt_tokens + end.completion_tokens,
        },
        "finish_reason": end.finish_reason,
        "latency_ms": end.latency_ms,
    }
