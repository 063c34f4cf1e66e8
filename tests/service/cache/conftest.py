"""Fixtures of the cache's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from base_server.service.cache.cache_client import CacheClient
from tests.backends_redis import CacheBackend, make_cache
from tests.flaky_proxy import FlakyProxy


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What reads from transports itself is tested on both loops that a server may run on."""
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return (
        loops if item.path.stem == "test_cache_connections" else {"asyncio": asyncio.new_event_loop}
    )


@pytest.fixture
async def proxied(
    real_cache_backend: CacheBackend, app_id: str
) -> AsyncIterator[tuple[FlakyProxy, CacheClient]]:
    """A client behind a wire that a test can cut, with a time-out of 2 s."""
    assert real_cache_backend.server is not None
    async with FlakyProxy(real_cache_backend.server.socket) as proxy:
        settings = real_cache_backend.server.settings(
            unix_socket_path=str(proxy.socket), timeout_s=2
        )
        service = make_cache(settings, app_id)
        await service.start()
        yield proxy, service.get_client()
        await service.stop()
