"""The bench that the scheduler's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from tests.service.scheduler.scheduler_bench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    cache = CacheService(CacheSettings(), app_id="app", env="TEST", partitions=4, data_dir=tmp_path)
    await cache.start()
    bench = Bench(cache)
    yield bench
    for service in bench.started:
        await service.stop(0)
    assert await bench.tasks.drain(1) == 0
    await cache.stop()
