"""What QueueService.move promises: a message is never lost on its way to another stream, and is
stored there once."""

from __future__ import annotations

import random

import pytest

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry, QueueMessage
from base_server.service.queue.queue_errors import QueueFull
from base_server.service.queue.queue_service import QueueService
from tests.service.queue.queue_harness import QueueHarness


def streams_of(queue: QueueService) -> list[EventStream]:
    """Two streams of one partition, one of another."""
    return [queue.stream("mail", *place) for place in ((0, "2"), (0, "3"), (1, "2"))]


def message(message_id: str) -> QueueMessage:
    return QueueMessage("mail", {"for": message_id}, "letter", message_id=message_id)


async def waiting(queue: QueueService, stream: EventStream) -> list[QueueEntry]:
    return await queue.store.head(stream, 100)


class Walk:
    """Messages that are sent, moved and consumed by chance. A move may lose its connection before
    the entry is taken out: then it is made again, later."""

    def __init__(self, queue: QueueService, seed: int) -> None:
        self._queue = queue
        self._streams = streams_of(queue)
        self._random = random.Random(seed)
        self._seed = seed
        self._cut_off: list[tuple[QueueEntry, EventStream, EventStream]] = []
        self.sent: list[str] = []
        self.consumed: list[str] = []

    async def step(self) -> None:
        await self._random.choices(
            [self._send, self._move, self._consume, self._repeat], [3, 5, 1, 2]
        )[0]()

    async def finish(self) -> list[str]:
        """The ids of what was consumed, and of what waits when every move is made."""
        while self._cut_off:
            await self._repeat()
        left = [
            entry.message_id
            for stream in self._streams
            for entry in await waiting(self._queue, stream)
        ]
        return sorted(self.consumed + left)

    async def _send(self) -> None:
        message_id = f"{self._seed}-{len(self.sent)}"
        await self._queue.store.append(self._random.choice(self._streams), message(message_id))
        self.sent.append(message_id)

    async def _any(self) -> tuple[QueueEntry, EventStream] | None:
        held = {(stream, entry.entry_id) for entry, stream, _ in self._cut_off}
        free = [(entry, stream) for stream in self._streams for entry in await waiting(self._queue, stream)
                if (stream, entry.entry_id) not in held]  # fmt: skip
        return self._random.choice(free) if free else None

    async def _move(self) -> None:
        if (found := await self._any()) is None:
            return
        entry, stream = found
        to = self._random.choice([other for other in self._streams if other != stream])
        if self._random.random() < 0.3:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self._queue.store, "remove", away)
                with pytest.raises(ServiceUnavailable):
                    await self._queue.move(entry, stream, to)
            self._cut_off.append((entry, stream, to))
        else:
            await self._queue.move(entry, stream, to)

    async def _repeat(self) -> None:
        if self._cut_off:
            await self._queue.move(*self._cut_off.pop(0))

    async def _consume(self) -> None:
        if (found := await self._any()) is not None:
            entry, stream = found
            await self._queue.remove(stream, [entry.entry_id])
            self.consumed.append(entry.message_id)


async def away(*_: object) -> int:
    raise ServiceUnavailable("cache", "cut off")


async def test_moved_messages_are_neither_lost_nor_doubled(harness: QueueHarness) -> None:
    queue = await harness.queue()
    for seed in range(12):
        walk = Walk(queue, seed)
        for _ in range(15):
            await walk.step()
        assert await walk.finish() == sorted(walk.sent), f"seed {seed}"
        for stream in streams_of(queue):
            await queue.remove(stream, [entry.entry_id for entry in await waiting(queue, stream)])


async def test_message_moves_within_the_partition_it_was_sent_to(harness: QueueHarness) -> None:
    """The partition remembers its id: the move is no repeat of the send."""
    queue = await harness.queue()
    low, high, _ = streams_of(queue)
    await queue.store.append(low, message("m"))
    (entry,) = await waiting(queue, low)
    await queue.move(entry, low, high)
    assert await waiting(queue, low) == []
    assert [entry.message_id for entry in await waiting(queue, high)] == ["m"]


async def test_message_stays_while_the_other_stream_is_full(harness: QueueHarness) -> None:
    queue = await harness.queue(max_backlog=1)
    here, _, there = streams_of(queue)
    await queue.store.append(here, message("m"))
    await queue.store.append(there, message("other"))
    (entry,) = await waiting(queue, here)
    with pytest.raises(QueueFull):
        await queue.move(entry, here, there)
    assert await waiting(queue, here) == [entry]


async def test_message_moves_on_a_full_redis(private_harness: QueueHarness) -> None:
    """cases/abuse.md A5b: the entry that is added is taken out of the other stream right after it.
    A send is refused."""
    queue = await private_harness.queue()
    here, _, there = streams_of(queue)
    await queue.store.append(here, message("m"))
    (entry,) = await waiting(queue, here)
    await private_harness.cache.get_client().execute("CONFIG", "SET", "maxmemory", "1")
    await queue.move(entry, here, there)
    assert await waiting(queue, here) == []
    assert [entry.message_id for entry in await waiting(queue, there)] == ["m"]
    with pytest.raises(ServiceUnavailable, match="OOM"):
        await queue.store.append(here, message("n"))
