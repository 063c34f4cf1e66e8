"""The bench on every backend that the queue has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.cache.cache_service import CacheService
from service.cache.cache_settings import CacheSettings
from tests.service.queue.queue_bench import QueueBench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[QueueBench]:
    cache = CacheService(CacheSettings(type="embedded"), app_id="app", env="TEST", partitions=4, data_dir=tmp_path)
    await cache.start()
    bench = QueueBench(cache)
    yield bench
    for queue in bench.queues:
        await queue.stop(0)
    for tasks in bench.tasks:
        assert await tasks.drain(1) == 0
    await cache.stop()
