"""The event streams of persistence: which one an account's events go to, and waking its
consumer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueMessage
from base_server.service.queue.queue_service import QueueService
from base_server.template.chat.domain.events import QUEUE_NAME


class EventStreams:
    """One stream per partition and shard: its order holds, whatever a message's priority."""

    def __init__(
        self,
        queue: QueueService,
        partition_of: Callable[[str], int],
        shard_ids: Callable[[], Sequence[int]],
        *,
        default_shard_id: int,
        batch_size: int,
        max_backlog: int,
    ) -> None:
        self.max_backlog = max_backlog
        self._queue = queue
        self._partition_of = partition_of
        self._default_shard_id = default_shard_id
        self._batch_size = batch_size
        self._flush: Callable[[int, int], None] = lambda partition, shard_id: None
        self._shard_ids = shard_ids
        self._declare(None)

    def stream_key(self, partition: int, shard_id: int) -> str:
        """Full name of the stream that the scripts append to."""
        return self.stream(partition, shard_id).key

    def blocked_rooms_key(self, partition: int, shard_id: int) -> str:
        """Full name of the HASH of rooms that have dead letters in this stream."""
        return self.stream(partition, shard_id).blocked_key

    def on_flush(self, flush: Callable[[int, int], None]) -> None:
        """``flush(partition, shard_id)`` starts the consumer on a stream at once; it must not
        block."""
        self._flush = flush

    def on_event(self, intake: Callable[[QueueMessage], Awaitable[EventStream | None]]) -> None:
        """``intake`` sees every event that is sent through QueueService before it is stored."""
        self._declare(intake)

    def route(self, message: QueueMessage) -> EventStream:
        """Where an event waits that only its consumer understands, or refuses."""
        partition, name = self._route(message)
        return self._queue.stream(QUEUE_NAME, partition, name)

    def stream(self, partition: int, shard_id: int) -> EventStream:
        return self._queue.stream(QUEUE_NAME, partition, str(shard_id))

    def flush(self, partition: int, shard_id: int) -> None:
        """Have this stream written now."""
        self._flush(partition, shard_id)

    async def wait_until_written(self, partition: int, shard_id: int, timeout_s: float) -> bool:
        """Until every event that waits in this stream now is in MySQL, or among the dead letters;
        False when none does. Raises ServiceUnavailable after ``timeout_s``."""
        stream = self.stream(partition, shard_id)
        if (last := await self._queue.last_entry(stream)) is None:
            return False
        deadline, pause_s = time.monotonic() + timeout_s, 0.01
        while await self._queue.has_entries_to(stream, last):
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    "database", "a room's backlog was not written within the load timeout"
                )
            self.flush(partition, shard_id)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.25)
        return True

    def report_backlog(self, partition: int, shard_id: int, backlog: int) -> None:
        """A script reported how many events wait: a full batch is written at once, not at the next
        interval."""
        if backlog >= self._batch_size:
            self._flush(partition, shard_id)

    def _declare(
        self, intake: Callable[[QueueMessage], Awaitable[EventStream | None]] | None
    ) -> None:
        streams = self._shard_ids
        self._queue.declare(
            QUEUE_NAME,
            streams=lambda: [str(n) for n in streams()],
            route=self._route,
            intake=intake,
        )

    def _route(self, message: QueueMessage) -> tuple[int, str]:
        """Where an event sent through QueueService goes: the room's partition, the payload's
        shard."""
        data = message.payload
        inner = data.get("message_data")
        room_id = (inner.get("room_id") if isinstance(inner, dict) else None) or data.get("room_id")
        room_id = room_id or message.partition_key
        if not isinstance(room_id, str):
            room_id = str(message.message_id)  # to the dead letters, wherever they are
        shard_id = data.get("shard_id") or self._default_shard_id
        return self._partition_of(room_id), str(shard_id)
