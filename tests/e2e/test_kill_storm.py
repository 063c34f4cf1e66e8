"""SIGKILL in the middle of everything: what was acknowledged is there, once, in order; deleted
stays deleted.

Every stored question was asked at the provider, once. The players stand in ``tests/players.py``,
what must be true in ``tests/faults/checker.py``; more kinds of faults in ``tests/faults``.
"""

from __future__ import annotations

import asyncio
import random
import time

import aiohttp
import pytest

from tests.backends_redis import free_port
from tests.e2e.conftest import Deployment
from tests.faults.checker import check_everything
from tests.faults.embedded_harness import DeployedHarness
from tests.faults.harness import FaultServer
from tests.faults.provider import CountingProvider
from tests.load_clients import Player
from tests.waiting import PATIENCE_S, until

PLAYERS = 4
ROUNDS = 1
"""`make chaos` has hours of them."""


@pytest.fixture
def provider() -> CountingProvider:
    """Not started."""
    return CountingProvider(free_port())


@pytest.fixture
def configuration(provider: CountingProvider) -> dict[str, str]:
    values = {"BASE_URL": f"http://127.0.0.1:{provider.port}/v1", "API_KEY": "of-the-test"}
    return {
        f"BASE_SERVER__LLMCONFIG__PROVIDERS__OPENAI__{name}": value
        for name, value in values.items()
    }


@pytest.mark.parametrize("killed", ["server", "server and cache"])
async def test_nothing_acknowledged_is_lost_doubled_or_revived(
    deployment: Deployment, provider: CountingProvider, killed: str
) -> None:
    seed = time.time_ns() % 1_000_000
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with provider, aiohttp.ClientSession(timeout=timeout) as http:
        harness = DeployedHarness(provider, [FaultServer(deployment.server)], http, deployment)
        await harness.start_all()
        load_clients = [harness.player(seed + n, number=n) for n in range(PLAYERS)]
        await asyncio.gather(*(player.sign_in() for player in load_clients))
        chance = random.Random(seed)
        try:
            for _ in range(ROUNDS):
                await _round(harness, load_clients, chance, both=killed == "server and cache")
                harness.findings.raise_if_any()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


async def _round(
    harness: DeployedHarness, load_clients: list[Player], chance: random.Random, *, both: bool
) -> None:
    """Play, kill in the middle, start again, check everything."""
    (server,) = harness.servers
    stop = asyncio.Event()
    before = [player.acknowledged for player in load_clients]
    playing = [asyncio.create_task(player.play(stop)) for player in load_clients]
    await until(
        lambda: all(
            player.acknowledged > count for player, count in zip(load_clients, before, strict=True)
        )
    )
    await asyncio.sleep(chance.uniform(0.5, 2.5))
    cache_first = both and chance.random() < 0.5
    if cache_first:
        harness.deployed.kill_cache()
    await server.kill()
    if both and not cache_first:
        harness.deployed.kill_cache()
    stop.set()
    await asyncio.gather(*playing)
    if both:
        harness.deployed.start_cache()
    await server.start()
    await check_everything(harness, load_clients)
