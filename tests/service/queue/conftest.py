"""The harness on every backend that the queue has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from base_server.service.cache.cache_service import CacheService
from tests.backends_redis import CacheBackend, RedisServer, make_cache
from tests.service.queue.queue_harness import QueueHarness
from tests.waiting import PATIENCE_S


@pytest.fixture
async def harness(real_cache_backend: CacheBackend, app_id: str) -> AsyncIterator[QueueHarness]:
    async for harness in _benches(make_cache(real_cache_backend.settings, app_id, partitions=4)):
        yield harness


@pytest.fixture
async def private_harness(private_server: RedisServer, app_id: str) -> AsyncIterator[QueueHarness]:
    """On a server of its own, which the test may kill (and must start again)."""
    cache = make_cache(private_server.settings(bulk_timeout_s=PATIENCE_S), app_id, partitions=4)
    async for harness in _benches(cache):
        yield harness


async def _benches(cache: CacheService) -> AsyncIterator[QueueHarness]:
    await cache.start()
    harness = QueueHarness(cache)
    yield harness
    await harness.close()
    await cache.stop()
