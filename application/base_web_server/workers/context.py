"""What a server process knows of the other processes of the same server."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry

from ..observability.health import HealthMonitor
from ..observability.readiness import Readiness
from .heartbeats import HEARTBEAT_INTERVAL_S, Heartbeats


class WorkerContext:
    """Worker ``number`` (1 …), its ``sockets`` by their port's key, and all ``heartbeats``."""

    def __init__(
        self, number: int, sockets: Mapping[str, Sequence[socket.socket]], heartbeats: Heartbeats
    ) -> None:
        self.number = number
        self.sockets = sockets
        self.heartbeats = heartbeats
        self._can_write_counts = True

    def beat(self, readiness: Readiness) -> None:
        """Write this process's heartbeat now."""
        self.heartbeats.write(self.number, readiness)

    @asynccontextmanager
    async def beating(
        self, health: HealthMonitor, tasks: TaskRegistry, write_counts: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Write a heartbeat and this process's counts every second until the block ends."""

        async def beat_for_ever() -> None:
            while True:
                self.beat(await health.readiness())
                self._try(write_counts)
                await asyncio.sleep(HEARTBEAT_INTERVAL_S)

        self.beat(await health.readiness())
        task = tasks.spawn(beat_for_ever(), "worker heartbeat")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._try(write_counts)
            self.heartbeats.remove(self.number, os.getpid())

    def _try(self, write_counts: Callable[[], None]) -> None:
        """A full disk costs figures, not the worker. Logged once per outage."""
        try:
            write_counts()
            self._can_write_counts = True
        except OSError as error:
            if self._can_write_counts:
                Logger.error("metrics are not written", reason=str(error))
            self._can_write_counts = False


class WorkersHealth:
    """``/readyz`` of a server with workers: this process now, the others by their heartbeats."""

    def __init__(self, monitor: HealthMonitor, worker: WorkerContext) -> None:
        self._monitor = monitor
        self._worker = worker

    async def report(self, *, verbose: bool) -> tuple[bool, dict[str, Any]]:
        self._worker.beat(await self._monitor.readiness())
        return self._worker.heartbeats.report(verbose=verbose)
