"""A worker's place among the processes of one server, as the server's parts see it."""

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
from .heartbeats import POST_INTERVAL_S, WorkerBoard


class WorkerSeat:
    """Worker ``number`` (1 …), its bound ``sockets`` by the key of their port, and the board that all share."""

    def __init__(
        self, number: int, sockets: Mapping[str, Sequence[socket.socket]], board: WorkerBoard
    ) -> None:
        self.number = number
        self.sockets = sockets
        self.board = board
        self._counts = True

    def post(self, readiness: Readiness) -> None:
        """Say at once how this process is."""
        self.board.post(self.number, readiness)

    @asynccontextmanager
    async def posting(
        self, health: HealthMonitor, tasks: TaskRegistry, write_counts: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Post this process's readiness every second, and write its counts for all, until the block ends."""

        async def post() -> None:
            while True:
                self.post(await health.readiness())
                self._try(write_counts)
                await asyncio.sleep(POST_INTERVAL_S)

        self.post(await health.readiness())
        task = tasks.spawn(post(), "worker board")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._try(write_counts)
            self.board.remove(self.number, os.getpid())

    def _try(self, write_counts: Callable[[], None]) -> None:
        """A disk that is full costs figures, not the worker."""
        try:
            write_counts()
            self._counts = True
        except OSError as error:
            if self._counts:
                Logger.error("metrics are not written", reason=str(error))
            self._counts = False


class WorkersHealth:
    """``/readyz`` of a server of workers: all of them, this one as it is now."""

    def __init__(self, monitor: HealthMonitor, seat: WorkerSeat) -> None:
        self._monitor = monitor
        self._seat = seat

    async def report(self, *, verbose: bool) -> tuple[bool, dict[str, Any]]:
        self._seat.post(await self._monitor.readiness())
        return self._seat.board.report(verbose=verbose)
