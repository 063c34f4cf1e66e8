"""A stored question is asked, once, whatever happens to Redis or to the server that took it: seen
at the provider.

Each test ends with everything checked (``load_clients``): no stored question that the provider
never saw, none that it served twice, no reply cut short without a reason, every room usable.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.harness import FaultServer
from tests.faults.provider import full_reply
from tests.faults.questions import Question, question, questions_in_new_rooms
from tests.faults.shared_harness import SharedHarness
from tests.load_clients import Player
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="package")
ROOMS = 8
REPEATED = pytest.mark.parametrize("is_repeated", [True, False], ids=["repeated", "not repeated"])


@REPEATED
async def test_redis_paused_beyond_time_out_asks_each_question(
    harness: SharedHarness, load_clients: list[Player], is_repeated: bool
) -> None:
    """cases/faults.md U1: Redis executes the sends after their server has given them up."""
    player = load_clients[0]
    questions = await questions_in_new_rooms(harness, player, ROOMS)
    harness.pause_redis()
    try:
        await asyncio.gather(*(each.try_once() for each in questions))
    finally:
        harness.resume_redis()
    player.give_up()
    assert not player.replies, "Redis did not stand still for long enough"
    if is_repeated:
        await asyncio.sleep(0.5)  # as the tutorial tells clients to
        await asyncio.gather(*(each.answered_whole() for each in questions))
        return
    harness.ask_redis("PING")
    for each in questions:
        if await each.is_stored(harness.servers[0]):
            await each.listed_whole(harness.servers[0])


@REPEATED
async def test_server_killed_with_sends_under_way_leaves_none_unasked(
    harness: SharedHarness, load_clients: list[Player], is_repeated: bool
) -> None:
    """cases/faults.md U1: Redis has taken the sends, and their server dies before it knows."""
    dying, other = harness.servers
    player = load_clients[0]
    player.pin(dying.process.base_url)
    questions = await questions_in_new_rooms(harness, player, ROOMS)
    dying.redis.mute = True
    sending = [asyncio.create_task(each.try_once()) for each in questions]

    async def stored() -> list[Question]:
        return [each for each in questions if await each.is_stored(other)]

    # How many are on their way at once is the server's own matter.
    await until(stored, 60, "Redis has taken a send")
    await dying.kill()
    await asyncio.gather(*sending)
    player.give_up()
    player.pin(other.process.base_url)
    dying.redis.heal()
    if is_repeated:
        await asyncio.gather(*(each.answered_whole() for each in questions))
    for each in await stored():
        await each.listed_whole(other)
    player.pin(None)
    dying.cut_off = 0  # nothing is excused: its process never knew that they were stored


async def test_flushed_redis_ends_replies_whose_questions_are_stored(
    harness: SharedHarness, load_clients: list[Player]
) -> None:
    """cases/faults.md U5: repeated, read, and with a new question behind it; the checker looks for
    every reply."""
    player = load_clients[0]
    repeated, read, followed = questions = await questions_in_new_rooms(harness, player, 3)
    with harness.provider.pausing(1.0):
        sending = [asyncio.create_task(each.try_once()) for each in questions]
        for each in questions:
            await until(lambda each=each: harness.provider.asked[each.text], 30)  # type: ignore[misc]
            await each.persisted()
        harness.ask_redis("FLUSHALL")
        await asyncio.gather(*sending)
    player.give_up()
    await player.sign_in()
    ended = await repeated.answered()
    assert ended["metadata"]["finish_reason"] in ("interrupted", "stop"), ended
    assert ended["parent_message_id"] == player.rooms[repeated.room_id].ids[repeated.text]
    await read.stored(harness.servers[0])
    await until(lambda: read.has_ended(harness.servers[0]), 60, "the reply has an end")
    await question(harness, player, followed.room_id).answered_whole()


async def test_full_redis_drains_its_backlog_and_ends_replies(
    harness: SharedHarness, load_clients: list[Player]
) -> None:
    """cases/faults.md U2, cases/abuse.md A5b: the way from Redis to MySQL needs no memory."""
    player, other, _ = load_clients
    running = await questions_in_new_rooms(harness, player, 3)
    waiting = await questions_in_new_rooms(harness, other, 4)
    await harness.settled()
    harness.mariadb.pause()
    try:
        await asyncio.gather(*(each.answered_whole() for each in waiting))
        with harness.provider.pausing(1.0):
            sending = [asyncio.create_task(each.send()) for each in running]
            for each in running:
                await until(lambda each=each: harness.provider.asked[each.text], 30)  # type: ignore[misc]
            harness.ask_redis("CONFIG", "SET", "maxmemory", "1")
            assert harness.waiting_events() >= 2 * len(waiting)
            harness.mariadb.resume()
            await asyncio.gather(*sending)
        for each in running:
            assert player.replies[each.text]["content"] == full_reply(each.text)
        await until(
            lambda: harness.waiting_events() == 0, 60, "the backlog drains while Redis is full"
        )
        await until(lambda: harness.open_turns() == 0, 60, "the replies end while Redis is full")
        for server in harness.servers:
            async with harness.http.get(f"{server.process.base_url}/readyz") as ready:
                assert ready.status == 200, await ready.text()
            assert await running[0].is_answered_whole(server)
    finally:
        harness.mariadb.resume()
        harness.ask_redis("CONFIG", "SET", "maxmemory", "0")


async def test_start_after_a_flush_interrupts_no_reply(
    harness: SharedHarness, load_clients: list[Player]
) -> None:
    """cases/faults.md U6: a process that starts beside another one ends only what Redis lost."""
    starting, serving = harness.servers
    player = load_clients[0]
    await starting.kill()
    harness.ask_redis("FLUSHALL")
    await player.sign_in()
    player.pin(serving.process.base_url)
    first = await questions_in_new_rooms(harness, player, 4)
    stop = asyncio.Event()
    with harness.provider.pausing(0.3):
        asking = [asyncio.create_task(_keep_asking(each, stop)) for each in first]
        asking += [asyncio.create_task(_keep_reading(each, serving, stop)) for each in first]
        await until(lambda: all(harness.provider.asked[each.text] for each in first), 60)
        await starting.start()
        asked = len(harness.provider.asked)
        await until(lambda: len(harness.provider.asked) > asked + len(first), 60)
        stop.set()
        await asyncio.gather(*asking)
    player.pin(None)


async def _keep_asking(asked: Question, stop: asyncio.Event) -> None:
    """One question after the other in its room, each answered whole."""
    while True:
        await asked.answered_whole()
        if stop.is_set():
            return
        asked = question(asked.harness, asked.player, asked.room_id)


async def _keep_reading(asked: Question, server: FaultServer, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await asked.messages(server)
        await asyncio.sleep(0.1)
