"""A lock for as long as work lasts: acquired, extended, and released whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_service import LockService


@dataclass
class AcquiredLock:
    """A lock that is acquired. ``lost`` turns true when it ran out or could not be kept; the
    work should then end at its next step, and must be correct even if it does not."""

    key: str
    token: str
    ttl_s: float
    partition: int | None
    lost: bool = False
    # Set inside the block: at its end the lock is not released, it expires after this.
    leave_for_s: float | None = None


class LockHolder:
    """Keeps locks of ``locks`` in tracked tasks, so that a cancellation leaks none.

    A lock whose release met an outage is remembered and given back before its next acquisition
    here: the next attempt does not wait for the TTL.
    """

    def __init__(self, locks: LockService, tasks: TaskRegistry) -> None:
        self._locks = locks
        self._tasks = tasks
        self._unreleased: dict[str, AcquiredLock] = {}

    @asynccontextmanager
    async def acquired(
        self, key: str, *, ttl_s: float, timeout_s: float, partition: int | None = None
    ) -> AsyncIterator[AcquiredLock | None]:
        """Acquire ``key`` for the block; None if it is still taken after ``timeout_s``. Raises
        ServiceUnavailable when it cannot be asked; an outage later, while working or leaving, only
        shows in ``lost`` and the log."""
        lock = await self._acquire(key, ttl_s, timeout_s, partition)
        if lock is None:
            yield None
            return
        renewer = self._tasks.spawn(self._renew(lock), f"renew {key}")
        try:
            yield lock
        finally:
            renewer.cancel()
            await self._tasks.finish(self._leave(lock), f"release {key}")

    async def _acquire(
        self, key: str, ttl_s: float, timeout_s: float, partition: int | None
    ) -> AcquiredLock | None:
        if (forgotten := self._unreleased.get(key)) is not None:
            await self._locks.release(key, forgotten.token, partition=forgotten.partition)
            self._unreleased.pop(key, None)
        token = await self._locks.acquire(key, ttl_s, timeout_s, partition=partition)
        return None if token is None else AcquiredLock(key, token, ttl_s, partition)

    async def _renew(self, lock: AcquiredLock) -> None:
        sure_until_s = time.monotonic() + lock.ttl_s
        while not lock.lost:
            await asyncio.sleep(lock.ttl_s / 3)
            asked_s = time.monotonic()
            try:
                if await self._locks.extend(
                    lock.key, lock.token, lock.ttl_s, partition=lock.partition
                ):
                    sure_until_s = asked_s + lock.ttl_s
                else:
                    lock.lost = True
            except ServiceUnavailable:
                lock.lost = time.monotonic() >= sure_until_s
        Logger.warn("a lock was lost while its holder worked", lock=lock.key)

    async def _leave(self, lock: AcquiredLock) -> None:
        try:
            if lock.leave_for_s is None or lock.lost:
                await self._locks.release(lock.key, lock.token, partition=lock.partition)
            else:
                await self._locks.extend(
                    lock.key, lock.token, lock.leave_for_s, partition=lock.partition
                )
        except ServiceUnavailable as error:
            self._unreleased[lock.key] = lock
            # Other processes want it too.
            self._locks.give_back(lock.key, lock.token, partition=lock.partition)
            Logger.warn("a lock could not be released", lock=lock.key, reason=error.reason)
