"""Fixtures for all tests: private servers of every backend, on free ports, in temporary folders."""

from __future__ import annotations

import uuid

import pytest

pytest_plugins = ["tests.backends_redis", "tests.backends_mariadb"]


@pytest.fixture
def app_id() -> str:
    """A key prefix of this test's own, so that tests may share a server."""
    return f"t{uuid.uuid4().hex[:12]}"
