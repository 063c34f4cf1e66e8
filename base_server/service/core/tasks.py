"""One registry for every background task: nothing is created without a reference, nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from base_server.service.core.logger import Logger

T = TypeVar("T")


class TaskRegistry:
    """Keeps tasks until they end; a task that fails unobserved is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start ``work`` in a task of its own that no caller's cancellation reaches."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def track(self, end: asyncio.Future[None]) -> None:
        """Keep what has no task of its own as if it had one, until ``end`` is done."""
        self._tasks.add(end)
        end.add_done_callback(self._tasks.discard)

    async def finish(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run ``work`` to its end even when the caller is cancelled meanwhile."""
        return await asyncio.shield(self.spawn(work, name))

    async def drain(self, timeout_s: float) -> int:
        """Wait up to ``timeout_s`` for all tasks, cancel the rest; returns how many were
        cancelled."""
        current = asyncio.current_task()
        if waiting := {task for task in self._tasks if task is not current}:
            await asyncio.wait(waiting, timeout=timeout_s)
        late = [task for task in self._tasks if task is not current and not task.done()]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return len(late)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            Logger.debug("task ended with an error", task=task.get_name(), error=repr(error))
