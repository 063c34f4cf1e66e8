"""Redis for tests: the embedded Valkey's binary, redis-server from PATH, a cluster of it.

Servers are private processes on a socket file and a free port, with their data in a temporary
folder. A missing binary skips the test by name, or fails it when REQUIRE_REAL=1.

Fixtures: ``cache_backend`` (valkey, redis, cluster) and ``real_cache_backend`` (valkey, redis) give
a
:class:`CacheBackend`; ``cache`` and ``real_cache`` a started CacheService on it with an ``app_id``
of the test's own; ``private_server`` (valkey, redis) a server that the test may kill.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.cache.embedded import find_binary
from base_server.service.core.errors import StartError
from tests.waiting import PATIENCE_S

LOSES_NOTHING = ("--appendfsync", "always")
"""With everysec a write may wait in its memory for 2 s while the disk is slow, and a kill loses
it."""


class RedisServer:
    """One private server process; :meth:`kill` is SIGKILL, :meth:`start` starts it (again) on the
    same data."""

    def __init__(
        self, binary: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = [binary, *options]
        self._environment = {**os.environ, **(environment or {})}
        # Short, for a socket's path may have only about 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="r-"))
        self.socket = self.folder / "s"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def settings(self, **changes: Any) -> CacheSettings:
        """How to reach it, by its socket file unless ``changes`` say otherwise.

        A call may take as long as a test waits: one that is about the time-out gives its own.
        """
        options = {"port": self.port, "unix_socket_path": str(self.socket), "timeout_s": PATIENCE_S}
        return CacheSettings.model_validate({"type": "redis", **options} | changes)

    def start(self) -> None:
        options = {
            "port": self.port,
            "unixsocket": self.socket,
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [self._command[0], *arguments, "--loglevel", "warning", *self._command[1:]],
            env=self._environment,
            stdout=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, f"{self._command[0]} ended at once"
            assert time.monotonic() < deadline_s, f"{self._command[0]} does not answer"
            time.sleep(0.005)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            try:
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False


@dataclass(frozen=True)
class CacheBackend:
    """``settings`` for a CacheService; ``server`` is ``None`` for a cluster."""

    name: str
    settings: CacheSettings
    server: RedisServer | None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing_backend(reason: str) -> None:
    """Skip the test because of ``reason``; where everything must be there (REQUIRE_REAL=1), fail
    it."""
    if os.environ.get("REQUIRE_REAL") == "1":
        pytest.fail(f"REQUIRE_REAL=1, but {reason}")
    pytest.skip(reason)


def find_server(name: str) -> str:
    """The executable of ``valkey`` (the embedded one's) or ``redis`` (on PATH)."""
    if name == "valkey":
        try:
            return find_binary()
        except StartError as error:
            missing_backend(str(error))
    binary = shutil.which("redis-server")
    if binary is None:
        missing_backend("redis-server is not on PATH (Debian: apt-get install redis-server)")
    assert binary is not None
    return binary


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    yield from _running_server("valkey")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    yield from _running_server("redis")


@pytest.fixture(params=["valkey", "redis"])
def private_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server for this test alone, which loses nothing when it is killed."""
    yield from _running_server(request.param, *LOSES_NOTHING)


@pytest.fixture(params=["valkey", "redis", "cluster"])
def cache_backend(request: pytest.FixtureRequest) -> CacheBackend:
    return _backend(request)


@pytest.fixture(params=["valkey", "redis"])
def real_cache_backend(request: pytest.FixtureRequest) -> CacheBackend:
    return _backend(request)


@pytest.fixture
async def cache(cache_backend: CacheBackend, app_id: str) -> AsyncIterator[CacheService]:
    async with running_cache(cache_backend.settings, app_id) as service:
        yield service


@pytest.fixture
async def real_cache(real_cache_backend: CacheBackend, app_id: str) -> AsyncIterator[CacheService]:
    async with running_cache(real_cache_backend.settings, app_id) as service:
        yield service


def make_cache(settings: CacheSettings, app_id: str, **changes: Any) -> CacheService:
    """A CacheService that is not started; it holds no data folder unless ``changes`` give one."""
    options = {"env": "TEST", "partitions": 16, "data_dir": Path("/nonexistent")} | changes
    return CacheService(settings, app_id=app_id, **options)


@asynccontextmanager
async def running_cache(
    settings: CacheSettings, app_id: str, **changes: Any
) -> AsyncIterator[CacheService]:
    """:func:`make_cache`, started and stopped."""
    service = make_cache(settings, app_id, **changes)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def _running_server(name: str, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(find_server(name), *options)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _backend(request: pytest.FixtureRequest) -> CacheBackend:
    name: str = request.param
    if name == "cluster":
        return CacheBackend(
            name, request.getfixturevalue("redis_cluster").settings(timeout_s=PATIENCE_S), None
        )
    server: RedisServer = request.getfixturevalue(f"{name}_server")
    return CacheBackend(name, server.settings(), server)
