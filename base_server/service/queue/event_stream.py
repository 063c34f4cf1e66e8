"""Which stream a message belongs to. The only module that builds the queue's key names."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceError
from base_server.service.queue.message_queue import MessagePriority, QueueMessage

Route = Callable[[QueueMessage], tuple[int, str]]
"""From a message (with its id) to (partition, stream name); must give the same answer
everywhere."""

Intake = Callable[[QueueMessage], "Awaitable[EventStream | None]"]
"""Looks at a message (with its id) before it is stored; see QueueService.declare."""

EventStreamNames = Sequence[str] | Callable[[], Sequence[str]]
"""The streams of a queue, or a function that returns them: more may come while the server runs."""

# Queues that are read by their owner alone, in streams of its own: no other stream of theirs is
# ever read.
_OWNED = frozenset({"chat_persistence"})

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class EventStream:
    """One stream: queue, partition and name, with the full names of its keys, all in one
    partition."""

    queue_name: str
    partition: int
    name: str
    key: str = field(repr=False, compare=False)
    dead_key: str = field(repr=False, compare=False)
    # HASH entry id → "attempts:not before (Unix ms)"
    retry_key: str = field(repr=False, compare=False)
    # HASH group → number of its dead letters; see QueueService.blocked
    blocked_key: str = field(repr=False, compare=False)
    # Logical: LockService names it, with `partition`.
    lock_key: str = field(repr=False, compare=False)


@dataclass(frozen=True)
class _Queue:
    names: EventStreamNames
    route: Route

    @property
    def streams(self) -> Sequence[str]:
        return self.names() if callable(self.names) else self.names


class EventStreamMap:
    """The streams of every queue. A queue that was not declared has one stream per priority,
    critical first, and its messages go to the partition of their partition_key."""

    def __init__(self, cache: CacheService) -> None:
        self._cache = cache
        self._partitions = cache.partitions
        self._declared: dict[str, _Queue] = {}
        self._streams: dict[tuple[str, int, str], EventStream] = {}
        priorities = sorted(MessagePriority, reverse=True)
        self._default = _Queue(
            tuple(str(int(priority)) for priority in priorities), self._route_by_priority
        )

    def declare(self, queue_name: str, streams: EventStreamNames, route: Route) -> None:
        queue = _Queue(streams, route)
        for name in (queue_name, *queue.streams):
            check_name(name)
        self._declared[queue_name] = queue

    def stream(self, queue_name: str, partition: int, name: str) -> EventStream:
        """Raises ServiceError for a stream that the queue does not have."""
        if (stream := self._streams.get((queue_name, partition, name))) is not None:
            return stream
        if (
            name not in self._queue(queue_name).streams
            or not 0 <= partition < self._partitions.count
        ):
            raise ServiceError(
                f"queue: {queue_name} has no stream {name!r} in partition {partition}"
            )
        check_name(queue_name)
        name_key = self._cache.get_client().key
        stream = EventStream(
            queue_name=queue_name,
            partition=partition,
            name=name,
            key=name_key(f"queue:{queue_name}:{name}", partition=partition),
            dead_key=name_key(f"queue_dead:{queue_name}:{name}", partition=partition),
            retry_key=name_key(f"queue_retry:{queue_name}:{name}", partition=partition),
            blocked_key=name_key(f"queue_held:{queue_name}:{name}", partition=partition),
            lock_key=f"lock:queue:{queue_name}:{name}",
        )
        self._streams[queue_name, partition, name] = stream
        return stream

    def streams(self, queue_name: str) -> list[EventStream]:
        """Every stream, in reading order: the first name in all partitions, then the second, …"""
        names = self._queue(queue_name).streams
        return [
            self.stream(queue_name, partition, name)
            for name in names
            for partition in range(self._partitions.count)
        ]

    def key_patterns(self) -> list[str]:
        """What the keys of all streams and of all their dead letters match."""
        head = self._cache.get_client().key("queue", partition=0).partition("{")[0]
        return [f"{head}{{*}}:queue:*", f"{head}{{*}}:queue_dead:*"]

    def discover(self, keys: Iterable[str]) -> list[str]:
        """The queues to which these keys belong. One that this process did not declare can be read
        afterwards, in the streams that the keys name; not sent to."""
        found: dict[str, set[str]] = {}
        for key in keys:
            _, queue_name, name = key.partition("}:")[2].split(":")
            found.setdefault(queue_name, set()).add(name)
        for queue_name, names in found.items():
            if queue_name not in self._declared:
                self._declared[queue_name] = _Queue(tuple(sorted(names, reverse=True)), _no_route)
        return sorted(found)

    def route(self, message: QueueMessage) -> EventStream:
        """Raises ServiceError for an owner's queue that this process has not declared, or only
        reads."""
        if message.queue_name in _OWNED and message.queue_name not in self._declared:
            raise ServiceError(
                f"queue: {message.queue_name} takes nothing "
                "before its owner's template is made here"
            )
        partition, name = self._queue(message.queue_name).route(message)
        return self.stream(message.queue_name, partition, name)

    def _queue(self, queue_name: str) -> _Queue:
        return self._declared.get(queue_name, self._default)

    def _route_by_priority(self, message: QueueMessage) -> tuple[int, str]:
        key = message.partition_key or message.message_id or ""
        return self._partitions.of_id(key), str(int(message.priority))


def _no_route(message: QueueMessage) -> tuple[int, str]:
    raise ServiceError(f"queue: {message.queue_name} is only read here")


def check_name(name: str) -> None:
    """Raises ServiceError for what cannot be the name of a queue or of a stream."""
    if not _NAME.fullmatch(name):
        raise ServiceError(f"queue: {name!r} is no name: 1 to 64 of A-Z a-z 0-9 _ . -")
