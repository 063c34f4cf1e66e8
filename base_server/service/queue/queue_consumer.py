"""A registered handler at work: streams by priority, a message acknowledged after its work,
failures retried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from base_server.service.core.errors import ServiceError, ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.outage_log import OutageLog
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_holder import AcquiredLock, LockHolder
from base_server.service.queue.event_stream import EventStream, EventStreamMap
from base_server.service.queue.message_queue import QueueEntry, QueueMessage
from base_server.service.queue.queue_errors import DeadLettersFull
from base_server.service.queue.queue_settings import QueueSettings
from base_server.service.queue.stream_store import EventStreamPage, EventStreamStore

Handler = Callable[[QueueMessage], Awaitable[bool]]


class _Outcome(Enum):
    DONE = auto()
    FAILED = auto()  # counted; its key waits for the next attempt
    NOT_NOW = auto()  # what the handler needs is down: not counted, the stream backs off
    DEAD = auto()


@dataclass
class _Backoff:
    """How long a stream (or, in an outage, a worker) waits; doubles up to the cap."""

    wait_s: float = 0.0
    until_s: float = 0.0  # time.monotonic()


@dataclass
class _Visit:
    """One stay at a stream under its lock."""

    stream: EventStream
    lock: AcquiredLock
    delivered: int = 0
    # Partition keys that wait for a failing entry.
    blocked: set[str] = field(default_factory=set)


class QueueConsumer:
    """``workers`` tasks that share one handler; each works on one stream at a time under the
    stream's lock."""

    def __init__(
        self,
        queue_name: str,
        handler: Handler,
        *,
        streams: EventStreamMap,
        store: EventStreamStore,
        locks: LockHolder,
        settings: QueueSettings,
        tasks: TaskRegistry,
    ) -> None:
        self._queue_name = queue_name
        self._handler = handler
        self._streams = streams
        self._store = store
        self._locks = locks
        self._settings = settings
        self._tasks = tasks
        self._workers: list[asyncio.Task[None]] = []
        self._new_message = asyncio.Event()
        self._stopping = False
        self._busy: set[EventStream] = set()
        self._backoffs: dict[EventStream, _Backoff] = {}
        # Which visit was the stream's last: streams of one name are served in turn.
        self._last_served: dict[EventStream, int] = {}
        self._visits = 0
        self._outage, self._handler_outage = OutageLog(), OutageLog()

    def start(self) -> None:
        name = f"consume {self._queue_name}"
        self._workers = [
            self._tasks.spawn(self._work(), name) for _ in range(self._settings.workers)
        ]

    def wake(self) -> None:
        """There is something new in the queue."""
        self._new_message.set()

    async def stop(self, timeout_s: float) -> None:
        """Deliveries under way get ``timeout_s``; then they are cancelled and stay in the queue."""
        self._stopping = True
        self.wake()
        if self._workers:
            await asyncio.wait(self._workers, timeout=timeout_s)
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        backoff = _Backoff()
        while not self._stopping:
            self._new_message.clear()
            try:
                has_delivered = await self._round()
            except ServiceError as error:
                _double(backoff, self._settings)
                if self._outage.is_due():
                    Logger.warn(
                        "a queue consumer cannot work", queue=self._queue_name, reason=str(error)
                    )
                await self._pause(backoff.wait_s)
                continue
            except Exception as error:
                # Something in a stream that cannot be read: it must not end the worker.
                _double(backoff, self._settings)
                Logger.error("a queue consumer failed", queue=self._queue_name, exc_info=error)
                await self._pause(backoff.wait_s)
                continue
            backoff = _Backoff()
            if self._outage.has_ended():
                Logger.info("a queue consumer works again", queue=self._queue_name)
            if not has_delivered:
                await self._pause(self._settings.poll_interval_s)

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._new_message.wait()
        except TimeoutError:
            return

    async def _round(self) -> bool:
        """Visit the first stream, by priority, that has something to deliver; false if none has."""
        # One visit a round: what came meanwhile may be more urgent.
        for stream in await self._candidates():
            if self._stopping:
                return False
            if stream in self._busy:
                continue
            self._visits += 1
            self._last_served[stream] = self._visits
            self._busy.add(stream)
            try:
                if await self._visit(stream):
                    return True
            finally:
                self._busy.discard(stream)
        return False

    async def _candidates(self) -> list[EventStream]:
        streams = self._streams.streams(self._queue_name)
        rank = {
            name: index
            for index, name in enumerate(dict.fromkeys(stream.name for stream in streams))
        }
        waiting = await self._store.backlog(streams)
        now_s = time.monotonic()
        ready = [
            stream
            for stream in streams
            if waiting.get(stream) and self._backoffs.get(stream, _Backoff()).until_s <= now_s
        ]
        return sorted(
            ready, key=lambda stream: (rank[stream.name], self._last_served.get(stream, 0))
        )

    async def _visit(self, stream: EventStream) -> int:
        """Deliver up to ``batch`` messages of ``stream``; 0 also when another consumer has it."""
        ttl_s = self._settings.lock_ttl_s
        async with self._locks.acquired(
            stream.lock_key, ttl_s=ttl_s, timeout_s=0, partition=stream.partition
        ) as lock:
            if lock is None:
                return 0
            visit, start = _Visit(stream, lock), "-"
            for _ in range(0, self._settings.scan_limit, self._settings.batch):
                page = await self._store.read(stream, start, self._settings.batch)
                if (
                    not await self._deliver_page(visit, page)
                    or len(page.entries) < self._settings.batch
                ):
                    break
                start = f"({page.entries[-1].entry_id}"
            return visit.delivered

    async def _deliver_page(self, visit: _Visit, page: EventStreamPage) -> bool:
        """False when the visit is over."""
        for entry in page.entries:
            if self._stopping or visit.lock.lost or visit.delivered >= self._settings.batch:
                return False
            retry = page.retries.get(entry.entry_id)
            key = entry.partition_key
            if key in visit.blocked:
                continue  # in order: after the one that failed
            # A wait that is longer than any was begun before the server's clock was set back.
            wait_ms = retry.not_before_ms - page.now_ms if retry else 0
            if 0 < wait_ms <= self._settings.retry_cap_s * 1000:
                outcome = _Outcome.FAILED
            else:
                outcome = await self._deliver(
                    visit.stream, entry, attempt=retry.attempts + 1 if retry else 1
                )
                visit.delivered += outcome is not _Outcome.NOT_NOW
            if outcome is _Outcome.NOT_NOW:
                return False
            if outcome is _Outcome.FAILED and key:
                visit.blocked.add(key)
        return True

    async def _deliver(self, stream: EventStream, entry: QueueEntry, attempt: int) -> _Outcome:
        try:
            message = entry.to_message(self._queue_name)
        except ValueError as error:
            return await self._give_up(stream, entry, attempt, f"not a message: {error}")
        if attempt > self._settings.max_attempts:
            # Counted before they began, never reported as failed.
            return await self._give_up(
                stream, entry, attempt - 1, "its last deliveries never ended: their process died"
            )
        # Counted before it begins, or a message that kills its process would do so forever.
        await self._store.record_attempt(stream, entry.entry_id, attempt, 0)
        try:
            failure = await self._call(message)
        except ServiceUnavailable as error:
            # Not the message's fault: the attempt is not counted.
            await self._store.record_attempt(stream, entry.entry_id, attempt - 1, 0)
            _double(self._backoffs.setdefault(stream, _Backoff()), self._settings)
            if self._handler_outage.is_due():
                Logger.warn(
                    "a queue handler has to wait",
                    queue=self._queue_name,
                    lane=stream.name,
                    reason=str(error),
                )
            return _Outcome.NOT_NOW
        except asyncio.CancelledError:
            await self._tasks.finish(
                self._store.record_attempt(stream, entry.entry_id, attempt - 1, 0),
                "uncount a delivery",
            )
            raise
        self._backoffs.pop(stream, None)
        if self._handler_outage.has_ended():
            Logger.info("a queue handler works again", queue=self._queue_name)
        if failure is not None:
            return await self._retry_later(stream, entry, attempt, failure)
        await self._store.remove(stream, [entry.entry_id])
        return _Outcome.DONE

    async def _call(self, message: QueueMessage) -> str | None:
        """Why the handler failed, None when it did its work. ServiceUnavailable and our own
        cancellation pass."""
        limit = asyncio.timeout(self._settings.handler_timeout_s)
        try:
            async with limit:
                return None if await self._handler(message) else "the handler returned false"
        except ServiceUnavailable:
            raise
        except asyncio.CancelledError:
            # The server stops (ours), or the handler cancelled something of its own (a failure).
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return "the handler was cancelled from within"
        except Exception as error:
            if limit.expired():
                return f"no end within {self._settings.handler_timeout_s:g} s"
            Logger.error(
                "a queue handler failed",
                queue=self._queue_name,
                type=message.message_type,
                exc_info=error,
            )
            return f"{type(error).__name__}: {error}"

    async def _retry_later(
        self, stream: EventStream, entry: QueueEntry, attempt: int, reason: str
    ) -> _Outcome:
        if attempt >= self._settings.max_attempts:
            return await self._give_up(
                stream, entry, attempt, f"{attempt} deliveries failed, the last: {reason}"
            )
        await self._store.record_attempt(stream, entry.entry_id, attempt, self._wait_s(attempt))
        return _Outcome.FAILED

    async def _give_up(
        self, stream: EventStream, entry: QueueEntry, attempt: int, reason: str
    ) -> _Outcome:
        try:
            await self._store.dead_letter(stream, [(entry.entry_id, reason[:1000])], {})
        except DeadLettersFull as full:
            # Back-pressure: it stays, and blocks its key until an operator has made room.
            Logger.error(
                "a message failed for good and its dead letters are full",
                queue=self._queue_name,
                reason=str(full),
            )
            await self._store.record_attempt(
                stream, entry.entry_id, attempt, self._settings.retry_cap_s
            )
            return _Outcome.FAILED
        Logger.error(
            "a message was moved to the dead letters",
            queue=self._queue_name,
            entry=entry.entry_id,
            type=entry.message_type,
            attempts=attempt,
        )
        return _Outcome.DEAD

    def _wait_s(self, attempt: int) -> float:
        return min(
            self._settings.retry_cap_s, self._settings.retry_base_s * 2.0 ** min(attempt - 1, 32)
        )


def _double(backoff: _Backoff, settings: QueueSettings) -> None:
    backoff.wait_s = min(settings.retry_cap_s, max(settings.retry_base_s, backoff.wait_s * 2))
    backoff.until_s = time.monotonic() + backoff.wait_s
