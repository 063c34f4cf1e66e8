"""Finds a shard database that came back older (a dump, a replica that was behind).

Each shard keeps a mark for each event stream: how far the stream is written. It is raised with
every batch, or right after it, before the batch is acknowledged in Redis, which keeps the mark too.
A database whose mark is below the one in Redis was put back to an earlier time. Replication and
dumps keep the order of commits: where a mark is there, everything before it is. The mark of such a
database stays where it is until everything is queued again (``shard_restore``): a process that dies
meanwhile leaves it to be found once more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.queue_service import QueueService
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.domain.events import QUEUE_NAME
from base_server.template.chat.domain.ports import ShardDatabase
from base_server.template.chat.persistence.older_shards import OlderShard, OlderShards, mark_of
from base_server.template.chat.persistence.procedures import ShardProcedures
from base_server.template.chat.persistence.shard_restore import ShardRestore
from base_server.template.chat.settings import ChatSettings


class ShardMarks:
    """``cache`` is the bulk client."""

    def __init__(
        self,
        queue: QueueService,
        database: ShardDatabase,
        cache: CacheClient,
        settings: ChatSettings,
    ) -> None:
        self._queue = queue
        self._database = database
        self._cache = cache
        self._settings = settings
        self._keys = ChatKeys(cache)
        self._older = OlderShards(cache)
        self._restore = ShardRestore(queue, database, cache, settings)

    def on_progress(self, progress: Callable[[EventStream], None]) -> None:
        """``progress(stream)`` is called whenever a restore has done another room."""
        self._restore.on_progress(progress)

    async def alarms(self) -> list[OlderShard]:
        """The shards that came back older, found by any process, as long as an operator should
        know."""
        return await self._older.alarms(
            sorted({int(stream.name) for stream in self._queue.streams(QUEUE_NAME)})
        )

    @staticmethod
    def raised(stream: EventStream, known: str, last: str) -> tuple[int, int, int]:
        """What a procedure takes to raise the stream's mark to the event ``last``; ``known`` as in
        :meth:`advance`."""
        return stream.partition, mark_of(known), mark_of(last)

    async def advance(
        self, stream: EventStream, known: str, last: str, mark: int | None = None
    ) -> int | None:
        """A batch up to the event ``last`` is in the database. ``known``: the last one written
        before, as Redis knew it when the batch was read. ``mark``: what the database answered, if
        the mark was raised together with the batch. Returns the mark of a database that came back
        older, else None. The caller has the stream's lock."""
        if mark is None:
            mark = await self._of(stream).raise_mark(*self.raised(stream, known, last))
        return mark if mark < mark_of(known) else None

    async def restore(self, stream: EventStream, mark: int, known: str, last: str) -> None:
        """Queue again what the database lacks, after :meth:`advance` said so. The caller has
        the stream's lock, and has acknowledged its batch without trimming windows: what they have
        may be nowhere else."""
        await self._restore.run(stream, mark, mark_of(known))
        # What was lost is in the stream now, or reported: from here on the database is as far as
        # Redis. Known 0 raises the mark whatever it is.
        raised = max(mark_of(known), mark_of(last))
        await self._of(stream).raise_mark(stream.partition, 0, raised)
        await self._restore.forget(stream, mark)

    async def check(self, shard_ids: Iterable[int]) -> None:
        """Compare all marks; streams in which nothing happens too. A shard that is away is not
        looked at."""
        for shard_id in shard_ids:
            try:
                marks = await ShardProcedures(self._database, shard_id).marks()
            except ServiceUnavailable:
                continue
            streams = [
                stream for stream in self._queue.streams(QUEUE_NAME) if stream.name == str(shard_id)
            ]
            known = await self._cache.ask_partitions(
                [stream.partition for stream in streams], self._saved_in(shard_id)
            )
            for stream in streams:
                saved = known.get(stream.partition)
                if saved and marks.get(stream.partition, 0) < mark_of(saved):
                    await self.check_stream(shard_id, stream.partition)

    async def check_stream(self, shard_id: int, partition: int) -> None:
        """Compare one mark; where it is too low, under the stream's lock. Raises
        ServiceUnavailable."""
        stream = self._queue.stream(QUEUE_NAME, partition, str(shard_id))
        known = mark_of(await self._saved_in(shard_id)(partition) or "")
        # Read, not raised: a shard that takes no writes now is no reason not to load from it.
        if not known or (await self._of(stream).marks()).get(partition, 0) >= known:
            return
        async with self._queue.acquired(stream, self._settings.lock_timeout_s):
            # Read again: another process may have found it first.
            saved = await self._saved_in(shard_id)(partition) or ""
            if saved and (mark := await self.advance(stream, saved, saved)) is not None:
                await self.restore(stream, mark, saved, saved)

    def _saved_in(self, shard_id: int) -> Callable[[int], Awaitable[str | None]]:
        """By partition: the last event of its stream that Redis knows to be in the shard's
        database."""
        return lambda p: self._cache.execute(
            "HGET", self._keys.partition(p).backlog_watermark(shard_id), "saved"
        )

    def _of(self, stream: EventStream) -> ShardProcedures:
        return ShardProcedures(self._database, int(stream.name))
