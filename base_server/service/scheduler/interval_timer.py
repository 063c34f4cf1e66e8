"""An interval by the event loop's clock, which no change of the machine's time touches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class IntervalTimer:
    """Calls ``fire`` every ``length_s`` seconds, for the first time after ``length_s``. Times that
    were missed because the loop was blocked are made up for once."""

    def __init__(self, length_s: float, fire: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._length_s = length_s
        self._fire = fire
        self._next_s = self._loop.time() + length_s
        self._handle = self._loop.call_at(self._next_s, self._tick)

    @property
    def next_run(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._next_s - self._loop.time())

    def stop(self) -> None:
        self._handle.cancel()

    def _tick(self) -> None:
        missed = max(0.0, self._loop.time() - self._next_s) // self._length_s
        self._next_s += self._length_s * (1 + missed)
        self._handle = self._loop.call_at(self._next_s, self._tick)
        self._fire()
