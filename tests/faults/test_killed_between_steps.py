"""A server is killed between any two of its steps: before its k-th command to Redis or MySQL, and
before the answer.

The proxies hold the command or its answer, so the product has no hook for it. The request that was
under way is repeated on the other server with the same ids; the persistence batch is taken up
there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from tests.faults.faults import OF_REQUESTS, consumer_killed_between_steps
from tests.faults.harness import play_during
from tests.faults.shared_harness import SharedHarness
from tests.load_clients import Player

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.parametrize("is_known", [False, True], ids=["session unknown", "session known"])
async def test_a_send_a_create_and_a_delete_killed_after_every_command(
    harness: SharedHarness, load_clients: list[Player], is_known: bool
) -> None:
    """A server that has found the session before asks for it in the script itself; else the first
    command reads it."""
    steps = {"send": 0, "create": 0, "delete": 0}
    for player, what in zip(load_clients, ("send", "create", "delete"), strict=True):
        await player.act(player.creating())
        (room_id,) = player.rooms
        while True:
            player.pin(harness.servers[0 if is_known else 1].process.base_url)
            await player.act(player.sending(room_id))
            deed = {
                "send": lambda p=player, r=room_id: p.sending(r),
                "create": lambda p=player: p.creating(),
                "delete": lambda p=player, r=room_id: p.deleting_message(r),
            }[what]()
            if not await _killed_during(harness, steps[what] + 1, player, deed):
                break
            steps[what] += 1
    first = 0 if is_known else 1
    assert steps["send"] >= first + 2
    assert steps["create"] >= first + 1
    assert steps["delete"] >= first + 1


async def _killed_during(
    harness: SharedHarness, k: int, player: Player, deed: Callable[[], Awaitable[None]]
) -> bool:
    """Kill the first server when Redis has executed the k-th command of ``deed`` and its answer is
    on the way; the other server is asked again, at once, with the same ids. (Before a command is
    after the one before it.)

    False: it has fewer commands."""
    victim = harness.servers[0]
    trap = victim.redis.trap("hold answer", lambda command: command.name in OF_REQUESTS, at=k)
    player.pin(victim.process.base_url)
    doing = asyncio.create_task(player.act(deed))
    reached = asyncio.create_task(trap.reached.wait())
    await asyncio.wait({doing, reached}, return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()
    if hit := trap.reached.is_set():
        await victim.kill()
    player.pin(None)
    victim.redis.drop_all()
    await asyncio.gather(doing, harness.start_all())
    return hit


@pytest.mark.parametrize("step", ["fp_chat_message_batch_save", "acknowledge_events"])
async def test_a_consumer_killed_after_a_step_leaves_its_batch_to_the_other(
    harness: SharedHarness, load_clients: list[Player], step: str
) -> None:
    deed = partial(
        consumer_killed_between_steps, harness, random.Random(step), step=step, action="hold answer"
    )
    await play_during(load_clients, deed, harness.findings)
