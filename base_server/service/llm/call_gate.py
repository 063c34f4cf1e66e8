"""Limits the provider calls that run at once, and those that wait to run."""

from __future__ import annotations

import asyncio

from base_server.service.llm.call_meter import RUNNING, WAITING
from base_server.service.llm.llm_errors import AIUnavailable

_RETRY_AFTER_S = 5.0


class CallGate:
    """``async with`` around a call.

    First come, first served; ``running`` and ``waiting`` count the calls of now."""

    def __init__(self, capacity: int, max_waiting: int, wait_timeout_s: float) -> None:
        self._free = asyncio.Semaphore(capacity)
        self._max_waiting = max_waiting
        self._wait_timeout_s = wait_timeout_s
        self.running = 0
        self.waiting = 0

    async def __aenter__(self) -> None:
        """Return once the call may run.

        Raises :class:`AIUnavailable` (not called) when that takes too long."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()  # at once
        self.running += 1
        RUNNING.up()

    async def __aexit__(self, *exc_info: object) -> None:
        self.running -= 1
        RUNNING.down()
        self._free.release()

    async def _wait(self) -> None:
        if self.waiting >= self._max_waiting:
            raise AIUnavailable(
                "too many replies are waiting", called=False, retry_after_s=_RETRY_AFTER_S
            )
        self.waiting += 1
        try:
            with WAITING.track_in_progress():
                async with asyncio.timeout(self._wait_timeout_s):
                    await self._free.acquire()
        except TimeoutError:
            raise AIUnavailable(
                "no capacity in time", called=False, retry_after_s=_RETRY_AFTER_S
            ) from None
        finally:
            self.waiting -= 1
