"""The harness that the scheduler's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from tests.service.scheduler.scheduler_harness import SchedulerHarness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SchedulerHarness]:
    cache = CacheService(CacheSettings(), app_id="app", env="TEST", partitions=4, data_dir=tmp_path)
    await cache.start()
    harness = SchedulerHarness(cache)
    yield harness
    for service in harness.started:
        await service.stop(0)
    assert await harness.tasks.drain(1) == 0
    await cache.stop()
