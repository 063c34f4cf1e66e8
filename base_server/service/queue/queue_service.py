"""QueueService: durable queues on Redis streams that are read under a lock (no consumer groups).

An accepted entry stays in its stream until it is removed, so delivery is at least once: a process
that dies leaves its entries there, and the next one that gets the stream's lock reads them again.
The lock only saves double work; handlers must tolerate being called twice for one message.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceError, ServiceUnavailable
from base_server.service.core.facade import Facade, facade
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_holder import LockHolder
from base_server.service.lock.lock_service import LockService
from base_server.service.queue.drain import DrainBegin, DrainHandler, drain
from base_server.service.queue.event_stream import (
    EventStream,
    EventStreamMap,
    EventStreamNames,
    Intake,
    Route,
    check_name,
)
from base_server.service.queue.message_queue import MessagePriority, QueueEntry, QueueMessage
from base_server.service.queue.queue_consumer import Handler, QueueConsumer
from base_server.service.queue.queue_settings import QueueSettings
from base_server.service.queue.stream_store import DeadLetter, EventStreamFacts, EventStreamStore


class QueueService(Facade):
    """All calls raise ServiceUnavailable when Redis cannot be asked (OutcomeUnknown: it may have
    been done)."""

    def __init__(
        self,
        settings: QueueSettings,
        cache: CacheService,
        locks: LockService,
        tasks: TaskRegistry | None = None,
    ) -> None:
        self._settings = settings
        self._tasks = TaskRegistry() if tasks is None else tasks
        self._locks = LockHolder(locks, self._tasks)
        self._partitions = cache.partitions
        self.store = EventStreamStore(cache, settings)
        self._streams = EventStreamMap(cache)
        self._consumers: dict[tuple[str, str], QueueConsumer] = {}
        self._intakes: dict[str, Intake] = {}
        self._seen: set[str] = set()  # queues of this process, for stats
        self._running = False

    async def start(self) -> None:
        """Registered consumers begin to work; those registered later begin at once."""
        self._running = True
        for consumer in self._consumers.values():
            consumer.start()

    async def stop(self, timeout_s: float | None = None) -> None:
        """Deliveries under way get ``timeout_s`` (default drain_timeout_s), then they are
        cancelled; their messages stay in the queue. Locks are released. Sending goes on to work."""
        self._running = False
        limit_s = self._settings.drain_timeout_s if timeout_s is None else timeout_s
        consumers, self._consumers = list(self._consumers.values()), {}
        await asyncio.gather(*(consumer.stop(limit_s) for consumer in consumers))

    # Sending

    @facade
    async def send_message(
        self,
        queue_name: str | QueueMessage,
        payload: dict[str, Any] | None = None,
        message_type: str | None = None,
        priority: int = MessagePriority.NORMAL,
        partition_key: str | None = None,
    ) -> str:
        """Put a message into a queue; it is durable when this returns its id.

        One QueueMessage may stand for all arguments; a ``message_id`` of the caller's own makes the
        call safe to repeat for ``dedup_s``. Raises QueueFull at max_backlog; TypeError or
        ValueError for a payload that is no JSON object, an unknown priority, an empty type, or
        what the queue's owner does not accept; ServiceError for chat_persistence in a process where
        the chat template is not made (yet).
        """
        if isinstance(queue_name, QueueMessage):
            message = queue_name
        else:
            message = QueueMessage(
                queue_name, payload or {}, message_type or "", priority, partition_key
            )
        accepted = self._complete(message)
        intake = self._intakes.get(accepted.queue_name)
        stream = self._streams.route(accepted) if intake is None else await intake(accepted)
        if stream is not None:
            await self.store.append(stream, accepted)
        self._seen.add(accepted.queue_name)
        for (name, _), consumer in self._consumers.items():
            if name == accepted.queue_name:
                consumer.wake()
        return str(accepted.message_id)

    def _complete(self, message: QueueMessage) -> QueueMessage:
        if not message.message_type:
            raise ValueError("a queue message needs a message_type")
        key, count = message.partition_key, self._partitions.count
        partition = secrets.randbelow(count) if key is None else self._partitions.of_id(key)
        return QueueMessage(
            queue_name=message.queue_name,
            payload=message.payload,
            message_type=message.message_type,
            priority=MessagePriority(message.priority),
            partition_key=message.partition_key,
            message_id=message.message_id or self._partitions.new_id(partition),
        )

    # Consuming, one message at a time

    @facade
    async def register_message_consumer(
        self, queue_name: str, consumer_id: str, handler: Handler
    ) -> None:
        """Deliver the queue's messages to ``handler(QueueMessage)``.

        True acknowledges. False, an exception or no answer within handler_timeout_s is a failed
        delivery: the message comes again after a growing wait, and after max_attempts goes to the
        dead letters with its reason; meanwhile later messages of its partition_key (and priority)
        wait, all others go on. A handler that raises ServiceUnavailable says "not now": the stream
        backs off, nothing is counted. Raises ServiceError when this ``consumer_id`` is registered
        for the queue already.
        """
        if (queue_name, consumer_id) in self._consumers:
            raise ServiceError(
                f"queue: consumer {consumer_id} of {queue_name} is registered already"
            )
        check_name(queue_name)
        consumer = QueueConsumer(
            queue_name,
            handler,
            streams=self._streams,
            store=self.store,
            locks=self._locks,
            settings=self._settings,
            tasks=self._tasks,
        )
        self._consumers[queue_name, consumer_id] = consumer
        self._seen.add(queue_name)
        if self._running:
            consumer.start()

    @facade
    async def unregister_message_consumer(self, queue_name: str, consumer_id: str) -> bool:
        """No more deliveries to this consumer; one under way is waited for (drain_timeout_s). False
        if unknown."""
        consumer = self._consumers.pop((queue_name, consumer_id), None)
        if consumer is None:
            return False
        await consumer.stop(self._settings.drain_timeout_s)
        return True

    # Consuming, in batches, by the owner of a queue with streams of its own

    def declare(
        self,
        queue_name: str,
        *,
        streams: EventStreamNames,
        route: Route,
        intake: Intake | None = None,
    ) -> None:
        """Give a queue its own streams (in reading order) and its own route instead of one stream a
        priority. Every process must declare the same before it sends or reads; declared again, the
        last counts.

        ``intake`` sees every message that :meth:`send_message` is given, before it is stored: it
        raises ValueError for one that the queue's consumer could not understand, and answers the
        stream to store it in, or None when it has stored what the message asks for itself."""
        self._streams.declare(queue_name, streams, route)
        self._intakes.pop(queue_name, None)
        if intake is not None:
            self._intakes[queue_name] = intake
        self._seen.add(queue_name)

    async def last_entry(self, stream: EventStream) -> str | None:
        """The id of the stream's newest entry; None when it is empty."""
        return await self.store.last_entry(stream)

    async def has_entries_to(self, stream: EventStream, entry_id: str) -> bool:
        """Does an entry wait that came no later than this one?"""
        return await self.store.has_entries_to(stream, entry_id)

    async def move(self, entry: QueueEntry, stream: EventStream, to: EventStream) -> None:
        """Put a waiting entry at the end of another stream, once however often it is called within
        ``dedup_s``; it keeps its message id. Raises QueueFull when that one is at max_backlog
        (nothing was moved)."""
        await self.store.move(entry.entry_id, stream, to, entry.to_message(stream.queue_name))

    def stream(self, queue_name: str, partition: int, stream: str) -> EventStream:
        """Raises ServiceError for a stream that the queue does not have."""
        return self._streams.stream(queue_name, partition, stream)

    def streams(self, queue_name: str) -> list[EventStream]:
        """Every stream of the queue, in reading order."""
        return self._streams.streams(queue_name)

    async def drain_stream(
        self,
        stream: EventStream,
        handler: DrainHandler,
        *,
        batch: int,
        batch_bytes: int = 1_048_576,
        lock_ttl_s: float | None = None,
        lock_timeout_s: float = 0.0,
        begin: DrainBegin | None = None,
    ) -> int:
        """Hand the stream's entries to ``await handler(stream, entries)``, from the head on, until
        it is empty.

        The handler itself takes away what it finished (:meth:`remove`, :meth:`dead_letter` or a
        script of its own), only after the work is safe. Draining ends when the stream is empty,
        when the handler returns False, or when the next batch is the one just handed over (nothing
        was taken away). A batch has up to ``batch`` entries, and about ``batch_bytes`` of payloads.
        ``await begin(stream)`` comes first, under the lock, also when the stream is empty.

        Returns how many entries were handed over; 0 also when somebody else holds the stream's lock
        for ``lock_timeout_s``. The lock is kept while working, and given back at the end, at an
        exception and at cancellation; if that met an outage, the next call here gives it back
        first. A lock lost while working ends the drain after the batch under way, which may then be
        handed out twice. Raises ServiceUnavailable in an outage, and whatever the handler raises.
        """
        lock = self._locks.acquired(
            stream.lock_key,
            ttl_s=self._settings.lock_ttl_s if lock_ttl_s is None else lock_ttl_s,
            timeout_s=lock_timeout_s,
            partition=stream.partition,
        )
        return await drain(
            self.store, lock, stream, handler, batch=batch, batch_bytes=batch_bytes, begin=begin
        )

    async def remove(self, stream: EventStream, entry_ids: Iterable[str]) -> int:
        """Take finished entries out; returns how many were still there. Also works when Redis is
        full."""
        return await self.store.remove(stream, entry_ids)

    async def dead_letter(
        self,
        stream: EventStream,
        entries_with_reasons: Sequence[tuple[str, str]],
        groups: Mapping[str, str] | None = None,
    ) -> int:
        """Move (entry id, reason) to the stream's dead letters, all in one step, fields kept;
        returns how many were still there. ``groups``: by entry id, what it blocks until it is
        replayed or dropped (:meth:`blocked`). Raises DeadLettersFull (all stay in the stream) at
        dead_letter_limit."""
        return await self.store.dead_letter(stream, entries_with_reasons, groups or {})

    async def add_dead_letters(
        self,
        stream: EventStream,
        entries_with_reasons: Sequence[tuple[QueueEntry, str]],
        groups: Mapping[str, str],
    ) -> int:
        """As :meth:`dead_letter`, for entries that Redis lost: only the caller still has them. One
        that is among the dead letters already is left out. Raises DeadLettersFull (nothing is
        added)."""
        return await self.store.add_dead_letters(stream, entries_with_reasons, groups)

    async def blocked(self, stream: EventStream, groups: Sequence[str]) -> set[str]:
        """Those of ``groups`` that have dead letters in this stream: what comes later of them
        should wait."""
        return await self.store.blocked(stream, groups)

    @asynccontextmanager
    async def acquired(self, stream: EventStream, timeout_s: float) -> AsyncIterator[None]:
        """Take the stream's lock, so that nobody else drains it. Raises ServiceUnavailable if it is
        not free in ``timeout_s``."""
        async with self._locks.acquired(
            stream.lock_key,
            ttl_s=self._settings.lock_ttl_s,
            timeout_s=timeout_s,
            partition=stream.partition,
        ) as lock:
            if lock is None:
                raise ServiceUnavailable(
                    "queue", f"stream {stream.name} of {stream.queue_name} is at work, try again"
                )
            yield

    # For operators

    async def dead_letters(self, queue_name: str, limit: int = 100) -> list[DeadLetter]:
        """The oldest dead letters, up to ``limit`` a stream."""
        return await self.store.dead_letters(self._streams.streams(queue_name), limit)

    async def discover(self) -> list[str]:
        """The queues that have streams or dead letters in Redis, of any process; from here on
        :meth:`stats` and the calls for dead letters know them. Reads through all key names: not for
        a hot path."""
        names = self._streams.discover(await self.store.keys(self._streams.key_patterns()))
        self._seen.update(names)
        return names

    async def dead_letter_count(self, queue_name: str) -> int:
        """How many dead letters the queue has; one round trip."""
        return await self.store.dead_letter_count(self._streams.streams(queue_name))

    async def dead_letters_of(self, stream: EventStream) -> list[DeadLetter]:
        """All dead letters of one stream, oldest first."""
        return await self.store.dead_letters([stream], self._settings.dead_letter_limit)

    async def replay_dead_letter(self, stream: EventStream, dead_id: str) -> bool:
        """Put one back at the end of its stream, its deliveries counted from 0; false if it is not
        there."""
        return await self.store.replay(stream, dead_id)

    async def drop_dead_letter(self, stream: EventStream, dead_id: str) -> bool:
        """Delete one permanently; false if it is not there."""
        return await self.store.drop(stream, dead_id)

    async def backlog(self, queue_name: str) -> dict[EventStream, int]:
        """Entries in every stream, those being worked on included, without the streams of
        partitions that are away; one round trip to each server."""
        return await self.store.backlog(self._streams.streams(queue_name))

    async def stats(self) -> dict[str, dict[str, Any]]:
        """For each queue that this process declared, consumes or sent to: ``waiting``,
        ``oldest_age_s`` (of the oldest waiting entry; 0.0 when empty), ``dead``, ``consumers``
        (ids, of this process)."""
        result = {}
        for queue_name in sorted(self._seen):
            now_ms, facts = await self.store.facts(self._streams.streams(queue_name))
            result[queue_name] = _sum_up(now_ms, list(facts.values())) | {
                "consumers": sorted(
                    consumer_id for name, consumer_id in self._consumers if name == queue_name
                )
            }
        return result


def get_queue_service() -> QueueService:
    """The installed queue service; raises ServiceNotRunning when there is none."""
    return QueueService.get_instance()


def _sum_up(now_ms: int, facts: Sequence[EventStreamFacts]) -> dict[str, Any]:
    oldest_ms = min(
        (stream.oldest_ms for stream in facts if stream.oldest_ms is not None), default=now_ms
    )
    return {
        "waiting": sum(stream.waiting for stream in facts),
        "oldest_age_s": max(now_ms - oldest_ms, 0) / 1000,
        "dead": sum(stream.dead for stream in facts),
    }
