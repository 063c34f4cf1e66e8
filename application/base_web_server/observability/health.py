"""Whether this process can serve: the checks behind ``/readyz``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from base_server.service.core.errors import ServiceError
from base_server.service.core.logger import Logger
from base_server.service.service_container import ServiceContainer
from base_server.template.base.readiness import Health, ReadinessCheck
from base_server.template.base.template_context import TemplateContext

from .durability_watch import DurabilityWatch
from .readiness import Phase, Readiness

CHECK_TIMEOUT_S = 1.5
_KEPT_S = 1.0


class HealthMonitor:
    """Checks services and templates, at most once a second for any number of requests.

    Failed: Redis is down or refuses writes, or a database has another schema. Degraded: a database
    is down (chat goes on from Redis), Redis is full, or acknowledged writes are not durable. A
    check that takes longer than 1.5 s counts as an outage.
    """

    def __init__(
        self,
        container: ServiceContainer,
        context: TemplateContext,
        durability: DurabilityWatch | None = None,
    ) -> None:
        self.phase = Phase.STARTING
        self._container = container
        self._context = context
        self._durability = durability
        self._last: tuple[float, Readiness] | None = None
        self._looking: asyncio.Task[Readiness] | None = None

    async def report(self, *, verbose: bool) -> tuple[bool, dict[str, Any]]:
        """Whether this server is ready, and the body of ``/readyz``."""
        readiness = await self.readiness()
        return readiness.ready, readiness.to_json(verbose=verbose)

    async def readiness(self) -> Readiness:
        """The current state, at most a second old."""
        if self.phase is not Phase.READY:
            return Readiness(self.phase, ())
        if (
            self._last is not None
            and time.monotonic() - self._last[0] < _KEPT_S
            and self._last[1].phase is self.phase
        ):
            return self._last[1]
        if self._looking is None:
            self._looking = self._container.tasks.spawn(self._look(), "readiness")
            self._looking.add_done_callback(self._looked)
        return await asyncio.shield(self._looking)

    def _looked(self, task: asyncio.Task[Readiness]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is None:
            self._last = (time.monotonic(), task.result())

    async def _look(self) -> Readiness:
        looks: list[Awaitable[Sequence[ReadinessCheck]]] = [
            _checked("redis", Health.FAILED, self._redis()),
            self._databases(),
        ]
        for name, template in self._context.templates().items():
            looks.append(_checked(name, Health.DEGRADED, template.readiness()))
        found = await asyncio.gather(*looks)
        return Readiness(
            self.phase,
            [*(check for checks in found for check in checks), *self._durability_checks()],
        )

    def _durability_checks(self) -> Sequence[ReadinessCheck]:
        """The durability level of each server, good or bad."""
        findings = self._durability.findings if self._durability else ()
        return [
            ReadinessCheck(
                f"durability:{found.server}",
                Health.OK if found.safe else Health.DEGRADED,
                found.sentence,
            )
            for found in findings
        ]

    async def _redis(self) -> Sequence[ReadinessCheck]:
        cache = self._container.cache
        await cache.get_client().execute("PING")
        if await cache.is_full():
            reason = "maxmemory is reached: sends are refused; lists, stops and persistence go on"
            return [ReadinessCheck("redis", Health.DEGRADED, reason)]
        return [ReadinessCheck("redis", Health.OK)]

    async def _databases(self) -> Sequence[ReadinessCheck]:
        database = self._container.database
        looks = [_checked("database:global", Health.DEGRADED, self._global())]
        looks += [
            _checked(f"database:shard{shard_id}", Health.DEGRADED, self._shard(shard_id))
            for shard_id in database.shard_ids
        ]
        return [check for checks in await asyncio.gather(*looks) for check in checks]

    async def _global(self) -> Sequence[ReadinessCheck]:
        await self._container.database.ping_global()
        return [ReadinessCheck("database:global", Health.OK)]

    async def _shard(self, shard_id: int) -> Sequence[ReadinessCheck]:
        await self._container.database.ping_shard(shard_id)
        return [ReadinessCheck(f"database:shard{shard_id}", Health.OK)]


async def _checked(
    name: str, otherwise: Health, look: Awaitable[Sequence[ReadinessCheck]]
) -> Sequence[ReadinessCheck]:
    """The findings of ``look``; the health is ``otherwise`` on an outage or a time-out."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await look
    except TimeoutError:
        return [ReadinessCheck(name, otherwise, f"no answer within {CHECK_TIMEOUT_S:g} s")]
    except ServiceError as error:
        return [ReadinessCheck(name, otherwise, str(error)[:300])]
    except Exception as error:  # of a host's template: report it; the health poller must survive it
        Logger.error("readiness check failed", check=name, exc_info=error)
        return [
            ReadinessCheck(name, Health.FAILED, f"the check itself failed: {type(error).__name__}")
        ]
