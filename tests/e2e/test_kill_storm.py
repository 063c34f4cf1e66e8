"""SIGKILL in the middle of everything: what was acknowledged is there, once, in order; deleted stays deleted.

The players and what must be true of their chat stand in ``tests/players.py``; more kinds of faults in ``tests/faults``.
"""

from __future__ import annotations

import asyncio
import random
import time

import aiohttp
import pytest

from tests.e2e.conftest import Deployment
from tests.players import Findings, Player
from tests.waiting import PATIENCE_S, until

PLAYERS = 4
ROUNDS = 3


@pytest.mark.parametrize("killed", ["server", "server and cache"])
async def test_nothing_acknowledged_is_lost_doubled_or_revived(deployment: Deployment, killed: str) -> None:
    seed = time.time_ns() % 1_000_000
    findings = Findings()
    deployment.server.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as http:
        players = [
            Player(http, lambda: deployment.server.base_url, number=n, seed=seed + n, findings=findings)
            for n in range(PLAYERS)
        ]
        await asyncio.gather(*(player.sign_in() for player in players))
        chance = random.Random(seed)
        try:
            for _ in range(ROUNDS):
                await _round(deployment, players, chance, both=killed == "server and cache")
                findings.raise_if_any()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


async def _round(deployment: Deployment, players: list[Player], chance: random.Random, *, both: bool) -> None:
    """Play, kill in the middle, start again, check everything."""
    stop = asyncio.Event()
    before = [player.acknowledged for player in players]
    playing = [asyncio.create_task(player.play(stop)) for player in players]
    await until(lambda: all(player.acknowledged > count for player, count in zip(players, before, strict=True)))
    await asyncio.sleep(chance.uniform(0.5, 2.5))
    kills = [deployment.server.kill, deployment.kill_cache] if both else [deployment.server.kill]
    for kill in chance.sample(kills, len(kills)):
        kill()
    stop.set()
    await asyncio.gather(*playing)
    if both:
        deployment.start_cache()
    deployment.server.start()
    await asyncio.gather(*(player.check() for player in players))
