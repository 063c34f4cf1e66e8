from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from base_server.service.cache.cache_service import CacheService
from tests.openai_stub import OpenAIStub
from tests.service.llm.ai_fixtures import running_cache


@pytest.fixture
async def stub() -> AsyncIterator[OpenAIStub]:
    async with OpenAIStub() as running:
        yield running


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[CacheService]:
    async with running_cache(tmp_path) as running:
        yield running
