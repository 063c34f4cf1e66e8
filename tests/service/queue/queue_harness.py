"""A queue harness: as many processes' worth of queue services as a test wants, on one private
server."""

from __future__ import annotations

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_service import LockService
from base_server.service.queue.queue_service import QueueService
from base_server.service.queue.queue_settings import QueueSettings

QUICK = {"poll_interval_s": 0.02, "retry_base_s": 0.02, "retry_cap_s": 0.1, "drain_timeout_s": 1.0}


class QueueHarness:
    """Each :meth:`queue` is what one process has: its own service and tasks; Redis is shared."""

    def __init__(self, cache: CacheService) -> None:
        self.cache = cache
        self.queues: list[QueueService] = []
        self.tasks: list[TaskRegistry] = []
        self.locks = LockService(cache)

    async def queue(self, **settings: object) -> QueueService:
        tasks = TaskRegistry()
        merged = QueueSettings(**({"partitions": self.cache.partitions.count} | QUICK | settings))
        queue = QueueService(merged, self.cache, self.locks, tasks)
        await queue.start()
        self.queues.append(queue)
        self.tasks.append(tasks)
        return queue

    async def waiting(self, queue_name: str) -> int:
        return sum((await self.queues[0].backlog(queue_name)).values())

    async def close(self) -> None:
        for queue in self.queues:
            await queue.stop(0)
        await self.locks.stop()
        for tasks in self.tasks:
            assert await tasks.drain(1) == 0
