"""Schedulers on one Redis, and work for them."""

from __future__ import annotations

import asyncio

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_service import LockService
from base_server.service.scheduler.base_scheduler import ScheduleJob, ScheduleType
from base_server.service.scheduler.scheduler_service import SchedulerService
from base_server.service.scheduler.scheduler_settings import SchedulerSettings


class SchedulerHarness:
    """Schedulers as separate processes would have them, on one Redis."""

    def __init__(self, cache: CacheService) -> None:
        self.cache = cache
        self.locks = LockService(cache)
        self.tasks = TaskRegistry()
        self.started: list[SchedulerService] = []

    async def scheduler(self, **settings: object) -> SchedulerService:
        service = SchedulerService(SchedulerSettings(**settings), self.locks, self.tasks)
        await service.start()
        self.started.append(service)
        return service


class Work:
    """A callback that counts its calls and can be held up or made to fail."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.at_once = 0
        self.most_at_once = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> None:
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            self.ended += 1
        finally:
            self.at_once -= 1


def interval(
    work: object, job_id: str = "job", seconds: float = 0.02, **fields: object
) -> ScheduleJob:
    return ScheduleJob(job_id, job_id, ScheduleType.INTERVAL, seconds, work, **fields)  # type: ignore[arg-type]
