"""Fixtures for all tests: private servers of every backend, on free ports, in temporary folders."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from functools import partialmethod
from typing import Any

import aiohttp
import pytest
import structlog

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.logger import configure_logging
from base_server.service.redis_client.script import Script
from tests.quick_passwords import use_quick_hashes
from tests.server_process import WORKERS

# Where `rich` is installed structlog prints each traceback with all local values: 0.3 s of the
# processor for one.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)
_LOGGING = structlog.get_config()
# Folders of few tests that take long. They come first: begun last, one keeps a process busy while
# the others are idle.
_LONG = [
    "story",
    "e2e",
    "faults",
    "integration",
    "browser",
    "isolation",
    "streams",
    "benchmarks",
    "deploy",
    "examples",
    "application",
    "documented",
]
_INSTALLED_BACKENDS = {"redis", "mariadb", "cluster", "DEBUG", "CLUSTER"}
_INSTALLED_SERVERS = {
    "redis_server",
    "redis_cluster",
    "moving_cluster",
    "private_cluster",
    "prepared_mariadb",
}
use_quick_hashes()
pytest_plugins = ["tests.backends_redis", "tests.backends_cluster", "tests.backends_mariadb"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--embedded", action="store_true", help="only tests on the embedded default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get(item.path.parent.name, len(_LONG)))
    if config.getoption("embedded"):
        left_out = [item for item in items if _needs_installed_server(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _needs_installed_server(item)]


def _needs_installed_server(item: pytest.Item) -> bool:
    """Whether it takes a server from PATH, by a fixture or as the backend that it is run on."""
    assert isinstance(item, pytest.Function)
    params = item.callspec.params.values() if hasattr(item, "callspec") else ()
    words = {word for param in params if isinstance(param, str) for word in re.split("[+ ]", param)}
    return bool(words & _INSTALLED_BACKENDS or set(item.fixturenames) & _INSTALLED_SERVERS)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """An operator's command that a test runs in this process configures its logging."""
    yield
    if structlog.get_config()["processors"] is not _LOGGING["processors"]:
        configure_logging("debug")
        structlog.configure(**_LOGGING)


@pytest.fixture(autouse=True)
def one_partition_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of a script, whatever the backend, has the keys of one partition, as a cluster
    demands."""
    run_script = CacheClient.run_script

    async def checked(
        client: CacheClient, script: Script, keys: Sequence[str], *args: Any, **options: Any
    ) -> Any:
        assert len({key.partition("}")[0] for key in keys}) <= 1, (
            f"{script.name}: keys of several slots: {keys}"
        )
        return await run_script(client, script, keys, *args, **options)

    monkeypatch.setattr(CacheClient, "run_script", checked)


@pytest.fixture
def app_id() -> str:
    """A key prefix of this test's own, so that tests may share a server."""
    return f"t{uuid.uuid4().hex[:12]}"


if WORKERS > 1:  # each request on a connection of its own, and so to a worker of chance
    aiohttp.TCPConnector.__init__ = partialmethod(aiohttp.TCPConnector.__init__, force_close=True)  # type: ignore
