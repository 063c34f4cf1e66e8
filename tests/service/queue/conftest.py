"""The bench on every backend that the queue has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from base_server.service.cache.cache_service import CacheService
from tests.backends_redis import CacheBackend, RedisServer, make_cache
from tests.service.queue.queue_bench import QueueBench
from tests.waiting import PATIENCE_S


@pytest.fixture
async def bench(real_cache_backend: CacheBackend, app_id: str) -> AsyncIterator[QueueBench]:
    async for bench in _benches(make_cache(real_cache_backend.settings, app_id, partitions=4)):
        yield bench


@pytest.fixture
async def private_bench(private_server: RedisServer, app_id: str) -> AsyncIterator[QueueBench]:
    """On a server of its own, which the test may kill (and must start again)."""
    cache = make_cache(private_server.settings(bulk_timeout_s=PATIENCE_S), app_id, partitions=4)
    async for bench in _benches(cache):
        yield bench


async def _benches(cache: CacheService) -> AsyncIterator[QueueBench]:
    await cache.start()
    bench = QueueBench(cache)
    yield bench
    await bench.close()
    await cache.stop()
