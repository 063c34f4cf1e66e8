"""The conversations that replies build on: a registered reader's, or a session's own list in
Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceError
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.conversation import HistoryMessage, as_history_message
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script import load_scripts

HistoryReader = Callable[[str], Awaitable[Sequence[HistoryMessage] | None]]


@dataclass(frozen=True, slots=True)
class History:
    """A conversation as read; ``own`` when this service stores it itself."""

    messages: Sequence[HistoryMessage]
    own: bool


class Histories:
    """``reader`` is asked first; a session that it does not know (None) has a Redis LIST
    ``ai_history:{session_id}`` of at most ``max_conversation_length`` messages, TTL
    ``conversation_ttl_s``.

    Every call on a session waits for the writes that :meth:`write_later` has queued for it.
    Cache outages are raised as the cache raises them.
    """

    def __init__(self, settings: LlmSettings, cache: CacheService, tasks: TaskRegistry) -> None:
        self._cache = cache
        self._tasks = tasks
        self._keep = settings.max_conversation_length
        self._ttl_s = settings.conversation_ttl_s
        self._script = load_scripts(Path(__file__).parent / "lua")["write_history"]
        self._reader: HistoryReader | None = None
        self._queued: dict[str, asyncio.Task[None]] = {}

    def register(self, reader: HistoryReader) -> None:
        """Set the reader of the sessions that are stored elsewhere; the last one registered
        counts."""
        self._reader = reader

    async def read(self, session_id: str) -> History:
        """The conversation, oldest message first; empty when nothing is known."""
        if (messages := await self._reader_messages(session_id)) is not None:
            return History(messages, own=False)
        await self._written(session_id)
        if self._keep == 0:
            return History([], own=True)
        try:
            texts = await self._cache.get_client().list_range(_key(session_id), -self._keep, -1)
        except (
            CacheCommandError
        ):  # a key of another type counts as a miss; the next write replaces it
            Logger.warn("ai history unreadable", session_id=session_id)
            texts = []
        return History(
            [message for text in texts if (message := _decoded(text)) is not None], own=True
        )

    async def append(self, session_id: str, messages: Sequence[HistoryMessage]) -> None:
        """Add ``messages`` after the others; without effect for a reader's session."""
        await self._write(session_id, "append", messages)

    async def replace(self, session_id: str, messages: Sequence[HistoryMessage]) -> None:
        """Put ``messages`` (none: nothing) in place of the conversation; without effect for a
        reader's session."""
        await self._write(session_id, "replace", messages)

    def write_later(self, session_id: str, write: Callable[[], Awaitable[None]]) -> None:
        """Run ``write`` in a task, after the session's earlier ones; for callers that cannot await.

        Needs a running event loop. A failure is logged.
        """
        before = self._queued.get(session_id)
        task = self._tasks.spawn(self._queued_write(before, write), f"ai history {session_id}")
        self._queued[session_id] = task
        task.add_done_callback(lambda done: self._forget(session_id, done))

    async def _queued_write(
        self, before: asyncio.Task[None] | None, write: Callable[[], Awaitable[None]]
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            await write()
        except ServiceError as error:
            Logger.warn("ai history write lost", error=str(error))

    def _forget(self, session_id: str, task: asyncio.Task[None]) -> None:
        if self._queued.get(session_id) is task:
            del self._queued[session_id]

    async def _written(self, session_id: str) -> None:
        task = self._queued.get(session_id)
        if task is not None and task is not asyncio.current_task():
            await asyncio.wait({task})

    async def _reader_messages(self, session_id: str) -> Sequence[HistoryMessage] | None:
        return None if self._reader is None else await self._reader(session_id)

    async def _write(self, session_id: str, how: str, messages: Sequence[HistoryMessage]) -> None:
        if await self._reader_messages(session_id) is not None:
            return
        newest = [_encoded(message) for message in messages[-self._keep :]] if self._keep else []
        args = [str(self._keep), str(self._ttl_s), how, *newest]
        if newest or how == "replace":
            await self._cache.get_client().eval_script(
                self._script.source, [_key(session_id)], args
            )


def _key(session_id: str) -> str:
    return f"ai_history:{session_id}"


def _encoded(message: HistoryMessage) -> str:
    return json.dumps({"sender": message.sender, "content": message.content}, ensure_ascii=False)


def _decoded(text: str) -> HistoryMessage | None:
    try:
        fields: Any = json.loads(text)
        return as_history_message(fields) if isinstance(fields, dict) else None
    except ValueError:  # not ours or damaged: a miss
        return None
