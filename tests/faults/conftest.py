"""One harness for the tests of a module, on a Redis and a MariaDB of its own; each test is checked
at its end."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.backends_mariadb import PreparedMariaDb
from tests.faults.checker import check_everything
from tests.faults.shared_harness import SharedHarness, shared_harness
from tests.load_clients import Player


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def running_harness(prepared_mariadb: PreparedMariaDb) -> AsyncIterator[SharedHarness]:
    with (
        tempfile.TemporaryDirectory(prefix="f-") as folder,
        prepared_mariadb.running_copy() as backend,
    ):
        async with shared_harness(backend, Path(folder), "faults") as harness:
            yield harness


@pytest_asyncio.fixture(loop_scope="package")
async def harness(running_harness: SharedHarness) -> AsyncIterator[SharedHarness]:
    """Two servers that are up, with nothing broken; afterwards they are again."""
    yield running_harness
    running_harness.heal_proxies()
    running_harness.provider.misbehave = 0.0
    await running_harness.start_all()


@pytest_asyncio.fixture(loop_scope="package")
async def load_clients(harness: SharedHarness) -> AsyncIterator[list[Player]]:
    """Three players with new accounts; when the test is over, all that they did is checked
    everywhere."""
    harness.findings.clear()
    harness.guests.clear()
    those = [harness.player(seed, number=seed) for seed in range(3)]
    await asyncio.gather(*(player.sign_in() for player in those))
    yield those
    harness.heal_proxies()
    await harness.start_all()
    await check_everything(harness, those)
    try:
        harness.findings.raise_if_any()
    except AssertionError as error:
        for server in harness.servers:
            error.add_note(server.process.log[-6000:])
        raise
    assert sum(player.acknowledged for player in those) > 3, "nobody did anything"
