"""Registered consumers: acknowledged after the work, retried with a wait, given up with a
reason."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from base_server.service.core.errors import ServiceError, ServiceUnavailable
from base_server.service.queue.message_queue import MessagePriority, QueueMessage
from base_server.service.queue.queue_service import QueueService
from tests.service.queue.queue_harness import QueueHarness
from tests.waiting import PATIENCE_S, until


class Reader:
    """A handler that keeps what it was given; ``answer`` decides, message by message."""

    def __init__(self, answer: Callable[[QueueMessage], Awaitable[bool]] | None = None) -> None:
        self.calls: list[QueueMessage] = []
        self.done: list[object] = []
        self._answer = answer

    async def __call__(self, message: QueueMessage) -> bool:
        self.calls.append(message)
        if self._answer is not None and not await self._answer(message):
            return False
        self.done.append(message.payload["n"])
        return True


async def send(
    queue: QueueService, number: object, key: str | None = "k", priority: int = 2
) -> None:
    await queue.send_message("mail", {"n": number}, "letter", priority, key)


async def test_messages_of_one_key_arrive_in_order_and_are_gone_afterwards(
    harness: QueueHarness,
) -> None:
    queue, reader = await harness.queue(), Reader()
    for number in range(120):
        await send(queue, number)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: len(reader.done) == 120)
    assert reader.done == list(range(120))
    assert reader.calls[0].message_type == "letter"
    assert (reader.calls[0].partition_key, reader.calls[0].priority) == (
        "k",
        MessagePriority.NORMAL,
    )
    await until(lambda: _is_empty(harness))


async def test_a_consumer_registered_before_the_start_works_from_the_start_on(
    harness: QueueHarness,
) -> None:
    queue, reader = await harness.queue(), Reader()
    await queue.stop()
    await queue.register_message_consumer("mail", "a", reader)
    await send(queue, 1)
    assert reader.calls == []
    await queue.start()
    await until(lambda: reader.done == [1])


async def test_the_senders_own_process_is_woken_at_once(harness: QueueHarness) -> None:
    queue, reader = await harness.queue(poll_interval_s=3600), Reader()
    await queue.register_message_consumer("mail", "a", reader)
    for number in range(5):
        await send(queue, number)
        await until(lambda number=number: number in reader.done)


async def test_higher_priorities_are_read_first(harness: QueueHarness) -> None:
    queue, reader = await harness.queue(workers=1), Reader()
    for priority in (1, 2, 3, 4):
        for key in ("a", "b", "c"):
            await send(queue, priority, key, priority)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: len(reader.done) == 12)
    assert reader.done == [4] * 3 + [3] * 3 + [2] * 3 + [1] * 3


async def test_a_critical_message_overtakes_a_long_backlog(harness: QueueHarness) -> None:
    queue = await harness.queue(workers=1, batch=5)

    async def answer(message: QueueMessage) -> bool:
        if message.payload["n"] == 3:
            await send(queue, "critical", "k", MessagePriority.CRITICAL)
        return True

    reader = Reader(answer)
    for number in range(50):
        await send(queue, number)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: "critical" in reader.done)
    assert reader.done.index("critical") == 5


async def test_nothing_is_acknowledged_before_the_handler_is_done(harness: QueueHarness) -> None:
    queue, gate = await harness.queue(), asyncio.Event()

    async def answer(message: QueueMessage) -> bool:
        await gate.wait()
        return True

    reader = Reader(answer)
    await send(queue, 1)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: len(reader.calls) == 1)
    assert await harness.waiting("mail") == 1
    gate.set()
    await until(lambda: _is_empty(harness))


@pytest.mark.parametrize("how", ["false", "none", "exception", "cancelled"])
async def test_a_failed_delivery_is_repeated_and_its_key_waits_in_order(
    harness: QueueHarness, how: str
) -> None:
    queue = await harness.queue()
    tries: Counter[object] = Counter()

    async def answer(message: QueueMessage) -> bool:
        number = message.payload["n"]
        tries[number] += 1
        if number == 1 and tries[number] < 3:
            if how == "exception":
                raise RuntimeError("no luck")
            if how == "cancelled":
                raise asyncio.CancelledError
            return None if how == "none" else False  # type: ignore[return-value]
        return True

    reader = Reader(answer)
    for number in range(4):
        await send(queue, number)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: len(reader.done) == 4)
    assert reader.done == [0, 1, 2, 3]
    assert tries == {0: 1, 1: 3, 2: 1, 3: 1}


async def test_retries_wait_longer_each_time(harness: QueueHarness) -> None:
    queue = await harness.queue(retry_base_s=0.05, retry_cap_s=10, max_attempts=4)
    at: list[float] = []

    async def answer(message: QueueMessage) -> bool:
        at.append(asyncio.get_running_loop().time())
        return False

    await send(queue, 1)
    await queue.register_message_consumer("mail", "a", Reader(answer))
    await until(lambda: len(at) == 4)
    waits_s = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert all(
        wait_s >= shortest_s - 0.002
        for wait_s, shortest_s in zip(waits_s, (0.05, 0.1, 0.2), strict=True)
    )  # Redis counts in ms


async def test_a_retry_is_not_put_off_by_a_clock_that_was_set_back(harness: QueueHarness) -> None:
    """cases/faults.md U10: the next delivery's time stays where it was, an hour further away."""
    queue, tries = await harness.queue(retry_base_s=600, retry_cap_s=600), 0

    async def answer(message: QueueMessage) -> bool:
        nonlocal tries
        tries += 1
        return tries > 1

    await send(queue, 1)
    reader = Reader(answer)
    await queue.register_message_consumer("mail", "a", reader)
    redis, (stream,) = (
        harness.cache.get_client(),
        [stream for stream, n in (await queue.backlog("mail")).items() if n],
    )

    async def held() -> dict[str, str]:
        notes = await redis.execute("HGETALL", stream.retry_key)
        notes = (
            notes if isinstance(notes, dict) else dict(zip(notes[::2], notes[1::2], strict=True))
        )
        now_ms = time.time() * 1000
        return {
            entry_id: note
            for entry_id, note in notes.items()
            if int(note.partition(":")[2]) > now_ms + 1000
        }

    await until(held)
    ((entry_id, note),) = (await held()).items()
    attempts, _, not_before_ms = note.partition(":")
    await redis.execute(
        "HSET", stream.retry_key, entry_id, f"{attempts}:{int(not_before_ms) + 3_600_000}"
    )
    await until(lambda: reader.done == [1])


