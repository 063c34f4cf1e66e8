"""The persistence lanes: which stream an account's events go to, and who is told when there is work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from service.queue.message_queue import QueueMessage
from service.queue.queue_service import QueueService
from template.chat.chat_events import QUEUE_NAME


class ChatLanes:
    """One lane a partition and shard: order is kept in it whatever a message's priority."""

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
        queue.declare(QUEUE_NAME, lanes=lambda: [str(shard_id) for shard_id in shard_ids()], route=self._route)

    def stream_key(self, partition: int, shard_id: int) -> str:
        """Full name of the stream that the scripts append to."""
        return self._queue.lane(QUEUE_NAME, partition, str(shard_id)).stream_key

    def held_key(self, partition: int, shard_id: int) -> str:
        """Full name of the HASH of rooms that have dead letters in this lane."""
        return self._queue.lane(QUEUE_NAME, partition, str(shard_id)).held_key

    def on_flush(self, flush: Callable[[int, int], None]) -> None:
        """``flush(partition, shard_id)`` starts the consumer on a lane at once; it must not block."""
        self._flush = flush

    def flush(self, partition: int, shard_id: int) -> None:
        """Have this lane written now."""
        self._flush(partition, shard_id)

    def noticed(self, partition: int, shard_id: int, backlog: int) -> None:
        """A script reported how many events wait: a full batch is written at once, not at the next interval."""
        if backlog >= self._batch_size:
            self._flush(partition, shard_id)

    def _route(self, message: QueueMessage) -> tuple[int, str]:
        """Where an event sent through QueueService goes: the room's partition, the payload's shard."""
        data = message.payload
        inner = data.get("message_data")
        room_id = (inner.get("room_id") if isinstance(inner, dict) else None) or data.get("room_id")
        room_id = room_id or message.partition_key
        if not isinstance(room_id, str):
            room_id = str(message.message_id)  # to the dead letters, wherever they are
        shard_id = data.get("shard_id") or self._default_shard_id
        return self._partition_of(room_id), str(shard_id)
