"""Faults that lose something: a store comes back older, or empty, and the players' books say what
may be gone.

Each is played in two parts: what is acknowledged before the store changes, of which a known span
may be lost, and what is acknowledged afterwards, of which nothing may be.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

from tests.faults.faults import BULK, FAULTS
from tests.faults.harness import play_during
from tests.faults.shared_harness import SharedHarness
from tests.load_clients import Known, Player

Loss = Callable[[SharedHarness, list[Player], random.Random], Awaitable[float]]
_IN_REDIS = 5
"""So many of a room's last questions are certainly in its window of 20 messages."""
_PAUSED_S = 2.0
"""A batch is held for at most so long after Redis changed."""


async def redis_restarted_empty(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    await _play(harness, load_clients, chance.uniform(0.5, 2))
    await harness.settled()
    await harness.replace_redis()
    return await _play(harness, load_clients)


async def redis_restarted_old(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    old = harness.redis_files()
    await _play(harness, load_clients, chance.uniform(0.5, 2))
    await harness.settled()
    await harness.replace_redis(old)
    return await _play(harness, load_clients)


async def redis_empty_while_a_batch_is_held(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    return await _while_a_batch_is_held(harness, load_clients, chance, is_empty=True)


async def redis_old_while_a_batch_is_held(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    return await _while_a_batch_is_held(harness, load_clients, chance, is_empty=False)


async def _while_a_batch_is_held(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random, *, is_empty: bool
) -> float:
    """What was acknowledged since Redis' copy may be lost, or comes with the batch; what comes
    later may not be."""
    await _play(harness, load_clients, chance.uniform(0.2, 1))
    await harness.settled()
    before, old = _known(load_clients), harness.redis_files()
    for server in harness.servers:
        for proxy in server.databases:
            for _ in range(50):
                proxy.trap("hold", lambda command: command.name in BULK)
    await _play(harness, load_clients, chance.uniform(0.5, 2), until_answered=False)
    if is_empty and chance.random() < 0.5:
        harness.ask_redis("FLUSHALL")
    else:
        await harness.replace_redis(None if is_empty else old)
    _forgive(load_clients, before)

    async def release() -> None:
        await asyncio.sleep(chance.uniform(0.5, _PAUSED_S))
        harness.heal_proxies()

    return await play_during(load_clients, release, harness.findings)


async def global_database_old(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    """Accounts that it forgot are nobody's, and new ones see nothing of theirs."""
    await _global_database_old(harness, load_clients, chance, is_redis_gone=False)
    return await _play(harness, load_clients)


async def global_database_old_and_redis_gone(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    await _global_database_old(harness, load_clients, chance, is_redis_gone=True)
    return await _play(harness, load_clients)


async def _global_database_old(
    harness: SharedHarness,
    load_clients: list[Player],
    chance: random.Random,
    *,
    is_redis_gone: bool,
) -> None:
    await _play(harness, load_clients, chance.uniform(0.2, 1))
    await harness.settled()
    restore = harness.copy_database(harness.settings.database)
    forgotten = [harness.player(chance.getrandbits(32), number=90 + n) for n in range(2)]
    await asyncio.gather(*(player.sign_in() for player in forgotten))
    await _play(harness, [*load_clients, *forgotten], chance.uniform(0.5, 2))
    await harness.settled()
    restore()
    if is_redis_gone:
        await harness.replace_redis()
    strangers = [harness.player(chance.getrandbits(32), number=95 + n) for n in range(3)]
    await asyncio.gather(*(player.sign_in() for player in strangers))
    await _play(harness, [*load_clients, *strangers], chance.uniform(0.5, 1))
    await harness.settled()
    harness.guests += strangers
    for player in forgotten:
        answer = await player.client.post("/api/chat/rooms")
        harness.findings.expect(
            answer["errorCode"] == 10000, "foreign", f"{player.name} is forgotten, yet: {answer}"
        )


async def shard_old(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    """Redis is alive: what it has is written again."""
    before = await _shard_old(harness, load_clients, chance)
    _forgive(load_clients, before, keep=_IN_REDIS)
    return await _play(harness, load_clients)


async def shard_old_and_redis_gone(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    before = await _shard_old(harness, load_clients, chance)
    _forgive(load_clients, before)
    await harness.replace_redis()
    return await _play(harness, load_clients)


async def _shard_old(
    harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> dict[Player, Known]:
    await _play(harness, load_clients, chance.uniform(0.2, 1))
    await harness.settled()
    before = _known(load_clients)
    restores = [harness.copy_database(shard.database) for shard in harness.settings.shards]
    await _play(harness, load_clients, chance.uniform(0.5, 2))
    await harness.settled()
    for restore in restores:
        restore()
    for player in load_clients:
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
    name: str, harness: SharedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    """Inject a fault of ``SHARED_FAULTS``; returns the seconds from its end until all players had a
    success again."""
    if name in LOSSES:
        return await LOSSES[name](harness, load_clients, chance)
    return await play_during(load_clients, partial(FAULTS[name], harness, chance), harness.findings)


async def _play(
    harness: SharedHarness,
    load_clients: list[Player],
    seconds: float = 0.0,
    *,
    until_answered: bool = True,
) -> float:
    """For so long, and until everybody has had a success."""
    within_s = 60.0 if until_answered else None
    return await play_during(
        load_clients, partial(asyncio.sleep, seconds), harness.findings, within_s=within_s
    )


def _known(load_clients: list[Player]) -> dict[Player, Known]:
    return {player: player.known() for player in load_clients}


def _forgive(load_clients: list[Player], before: dict[Player, Known], *, keep: int = 0) -> None:
    for player in load_clients:
        player.forgive_since(before[player], keep=keep)
