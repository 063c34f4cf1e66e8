"""Redis' clock is set back while a reply runs whose server has died: its room goes on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backends_mariadb import PreparedMariaDb
from tests.backends_redis import LOSES_NOTHING, RedisServer, find_server, missing_backend
from tests.faults.checker import check_everything
from tests.faults.questions import question, questions_in_new_rooms
from tests.faults.shared_harness import SharedHarness, shared_harness
from tests.waiting import until

HOUR_S = 3600


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The file whose text is added to the clock of the Redis of ``harness``, in seconds."""
    file = tmp_path / "clock"
    file.write_text("+0")
    return file


@pytest.fixture
async def harness(prepared_mariadb: PreparedMariaDb, clock: Path) -> AsyncIterator[SharedHarness]:
    environment = {
        "LD_PRELOAD": str(_library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    # The packages' redis-server does not start under the library: its allocator asks for the time
    # too early.
    redis_server = RedisServer(find_server("valkey"), *LOSES_NOTHING, environment=environment)
    with (
        tempfile.TemporaryDirectory(prefix="f-") as folder,
        prepared_mariadb.running_copy() as backend,
    ):
        async with shared_harness(
            backend, Path(folder), "clock", redis_server=redis_server
        ) as harness:
            yield harness


def _library() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        missing_backend("libfaketime is not installed (Debian: apt-get install libfaketime)")
    return found[0]


async def test_rooms_of_a_dead_server_go_on_though_the_clock_is_set_back(
    harness: SharedHarness, clock: Path
) -> None:
    """cases/faults.md U10: a lease that ends further ahead than a lease lasts counts as over."""
    dying, other = harness.servers
    player = harness.player(1)
    await player.sign_in()
    player.pin(dying.process.base_url)
    running = await questions_in_new_rooms(harness, player, 3)
    waiting = [question(harness, player, each.room_id) for each in running]
    with harness.provider.pausing(1.0):
        sending = [asyncio.create_task(each.try_once()) for each in running]
        await until(lambda: all(harness.provider.asked[each.text] for each in running), 60)
        sending += [asyncio.create_task(each.try_once()) for each in waiting]
        for each in waiting:
            await each.stored(other)
        await dying.kill()
        clock.write_text(str(-HOUR_S))
        await asyncio.gather(*sending)
    player.give_up()
    player.pin(other.process.base_url)
    for each in waiting:
        await each.listed_whole(other)
    await question(harness, player, running[0].room_id).answered_whole()
    player.pin(None)
    await dying.start()
    dying.cut_off = 0
    await check_everything(harness, [player])
    harness.findings.raise_if_any()