async def test_poison_goes_to_the_dead_letters_and_stops_no_other_key(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue(max_attempts=3, retry_base_s=0.1, retry_cap_s=0.2)

    async def answer(message: QueueMessage) -> bool:
        if message.payload["n"] == "poison":
            raise RuntimeError("cannot read this")
        return True

    reader = Reader(answer)
    one, other = _two_keys_of_a_partition(harness)
    await send(queue, "poison", one)
    await send(queue, "behind", one)
    for number in range(10):
        await send(queue, number, other)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: "behind" in reader.done)
    assert reader.done == [*range(10), "behind"]
    (letter,) = await queue.dead_letters("mail")
    assert letter.reason == "3 deliveries failed, the last: RuntimeError: cannot read this"
    assert letter.fields["payload"] == '{"n":"poison"}'
    assert await harness.waiting("mail") == 0
    assert await harness.cache.get_client().execute("EXISTS", letter.stream.retry_key) == 0


async def test_a_long_row_behind_a_failing_message_hides_no_other_key(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue(batch=3, retry_base_s=3600, retry_cap_s=3600)

    async def answer(message: QueueMessage) -> bool:
        return message.payload["n"] != "failing"

    reader = Reader(answer)
    one, other = _two_keys_of_a_partition(harness)
    for number in ("failing", *range(10)):
        await send(queue, number, one)
    await send(queue, "last", other)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: reader.done == ["last"])


