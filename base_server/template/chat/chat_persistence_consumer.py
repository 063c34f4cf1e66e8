"""ChatPersistenceConsumer: has the chat_persistence streams written, at every interval and at once
when a batch is full.

When and by which process; what a batch is and how it is written is in
``persistence/batch_writer.py``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from base_server.service.core.errors import ServiceError, ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.outage_log import OutageLog
from base_server.service.core.tasks import TaskRegistry
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry
from base_server.service.queue.queue_service import QueueService
from base_server.service.scheduler.base_scheduler import ScheduleJob, ScheduleType
from base_server.service.scheduler.scheduler_service import SchedulerService
from base_server.template.chat.domain.events import QUEUE_NAME
from base_server.template.chat.persistence.batch_writer import BatchWriter
from base_server.template.chat.persistence.older_shards import OlderShard
from base_server.template.chat.settings import ChatSettings

_BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


@dataclass
class _Backoff:
    """Of a stream whose last batches failed, so many in a row; it waits until then (monotonic)."""

    failures: int
    until_s: float


@dataclass(frozen=True)
class ConsumerHealth:
    """``silent_s``: seconds since the last batch was written (since start when none was), or since
    a stream that this process is at work on got any further, whichever is longer. ``older_shards``:
    see ShardMarks.alarms."""

    backlog: int
    largest_stream: int
    silent_s: float
    last_error: str
    dead: int
    older_shards: Sequence[OlderShard]


class ChatPersistenceConsumer:
    """One per process. :meth:`start` puts its three jobs into the scheduler."""

    def __init__(
        self,
        queue: QueueService,
        writer: BatchWriter,
        scheduler: SchedulerService,
        settings: ChatSettings,
        tasks: TaskRegistry,
    ) -> None:
        self.consumer_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._queue = queue
        self.writer = writer
        self._scheduler = scheduler
        self._settings = settings
        self._tasks = tasks
        self.draining: dict[EventStream, asyncio.Task[None]] = {}
        self.backoffs: dict[EventStream, _Backoff] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}  # by stream name: the shard
        self._last_progress = time.monotonic()
        self._marks_outage = OutageLog()
        self._outages: dict[str, OutageLog] = {}  # by stream name: the shard
        # Of those of `draining` that have a slot.
        self._stream_progress: dict[EventStream, float] = {}
        self._last_error = ""
        self._stopped = False
        writer.marks.on_progress(self._got_further)

    async def start(self) -> None:
        """Write at every batch interval; clean the buffers and look at the shards' marks at their
        own.

        The marks are compared first: a room whose database came back older must not be read from
        it."""
        settings = self._settings
        await self.check_marks()
        jobs = (
            ("batch", settings.batch_interval_s, self.write_waiting),
            ("cleanup", settings.buffer_cleanup_interval_s, self.clean_buffers),
            ("marks", settings.mark_check_interval_s, self.check_marks),
        )
        for name, interval_s, callback in jobs:
            await self._scheduler.add_job(
                ScheduleJob(
                    job_id=f"chat_persistence_{name}:{self.consumer_id}",
                    name=f"chat persistence {name}",
                    schedule_type=ScheduleType.INTERVAL,
                    schedule_value=interval_s,
                    callback=callback,
                )
            )

    async def stop(self) -> None:
        """Take the jobs out, write what waits once more, and give the locks back."""
        for name in ("batch", "cleanup", "marks"):
            await self._scheduler.remove_job(f"chat_persistence_{name}:{self.consumer_id}")
        try:
            await asyncio.gather(*self.draining.values(), return_exceptions=True)
            await self._begin_waiting(lock_timeout_s=0)
        except ServiceUnavailable as outage:
            Logger.warn("backlog left for the next start", reason=outage.reason)
        self._stopped = True
        await asyncio.gather(*self.draining.values(), return_exceptions=True)

    async def write_waiting(self) -> None:
        """Begin to write every stream that has events; a stream locked by another process delays no
        other stream."""
        await self._begin_waiting(self._settings.lock_timeout_s)

    async def clean_buffers(self) -> None:
        """Forget the backoffs of streams that are empty again."""
        backlog = await self._queue.backlog(QUEUE_NAME)
        self.backoffs = {
            stream: backoff for stream, backoff in self.backoffs.items() if backlog.get(stream) != 0
        }

    async def check_marks(self) -> None:
        """Check whether a shard's database came back older, also where nothing is written."""
        shard_ids = {int(stream.name) for stream in self._queue.streams(QUEUE_NAME)}
        try:
            await self.writer.marks.check(sorted(shard_ids))
        except ServiceUnavailable as outage:
            if self._marks_outage.is_due():
                Logger.warn("the shards' marks could not be compared", reason=outage.reason)
        else:
            if self._marks_outage.has_ended():
                Logger.info("the shards' marks are compared again")

    def flush(self, partition: int, shard_id: int) -> None:
        """Start writing one stream now; does not wait."""
        self._begin(self._queue.stream(QUEUE_NAME, partition, str(shard_id)), lock_timeout_s=0)

    async def health(self) -> ConsumerHealth:
        """How much waits, and how long nothing was written."""
        backlog = await self._queue.backlog(QUEUE_NAME)
        silent_s = time.monotonic() - min([self._last_progress, *self._stream_progress.values()])
        dead = await self._queue.dead_letter_count(QUEUE_NAME)
        largest = max(backlog.values(), default=0)
        older = await self.writer.marks.alarms()
        return ConsumerHealth(
            sum(backlog.values()), largest, silent_s, self._last_error, dead, older
        )

    async def _begin_waiting(self, lock_timeout_s: float) -> None:
        backlog = await self._queue.backlog(QUEUE_NAME)
        if not any(backlog.values()):
            self._last_progress = time.monotonic()
        for stream, waiting in backlog.items():
            if waiting or stream in self.writer.unfinished:
                self._begin(stream, lock_timeout_s)

    def _begin(self, stream: EventStream, lock_timeout_s: float) -> None:
        """Drain a stream in a task, unless it backs off or is drained here already."""
        backoff = self.backoffs.get(stream)
        if (
            self._stopped
            or stream in self.draining
            or (backoff is not None and time.monotonic() < backoff.until_s)
        ):
            return
        task = self._tasks.spawn(
            self.drain(stream, lock_timeout_s), f"drain {stream.name}/{stream.partition}"
        )
        self.draining[stream] = task
        task.add_done_callback(lambda _: self._drained(stream))

    def _drained(self, stream: EventStream) -> None:
        self.draining.pop(stream, None)
        self._stream_progress.pop(stream, None)

    async def drain(self, stream: EventStream, lock_timeout_s: float) -> None:
        """Write a stream while a full batch waits. After a failure, whatever it was, it backs
        off and is tried again."""
        slots = self._slots.setdefault(stream.name, asyncio.Semaphore(self._settings.lanes_at_once))
        try:
            async with slots:
                self._stream_progress[stream] = time.monotonic()
                await self._queue.drain_stream(
                    stream,
                    self._write,
                    batch=self._settings.max_batch,
                    batch_bytes=self._settings.max_batch_bytes,
                    lock_ttl_s=self._settings.lock_ttl_s,
                    lock_timeout_s=lock_timeout_s,
                    # Under the lock: another process may write the same rooms at this moment.
                    begin=self.writer.write_lost,
                )
        except ServiceError as error:
            wait_s = self._back_off(stream, error)
            if self._outages.setdefault(stream.name, OutageLog()).is_due():
                Logger.warn(
                    "batch not written, it stays in the queue",
                    lane=stream.name,
                    retry_in_s=wait_s,
                    error=str(error),
                )
        except Exception as error:
            wait_s = self._back_off(stream, error)
            Logger.error(
                "batch failed, it stays in the queue",
                lane=stream.name,
                retry_in_s=wait_s,
                exc_info=error,
            )
        else:
            self.backoffs.pop(stream, None)
            self._log_end_of_outage(stream.name)

    def _log_end_of_outage(self, name: str) -> None:
        """Of a shard: when the last of its streams that failed was written."""
        if any(stream.name == name for stream in self.backoffs):
            return
        if name in self._outages and self._outages[name].has_ended():
            Logger.info("batches are written again", lane=name)

    def _got_further(self, stream: EventStream) -> None:
        self._last_progress = time.monotonic()
        if stream in self.draining:
            self._stream_progress[stream] = self._last_progress

    def _back_off(self, stream: EventStream, error: Exception) -> float:
        """Leave the stream alone, longer after every failure in a row; returns for how many
        seconds."""
        backoff = self.backoffs.get(stream)
        failures = backoff.failures + 1 if backoff else 1
        wait_s = _BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1]
        self.backoffs[stream] = _Backoff(failures, time.monotonic() + wait_s)
        self._last_error = str(error)
        return wait_s

    async def _write(self, stream: EventStream, entries: Sequence[QueueEntry]) -> bool:
        """Write one batch; is the next one full too? If not, it waits for the interval, or to be
        full."""
        left = await self.writer.write(stream, entries)
        self._got_further(stream)
        return left >= self._settings.batch_size
