"""A host's template in the document's style beside the chat template, on every pair of backends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from service.cache.cache_settings import CacheSettings
from service.db.db_settings import DatabaseSettings

from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import ChatHarness, running_harness
from tests.documented.host_harness import HostHarness, hosted
from tests.openai_stub import OpenAIStub
from tests.waiting import PATIENCE_S


@pytest.fixture
async def provider() -> AsyncIterator[OpenAIStub]:
    """Answers every question with its text; scriptable."""
    async with OpenAIStub() as stub:
        yield stub


@pytest.fixture(params=["embedded", "redis+mariadb"])
def backends(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[CacheSettings, DatabaseBackend]:
    """LOCAL's own (embedded Valkey + SQLite, both of this test alone), and real servers."""
    if request.param == "embedded":
        return CacheSettings(type="embedded"), DatabaseBackend(
            "sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None
        )
    cache: CacheSettings = request.getfixturevalue("redis_server").settings()
    return cache, request.getfixturevalue("shared_mariadb")


@pytest.fixture
async def chat(
    backends: tuple[CacheSettings, DatabaseBackend],
    app_id: str,
    provider: OpenAIStub,
    request: pytest.FixtureRequest,
) -> AsyncIterator[ChatHarness]:
    """A running chat; ``@pytest.mark.chat_settings(window=4)`` changes its settings."""
    cache, database = backends
    marker = request.node.get_closest_marker("chat_settings")
    async with running_harness(
        cache, database, app_id, provider, **(marker.kwargs if marker else {})
    ) as harness:
        yield harness


@pytest.fixture
async def host(chat: ChatHarness) -> AsyncIterator[HostHarness]:
    with hosted(chat) as harness:
        yield harness