async def test_a_message_without_a_key_waits_alone(harness: QueueHarness) -> None:
    queue = await harness.queue(retry_base_s=3600, retry_cap_s=3600)

    async def answer(message: QueueMessage) -> bool:
        return message.payload["n"] != 0

    reader = Reader(answer)
    for number in range(20):
        await send(queue, number, None)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: sorted(reader.done) == list(range(1, 20)))  # type: ignore[type-var]
    assert await harness.waiting("mail") == 1


async def test_what_is_no_message_is_given_up_at_once(harness: QueueHarness) -> None:
    queue, reader = await harness.queue(), Reader()
    stream = queue.stream("mail", 1, "2")
    execute = harness.cache.get_client().execute
    for fields in (
        ("payload", "{"),
        ("payload", "[]"),
        ("other", "x"),
        ("payload", "{}", "priority", "high"),
    ):
        await execute("XADD", stream.key, "*", *fields)
    await execute("XADD", stream.key, "*", "payload", '{"n": 1}')
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: reader.done == [1])
    letters = await queue.dead_letters("mail")
    assert len(letters) == 4
    assert all(letter.reason.startswith("not a message: ") for letter in letters)


async def test_a_handler_whose_service_is_away_waits_without_counting(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue(max_attempts=2)
    away = True

    async def answer(message: QueueMessage) -> bool:
        if away:
            raise ServiceUnavailable("database", "away")
        return True

    reader = Reader(answer)
    for number in range(3):
        await send(queue, number)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: len(reader.calls) >= 4)
    assert {message.payload["n"] for message in reader.calls} == {0}
    away = False
    await until(lambda: reader.done == [0, 1, 2])
    assert await queue.dead_letters("mail") == []


async def test_a_handler_that_hangs_is_cut_off_and_counted(harness: QueueHarness) -> None:
    queue = await harness.queue(handler_timeout_s=0.05, max_attempts=2)

    async def answer(message: QueueMessage) -> bool:
        if message.payload["n"] == 0:
            await asyncio.Event().wait()
        return True

    reader = Reader(answer)
    await send(queue, 0)
    await send(queue, 1)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: reader.done == [1])
    (letter,) = await queue.dead_letters("mail")
    assert letter.reason == "2 deliveries failed, the last: no end within 0.05 s"


async def test_when_the_dead_letters_are_full_the_message_stays(harness: QueueHarness) -> None:
    queue = await harness.queue(dead_letter_limit=1, max_attempts=1)

    async def answer(message: QueueMessage) -> bool:
        return message.payload["n"] not in (0, 1)

    reader = Reader(answer)
    for number in range(3):
        await send(queue, number, str(number) * 3 if number == 2 else "k")
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: reader.done == [2] and len(reader.calls) == 3)
    assert await harness.waiting("mail") == 1
    (letter,) = await queue.dead_letters("mail")
    await queue.drop_dead_letter(letter.stream, letter.dead_id)
    await until(lambda: _is_empty(harness))


async def test_two_consumers_share_the_work_and_lose_nothing(harness: QueueHarness) -> None:
    queues = [await harness.queue(batch=3) for _ in range(2)]
    readers = [Reader(), Reader()]
    for queue, reader in zip(queues, readers, strict=True):
        await queue.register_message_consumer("mail", "a", reader)
    await asyncio.gather(*(send(queues[n % 2], (n % 10, n), f"key{n % 10}") for n in range(300)))
    await until(lambda: sum(len(reader.done) for reader in readers) >= 300)
    await until(lambda: _is_empty(harness))
    done = readers[0].done + readers[1].done
    assert sorted(tuple(pair) for pair in done) == sorted((n % 10, n) for n in range(300))  # type: ignore[arg-type]


