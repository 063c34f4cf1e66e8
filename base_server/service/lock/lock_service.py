"""Locks in Redis with a token and a TTL.

A lock keeps two from doing the same work at the same time; it does not make the work safe: a holder
can be paused past its TTL. What a lock guards is idempotent or guarded by a version.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable
from base_server.service.core.facade import Facade, facade
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.script import ScriptFolder

_SCRIPTS = ScriptFolder(Path(__file__).parent / "lua")
_SHORTEST_WAIT_S = 0.01
_LONGEST_WAIT_S = 0.25
_LONGEST_PAUSE_S = 1.0  # between two tries to release what an outage left taken


class LockService(Facade):
    """Every call raises :class:`~base_server.service.core.errors.ServiceUnavailable` when Redis
    does not answer.

    A lock ``key`` is any text; it lies in the partition of the data that it names (``room:<id>`` in
    that of the room) or in the ``partition`` given, and is no data key itself. It ends with its
    TTL, or with the Redis run in which it was taken: after a restart of Redis it is free.
    """

    def __init__(self, cache: CacheService) -> None:
        self._cache = cache
        self._tasks = TaskRegistry()
        self._stopping = asyncio.Event()

    async def stop(self) -> None:
        """Wait until the locks of cancelled callers are given back; tried once more where there is
        an outage."""
        self._stopping.set()
        await self._tasks.drain(timeout_s=5.0)

    @facade
    async def acquire(
        self,
        key: str,
        ttl: float,
        timeout: float,  # noqa: ASYNC109 - documented name
        *,
        partition: int | None = None,
    ) -> str | None:
        """Take the lock for ``ttl`` seconds, waiting up to ``timeout`` seconds; ``None`` when it
        stayed taken.

        0 tries once. Not fair: the first to try after a release gets it. A caller that is cancelled
        while waiting, or gets an error, holds nothing (a lock taken meanwhile is given back).
        """
        if ttl <= 0:
            raise ValueError(f"ttl must be more than 0 seconds, not {ttl}")
        token = secrets.token_hex(16)
        deadline_s = time.monotonic() + timeout
        wait_s = _SHORTEST_WAIT_S
        while True:
            taken_for_ms = await self._try(key, token, ttl, partition)
            if taken_for_ms == 0:
                return token
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            # Random, so that waiting callers do not retry all at once; not past the holder's TTL.
            share = random.uniform(0.5, 1.0)  # noqa: S311
            pause_s = min(wait_s * share, taken_for_ms / 1000, left_s)
            await asyncio.sleep(pause_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    @facade
    async def release(self, key: str, token: str, *, partition: int | None = None) -> bool:
        """Release the lock; false when ``token`` had lost it already."""
        return bool(await self._run("release_lock", key, partition, token))

    @facade
    async def extend(
        self, key: str, token: str, ttl: float, *, partition: int | None = None
    ) -> bool:
        """Extend the lock to ``ttl`` seconds from now; false when ``token`` had lost it already."""
        return bool(await self._run("extend_lock", key, partition, token, _ms(ttl)))

    async def _try(self, key: str, token: str, ttl: float, partition: int | None) -> int:
        attempt = self._tasks.spawn(
            self._run("acquire_lock", key, partition, token, _ms(ttl)), "lock acquire"
        )
        try:
            return await asyncio.shield(attempt)
        except (asyncio.CancelledError, OutcomeUnknown):
            # It may have been taken for nobody: without this it would stay taken until its TTL
            # ends.
            self._tasks.spawn(
                self._give_back_attempt(attempt, key, token, partition), "lock give back"
            )
            raise

    def give_back(self, key: str, token: str, *, partition: int | None = None) -> None:
        """Release the lock as soon as Redis answers; does not wait."""
        self._tasks.spawn(self._give_back(key, token, partition, answers=1), "lock give back")

    async def _give_back_attempt(
        self, attempt: asyncio.Task[int], key: str, token: str, partition: int | None
    ) -> None:
        await asyncio.wait([attempt])
        is_unsure = attempt.cancelled() or attempt.exception() is not None
        # A Redis that stood still may run the attempt, and begin its TTL, after the first release.
        await self._give_back(key, token, partition, answers=2 if is_unsure else 1)

    async def _give_back(self, key: str, token: str, partition: int | None, answers: int) -> None:
        """Try until Redis has released it, or has answered so often that it is not taken."""
        pause_s = _SHORTEST_WAIT_S
        while True:
            is_last = self._stopping.is_set()
            try:
                if (
                    await self.release(key, token, partition=partition)
                    or (answers := answers - 1) == 0
                ):
                    return
            except ServiceUnavailable as error:
                if is_last:
                    Logger.warn(
                        "a lock may stay taken until its TTL ends", key=key, error=str(error)
                    )
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run(
        self, script: str, key: str, partition: int | None, *args: Any
    ) -> Coroutine[Any, Any, int]:
        client = self._cache.get_client()
        name = key.removeprefix("lock:")
        if partition is None:
            partition = client.partitions.of_key(name)
        keys = [client.key(f"lock:{name}", partition), client.key("epoch", partition)]
        return client.run_script(_SCRIPTS[script], keys, args)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
