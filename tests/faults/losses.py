"""Faults that lose something: a store comes back older, or empty, and the players' books say what may be gone.

Each is played in two parts: what is acknowledged before the store changes, of which a known span may be lost, and what
is acknowledged afterwards, of which nothing may be.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

from tests.faults.faults import BULK, FAULTS
from tests.faults.shared_world import SharedWorld
from tests.faults.world import play_during
from tests.players import Known, Player

Loss = Callable[[SharedWorld, list[Player], random.Random], Awaitable[float]]
_IN_REDIS = 5
"""So many of a room's last questions are certainly in its window of 20 messages."""
_PAUSED_S = 2.0
"""A batch is held for at most so long after Redis changed."""


async def redis_restarted_empty(
    world: SharedWorld, players: list[Player], chance: random.Random
) -> float:
    await _play(world, players, chance.uniform(0.5, 2))
    await world.settled()
    await world.replace_redis()
    return await _play(world, players)


async def redis_restarted_old(
    world: SharedWorld, players: list[Player], chance: random.Random
) -> float:
    old = world.redis_files()
    await _play(world, players, chance.uniform(0.5, 2))
    await world.settled()
    await world.replace_redis(old)
    return await _play(world, players)


async def redis_empty_while_a_batch_is_held(
    world: SharedWorld, players: list[Player], chance: random.Random
) -> float:
    return await _while_a_batch_is_held(world, players, chance, is_empty=True)


async def redis_old_while_a_batch_is_held(
    world: SharedWorld, players: list[Player], chance: random.Random
) -> float:
    return await _while_a_batch_is_held(world, players, chance, is_empty=False)


async def _while_a_batch_is_held(
    world: SharedWorld, players: list[Player], chance: random.Random, *, is_empty: bool
) -> float:
    """What was acknowledged since Redis' copy may be lost, or comes with the batch; what comes later may not be."""
    await _play(world, players, chance.uniform(0.2, 1))
    await world.settled()
    before, old = _known(players), world.redis_files()
    for server in world.servers:
        for proxy in server.databases:
            for _ in range(50):
                proxy.trap("hold", lambda command: command.name in BULK)
    await _play(world, players, chance.uniform(0.5, 2), until_answered=False)
    if is_empty and chance.random() < 0.5:
        world.ask_redis("FLUSHALL")
    else:
        await world.replace_redis(None if is_empty else old)
    _forgive(players, before)

    async def release() -> None:
        await asyncio.sleep(chance.uniform(0.5, _PAUSED_S))
        world.heal_proxies()

    return await play_during(players, release, world.findings)


async def global_database_old(
    world: SharedWorld, players: list[Player], chance: random.Random
) -> float:
    """Accounts that it forgot are nobody's, and new ones see nothing of theirs."""
    await _global_database_old(world, players, chance, is_redis_gone=False)
    return await _play(world, players)


async def global_database_old_and_redis_gone(
    world: SharedWorld, players: list[Player], chance: random.Random
) -> float:
    await _global_database_old(world, players, chance, is_redis_gone=True)
    return await _play(world, players)


async def _global_database_old(
    world: SharedWorld, players: list[Player], chance: random.Random, *, is_redis_gone: bool
) -> None:
    await _play(world, players, chance.uniform(0.2, 1))
    await world.settled()
    restore = world.copy_database(world.settings.database)
    forgotten = [world.player(chance.getrandbits(32), number=90 + n) for n in range(2)]
    await asyncio.gather(*(player.sign_in() for player in forgotten))
    await _play(world, [*players, *forgotten], chance.uniform(0.5, 2))
    await world.settled()
    restore()
    if is_redis_gone:
        await world.replace_redis()
    strangers = [world.player(chance.getrandbits(32), number=95 + n) for n in range(3)]
    await asyncio.gather(*(player.sign_in() for player in strangers))
    await _play(world, [*players, *strangers], chance.uniform(0.5, 1))
    await world.settled()
    world.guests += strangers
    for player in forgotten:
        answer = await player.client.post("/api/chat/rooms")
        world.findings.expect(
            answer["errorCode"] == 10000, "foreign", f"{player.name} is forgotten, yet: {answer}"
        )


async def shard_old(world: SharedWorld, players: list[Player], chance: random.Random) -> float:
    """Redis is alive: what it has is written again."""
    before = await _shard_old(world, players, chance)
    _forgive(players, before, keep=_IN_REDIS)
    return await _play(world, players)


async def shard_old_and_redis_gone(
    world: SharedWorld, players: list[Player], chance: random.Random
) -> float:
    before = await _shard_old(world, players, chance)
    _forgive(players, before)
    await world.replace_redis()
    return await _play(world, players)


async def _shard_old(
    world: SharedWorld, players: list[Player], chance: random.Random
) -> dict[Player, Known]:
    await _play(world, players, chance.uniform(0.2, 1))
    await world.settled()
    before = _known(players)
    restores = [world.copy_database(shard.database) for shard in world.settings.shards]
    await _play(world, players, chance.uniform(0.5, 2))
    await world.settled()
    for restore in restores:
        restore()
    for player in players:
        for record in player.rooms.values():
            record.has_gaps = True
    return before


LOSSES: dict[str, Loss] = {
    loss.__name__.replace("_", " "): loss
    for loss in (
        redis_restarted_empty, redis_restarted_old, redis_empty_while_a_batch_is_held,
        redis_old_while_a_batch_is_held, global_database_old, global_database_old_and_redis_gone,
        shard_old, shard_old_and_redis_gone,
    )
}  # fmt: skip


SHARED_FAULTS = (*FAULTS, *LOSSES)


async def run_fault(
    name: str, world: SharedWorld, players: list[Player], chance: random.Random
) -> float:
    """Inject a fault of ``SHARED_FAULTS``; returns the seconds from its end until all players had a success again."""
    if name in LOSSES:
        return await LOSSES[name](world, players, chance)
    return await play_during(players, partial(FAULTS[name], world, chance), world.findings)


async def _play(
    world: SharedWorld, players: list[Player], seconds: float = 0.0, *, until_answered: bool = True
) -> float:
    """For so long, and until everybody has had a success."""
    within_s = 60.0 if until_answered else None
    return await play_during(
        players, partial(asyncio.sleep, seconds), world.findings, within_s=within_s
    )


def _known(players: list[Player]) -> dict[Player, Known]:
    return {player: player.known() for player in players}


def _forgive(players: list[Player], before: dict[Player, Known], *, keep: int = 0) -> None:
    for player in players:
        player.forgive_since(before[player], keep=keep)