async def test_stats_tell_what_is_there(harness: QueueHarness) -> None:
    queue, other = await harness.queue(max_attempts=1), await harness.queue()
    assert await queue.stats() == {}
    await queue.register_message_consumer("mail", "reader-1", Reader(_never))
    await send(queue, 1)
    await until(lambda: _has_dead(queue))
    await queue.unregister_message_consumer("mail", "reader-1")
    assert await queue.stats() == {
        "mail": {"waiting": 0, "oldest_age_s": 0.0, "dead": 1, "consumers": []}
    }
    await send(other, 2)
    await send(other, 3)
    await until(lambda: _is_older(other, 0.02))
    stats = (await other.stats())["mail"]
    assert (stats["waiting"], stats["dead"]) == (2, 1)
    assert stats["oldest_age_s"] < 2 * PATIENCE_S


async def test_a_consumer_id_is_taken_once_for_a_queue(harness: QueueHarness) -> None:
    queue = await harness.queue()
    await queue.register_message_consumer("mail", "a", Reader())
    with pytest.raises(ServiceError, match="registered already"):
        await queue.register_message_consumer("mail", "a", Reader())
    assert await queue.unregister_message_consumer("mail", "a")
    assert not await queue.unregister_message_consumer("mail", "a")
    await queue.register_message_consumer("mail", "a", Reader())


async def test_stop_lets_the_delivery_under_way_end(harness: QueueHarness) -> None:
    queue, gate = await harness.queue(), asyncio.Event()

    async def answer(message: QueueMessage) -> bool:
        await gate.wait()
        return True

    reader = Reader(answer)
    await send(queue, 1)
    await send(queue, 2)
    await queue.register_message_consumer("mail", "a", reader)
    await until(lambda: len(reader.calls) == 1)
    stopping = asyncio.create_task(queue.stop())
    await asyncio.wait({stopping}, timeout=0.05)
    assert not stopping.done()
    gate.set()
    await stopping
    assert reader.done == [1]
    assert await harness.waiting("mail") == 1


async def test_delivery_cut_off_by_stop_is_not_counted(
    harness: QueueHarness,
) -> None:
    """A delivery cut off by stop is not counted and delivered by another."""
    first, second = await harness.queue(), await harness.queue(max_attempts=1)

    async def hang(message: QueueMessage) -> bool:
        await asyncio.Event().wait()
        return True

    stuck, reader = Reader(hang), Reader()
    await send(first, 1)
    await first.register_message_consumer("mail", "a", stuck)
    await until(lambda: len(stuck.calls) == 1)
    await second.register_message_consumer("mail", "b", reader)
    stream = first.stream("mail", harness.cache.partitions.of_id("k"), "2")
    await first.stop(0.01)
    await until(lambda: reader.done == [1])
    await until(lambda: _is_empty(harness))
    assert await harness.cache.get_client().execute("EXISTS", stream.retry_key) == 0


def _two_keys_of_a_partition(harness: QueueHarness) -> tuple[str, str]:
    partitions = harness.cache.partitions
    return partitions.new_id(1), partitions.new_id(1)


async def _never(message: QueueMessage) -> bool:
    return False


async def test_a_note_of_a_retry_that_cannot_be_read_ends_no_worker(harness: QueueHarness) -> None:
    queue, reader = await harness.queue(), Reader()
    await send(queue, 1)
    (stream,) = [
        stream
        for stream, waiting in (await queue.store.backlog(queue.streams("mail"))).items()
        if waiting
    ]
    redis = harness.cache.get_client()
    ((entry_id, _),) = await redis.execute("XRANGE", stream.key, "-", "+")
    await redis.execute("HSET", stream.retry_key, entry_id, "damaged")
    await queue.register_message_consumer("mail", "a", reader)
    await asyncio.sleep(0.3)
    assert not reader.done
    await redis.execute("DEL", stream.retry_key)
    await until(lambda: reader.done == [1])


async def _is_empty(harness: QueueHarness) -> bool:
    return await harness.waiting("mail") == 0


async def _has_dead(queue: QueueService) -> bool:
    return bool(await queue.dead_letters("mail"))


async def _is_older(queue: QueueService, age_s: float) -> bool:
    return (await queue.stats())["mail"]["oldest_age_s"] > age_s
