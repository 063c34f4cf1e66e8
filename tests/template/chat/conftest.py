"""The chat on both pairs of backends that ship: embedded (Valkey + SQLite) and real (Redis +
MariaDB)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from base_server.service.cache.cache_settings import CacheSettings
from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub


@pytest.fixture
async def provider() -> AsyncIterator[OpenAIStub]:
    """Answers every question with its text; scriptable."""
    async with OpenAIStub() as stub:
        yield stub


ON_A_CLUSTER_TOO = {"loading", "recovery", "replies", "settling", "writes"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backends" in metafunc.fixturenames:
        pairs = ["valkey+sqlite", "redis+mariadb"]
        if metafunc.module.__name__.rpartition(".test_")[2] in ON_A_CLUSTER_TOO:
            pairs.append("cluster+sqlite")
        metafunc.parametrize("backends", pairs, indirect=True)


@pytest.fixture
def backends(request: pytest.FixtureRequest) -> tuple[CacheSettings, DatabaseBackend]:
    cache, database = request.param.split("+")
    server = request.getfixturevalue("redis_cluster" if cache == "cluster" else f"{cache}_server")
    settings: CacheSettings = server.settings()
    return settings, request.getfixturevalue(f"shared_{database}")


@pytest.fixture
async def chat(
    backends: tuple[CacheSettings, DatabaseBackend],
    app_id: str,
    provider: OpenAIStub,
    request: pytest.FixtureRequest,
) -> AsyncIterator[ChatHarness]:
    """A running chat; ``@pytest.mark.chat_settings(window=4)`` changes its settings."""
    marker = request.node.get_closest_marker("chat_settings")
    async with running_harness(
        *backends, app_id, provider, **(marker.kwargs if marker else {})
    ) as harness:
        yield harness
