"""One world for the tests of a module, on a Redis and a MariaDB of its own; each test ends with everything checked."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.backends_mariadb import PreparedMariaDb
from tests.faults.checker import check_everything
from tests.faults.shared_world import SharedWorld, shared_world
from tests.players import Player


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def running_world(prepared_mariadb: PreparedMariaDb) -> AsyncIterator[SharedWorld]:
    with (
        tempfile.TemporaryDirectory(prefix="f-") as folder,
        prepared_mariadb.running_copy() as backend,
    ):
        async with shared_world(backend, Path(folder), "faults") as world:
            yield world


@pytest_asyncio.fixture(loop_scope="package")
async def world(running_world: SharedWorld) -> AsyncIterator[SharedWorld]:
    """Two servers that are up, with nothing broken; afterwards they are again."""
    yield running_world
    running_world.heal_proxies()
    running_world.provider.misbehave = 0.0
    await running_world.start_all()


@pytest_asyncio.fixture(loop_scope="package")
async def players(world: SharedWorld) -> AsyncIterator[list[Player]]:
    """Three players with new accounts; when the test is over, all that they did is checked everywhere."""
    world.findings.clear()
    world.guests.clear()
    those = [world.player(seed, number=seed) for seed in range(3)]
    await asyncio.gather(*(player.sign_in() for player in those))
    yield those
    world.heal_proxies()
    await world.start_all()
    await check_everything(world, those)
    try:
        world.findings.raise_if_any()
    except AssertionError as error:
        for server in world.servers:
            error.add_note(server.process.log[-6000:])
        raise
    assert sum(player.acknowledged for player in those) > 3, "nobody did anything"
