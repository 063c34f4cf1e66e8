"""The embedded default restarts: what waited for its turn is asked afterwards."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.checker import check_everything
from tests.faults.embedded_harness import EmbeddedHarness, embedded_harness
from tests.faults.harness import FaultServer
from tests.faults.questions import question, questions_in_new_rooms
from tests.waiting import until

ROOMS = 4


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedHarness]:
    with tempfile.TemporaryDirectory(prefix="f-") as folder:
        async with embedded_harness(
            Path(folder), NETCONFIG__QUIET_S=0, NETCONFIG__DRAIN_TIMEOUT_S=1
        ) as harness:
            yield harness


async def stop(harness: EmbeddedHarness, server: FaultServer, how: str) -> None:
    if how == "SIGTERM":
        server.up = False
        await asyncio.to_thread(server.process.stop)
        return
    await server.kill()
    if how == "SIGKILL of both":
        harness.deployed.kill_cache()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "SIGKILL of both"])
async def test_waiting_questions_are_answered_after_a_restart(
    embedded: EmbeddedHarness, how: str
) -> None:
    """cases/faults.md U6: half of them are repeated, the others are not."""
    harness = embedded
    (server,) = harness.servers
    player = harness.player(1)
    await player.sign_in()
    running = await questions_in_new_rooms(harness, player, ROOMS)
    waiting = [question(harness, player, each.room_id) for each in running]
    with harness.provider.pausing(2.0):
        sending = [asyncio.create_task(each.try_once()) for each in running]
        await until(lambda: all(harness.provider.asked[each.text] for each in running), 60)
        sending += [asyncio.create_task(each.try_once()) for each in waiting]
        for each in waiting:
            await each.stored(server)
        await stop(harness, server, how)
        await asyncio.gather(*sending)
    player.give_up()
    assert not any(harness.provider.asked[each.text] for each in waiting), "none of them waited"
    await server.start()
    await asyncio.gather(*(each.answered_whole() for each in waiting[: ROOMS // 2]))
    for each in waiting:
        await each.listed_whole(server)
    server.cut_off = 0
    await check_everything(harness, [player])
    harness.findings.raise_if_any()
