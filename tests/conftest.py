"""Fixtures for all tests: private servers of every backend, on free ports, in temporary folders."""

from __future__ import annotations

import uuid
from functools import partialmethod

import aiohttp
import pytest

from tests.server_process import WORKERS

pytest_plugins = ["tests.backends_redis", "tests.backends_cluster", "tests.backends_mariadb"]


@pytest.fixture
def app_id() -> str:
    """A key prefix of this test's own, so that tests may share a server."""
    return f"t{uuid.uuid4().hex[:12]}"


if WORKERS > 1:  # each request on a connection of its own, and so to a worker of chance
    aiohttp.TCPConnector.__init__ = partialmethod(aiohttp.TCPConnector.__init__, force_close=True)  # type: ignore
