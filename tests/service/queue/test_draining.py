"""drain_stream: for consumers that batch and acknowledge by themselves."""

from __future__ import annotations

import asyncio

import pytest

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry, QueueMessage
from base_server.service.queue.queue_service import QueueService
from tests.service.queue.queue_harness import QueueHarness
from tests.waiting import PATIENCE_S, until


def declare(queue: QueueService) -> EventStream:
    queue.declare("rows", streams=["1"], route=lambda message: (2, "1"))
    return queue.stream("rows", 2, "1")


async def send(queue: QueueService, *numbers: int) -> None:
    for number in numbers:
        await queue.send_message(
            QueueMessage("rows", {"n": number}, "row", message_id=f"m{number}")
        )


class Sink:
    """A handler that keeps what it got and takes it away, like a consumer that writes to a
    database."""

    def __init__(self, queue: QueueService) -> None:
        self.queue = queue
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def rows(self) -> list[int]:
        return [number for batch in self.batches for number in batch]

    async def __call__(self, stream: EventStream, entries: list[QueueEntry]) -> object:
        self.batches.append([entry.payload["n"] for entry in entries])
        await self.gate.wait()
        await self.queue.remove(stream, [entry.entry_id for entry in entries])
        return None


async def test_a_stream_is_handed_out_in_order_in_batches_until_it_is_empty(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue()
    stream, sink = declare(queue), Sink(queue)
    await send(queue, *range(7))
    assert await queue.drain_stream(stream, sink, batch=3) == 7
    assert sink.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert await queue.drain_stream(stream, sink, batch=3) == 0


async def test_a_batch_is_bounded_by_bytes_too(harness: QueueHarness) -> None:
    queue = await harness.queue()
    stream, sink = declare(queue), Sink(queue)
    for number in range(300):
        text = "x" * (90_000 if number == 280 else 1000)
        await queue.send_message(
            QueueMessage("rows", {"n": number, "text": text}, "row", message_id=f"m{number}")
        )
    await queue.drain_stream(stream, sink, batch=250, batch_bytes=100_000)
    # 64 entries are read at first, then as many as should fit; a batch has one entry at least.
    assert [len(batch) for batch in sink.batches[:2]] == [98, 98]
    assert sink.rows == list(range(300))
    await queue.send_message(
        QueueMessage("rows", {"n": 300, "text": "x" * 9000}, "row", message_id="m300")
    )
    await queue.drain_stream(stream, sink, batch=250, batch_bytes=1)
    assert sink.batches[-1] == [300]


async def test_messages_that_arrive_meanwhile_are_drained_too(harness: QueueHarness) -> None:
    queue = await harness.queue()
    stream, sink = declare(queue), Sink(queue)
    await send(queue, 1)

    async def handler(stream: EventStream, entries: list[QueueEntry]) -> None:
        if not sink.batches:
            await send(queue, 2)
        await sink(stream, entries)

    await queue.drain_stream(stream, handler, batch=1)
    assert sink.rows == [1, 2]


async def test_a_handler_that_takes_nothing_away_is_not_called_for_ever(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue()
    stream, calls = declare(queue), []
    await send(queue, 1, 2)

    async def handler(stream: EventStream, entries: list[QueueEntry]) -> None:
        calls.append(len(entries))

    assert await queue.drain_stream(stream, handler, batch=10) == 2
    assert calls == [2]
    assert await harness.waiting("rows") == 2


async def test_false_and_an_exception_end_the_drain_and_keep_the_entries(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue()
    stream, sink = declare(queue), Sink(queue)
    await send(queue, 1, 2)

    async def says_no(stream: EventStream, entries: list[QueueEntry]) -> bool:
        await queue.remove(stream, [entries[0].entry_id])
        return False

    async def breaks(stream: EventStream, entries: list[QueueEntry]) -> None:
        raise ServiceUnavailable("database", "away")

    assert await queue.drain_stream(stream, says_no, batch=1) == 1
    with pytest.raises(ServiceUnavailable, match="database"):
        await queue.drain_stream(stream, breaks, batch=1)
    assert (
        await queue.drain_stream(stream, sink, batch=1) == 1
    )  # and the lock was given back both times
    assert sink.rows == [2]


async def test_a_second_process_finds_the_lock_taken(harness: QueueHarness) -> None:
    first, second = await harness.queue(), await harness.queue()
    stream, sink, other = declare(first), Sink(first), Sink(second)
    declare(second)
    await send(first, 1)
    sink.gate.clear()
    draining = asyncio.create_task(first.drain_stream(stream, sink, batch=1))
    await until(lambda: sink.rows == [1])
    assert await second.drain_stream(stream, other, batch=1) == 0
    waiting = asyncio.create_task(
        second.drain_stream(stream, other, batch=1, lock_timeout_s=PATIENCE_S)
    )
    sink.gate.set()
    assert await draining == 1
    assert await waiting == 0
    assert other.rows == []


async def test_the_lock_is_kept_while_a_batch_takes_longer_than_its_ttl(
    harness: QueueHarness,
) -> None:
    first, second = await harness.queue(), await harness.queue()
    stream, sink, other = declare(first), Sink(first), Sink(second)
    declare(second)
    await send(first, 1)
    sink.gate.clear()
    draining = asyncio.create_task(first.drain_stream(stream, sink, batch=1, lock_ttl_s=1.5))
    await until(lambda: sink.rows == [1])
    assert await second.drain_stream(stream, other, batch=1, lock_timeout_s=2) == 0
    sink.gate.set()
    assert await draining == 1
    assert other.rows == []


async def test_a_lost_lock_ends_the_drain_after_the_batch_and_nothing_is_lost(
    harness: QueueHarness,
) -> None:
    first, second = await harness.queue(), await harness.queue()
    stream, sink, other = declare(first), Sink(first), Sink(second)
    declare(second)
    await send(first, 1, 2)
    sink.gate.clear()
    draining = asyncio.create_task(first.drain_stream(stream, sink, batch=1, lock_ttl_s=0.15))
    await until(lambda: sink.rows == [1])
    client = harness.cache.get_client()
    await client.execute(
        "DEL", client.key(stream.lock_key, partition=stream.partition)
    )  # as after a long pause
    other.gate.clear()
    taking_over = asyncio.create_task(second.drain_stream(stream, other, batch=2))
    await until(
        lambda: other.rows == [1, 2]
    )  # the first one's batch is handed out twice: at least once
    await until(lambda: len(harness.tasks[0]) == 0, what="its renewer notices the loss")
    sink.gate.set()
    assert await draining == 1
    other.gate.set()
    assert await taking_over == 2
    assert await harness.waiting("rows") == 0


async def test_a_cancelled_drain_gives_its_lock_back(harness: QueueHarness) -> None:
    first, second = await harness.queue(), await harness.queue()
    stream, sink, other = declare(first), Sink(first), Sink(second)
    declare(second)
    await send(first, 1)
    sink.gate.clear()
    draining = asyncio.create_task(first.drain_stream(stream, sink, batch=1, lock_ttl_s=60))
    await until(lambda: sink.rows == [1])
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert await second.drain_stream(stream, other, batch=1) == 1
    assert other.rows == [1]


async def test_drains_cancelled_at_any_moment_leave_no_lock_behind(harness: QueueHarness) -> None:
    queue = await harness.queue()
    stream, sink = declare(queue), Sink(queue)
    for turns in range(40):
        draining = asyncio.create_task(queue.drain_stream(stream, sink, batch=1, lock_ttl_s=60))
        for _ in range(turns):
            await asyncio.sleep(0)
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
    await send(queue, 1)
    assert await queue.drain_stream(stream, sink, batch=1, lock_timeout_s=PATIENCE_S) == 1


async def test_dead_letters_keep_everything_and_can_be_replayed_or_dropped(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue()
    stream, sink = declare(queue), Sink(queue)
    await send(queue, 1, 2, 3)
    entries = await queue.store.head(stream, 10)
    assert (
        await queue.dead_letter(
            stream, [(entries[0].entry_id, "이유 one"), (entries[1].entry_id, "two")]
        )
        == 2
    )
    assert await queue.dead_letter(stream, [(entries[0].entry_id, "again")]) == 0
    assert await queue.drain_stream(stream, sink, batch=10) == 1
    first, second = await queue.dead_letters("rows")
    assert (first.stream, first.entry_id, first.reason) == (stream, entries[0].entry_id, "이유 one")
    assert first.fields == entries[0].fields
    assert first.failed_at_ms >= int(entries[0].fields["at"])
    assert await queue.replay_dead_letter(stream, first.dead_id)
    assert not await queue.replay_dead_letter(stream, first.dead_id)
    assert await queue.drop_dead_letter(stream, second.dead_id)
    assert not await queue.drop_dead_letter(stream, second.dead_id)
    assert await queue.dead_letters("rows") == []
    (back,) = await queue.store.head(stream, 10)
    assert back.fields == entries[0].fields
    assert await queue.drain_stream(stream, sink, batch=10) == 1
    assert sink.rows == [3, 1]


async def test_a_group_is_held_up_until_its_last_dead_letter_is_gone(harness: QueueHarness) -> None:
    queue = await harness.queue()
    stream = declare(queue)
    await send(queue, 1, 2, 3)
    ids = [entry.entry_id for entry in await queue.store.head(stream, 10)]
    groups = {ids[0]: "a", ids[1]: "a"}
    for _ in range(2):  # said twice, counted once
        await queue.dead_letter(stream, [(entry_id, "no") for entry_id in ids], groups)
    assert await queue.blocked(stream, ["a", "b", ""]) == {"a"}
    first, second, third = await queue.dead_letters("rows")
    assert (first.group, third.group) == ("a", "")
    await queue.replay_dead_letter(stream, first.dead_id)
    assert await queue.blocked(stream, ["a"]) == {"a"}
    await queue.drop_dead_letter(stream, second.dead_id)
    assert await queue.blocked(stream, ["a"]) == set()
    await queue.drop_dead_letter(stream, third.dead_id)
    assert await harness.cache.get_client().execute("EXISTS", stream.blocked_key) == 0


async def test_a_stream_in_somebodys_hands_is_not_drained(harness: QueueHarness) -> None:
    queue, other = await harness.queue(), await harness.queue()
    stream, sink = declare(queue), Sink(other)
    declare(other)
    await send(queue, 1)
    async with queue.acquired(stream, 1):
        assert await other.drain_stream(stream, sink, batch=1) == 0
        with pytest.raises(ServiceUnavailable, match="at work"):
            async with other.acquired(stream, 0.01):
                pass
    assert await other.drain_stream(stream, sink, batch=1) == 1


async def test_dead_letters_are_bounded_and_the_rest_stays_in_the_stream(
    harness: QueueHarness,
) -> None:
    """Dead letters are bounded and what does not fit stays in the stream."""
    queue = await harness.queue(dead_letter_limit=1)
    stream = declare(queue)
    await send(queue, 1, 2)
    first, second = await queue.store.head(stream, 10)
    with pytest.raises(ServiceUnavailable, match="limit of 1 dead letters"):
        await queue.dead_letter(stream, [(first.entry_id, "a"), (second.entry_id, "b")])
    assert await harness.waiting("rows") == 2
    assert await queue.dead_letter(stream, [(first.entry_id, "a")]) == 1


async def test_a_drain_costs_one_round_trip_a_batch_beside_the_handlers(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue()
    stream, sink = declare(queue), Sink(queue)
    await send(queue, 0)
    await queue.drain_stream(stream, sink, batch=10)
    await send(queue, *range(1, 31))
    reads, locks = (
        harness.cache.get_bulk_client().round_trips,
        harness.cache.get_client().round_trips,
    )
    await queue.drain_stream(stream, sink, batch=10)
    assert (
        harness.cache.get_bulk_client().round_trips - reads == 7
    )  # four reads, the last one empty; three removals
    assert harness.cache.get_client().round_trips - locks == 2
