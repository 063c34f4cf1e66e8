"""Writes one batch of an event stream to its shard.

decode → mark PROCESSING → save (one bulk procedure a message type) → dead-letter → acknowledge.
Nothing leaves the stream before MySQL has committed it, or refused it permanently. Every step
has the same result when it is run twice, so a batch that was cut off anywhere is read again, by
this process or by another.

Three kinds of failure. Back-pressure: the dead letters are full, so what is refused stays in the
stream (DeadLettersFull, raised after everything else is acknowledged). Retry later: Redis or MySQL
is away (ServiceUnavailable), the whole batch stays. Poison: MySQL refuses the data of an event
itself; it and what comes later in its room move to the dead letters, all other rooms go on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.logger import Logger
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry
from base_server.service.queue.queue_errors import DeadLettersFull
from base_server.service.queue.queue_service import QueueService
from base_server.template.chat.chat_state_machine import ChatStateMachine
from base_server.template.chat.domain.metrics import BATCH_EVENTS, BATCH_SECONDS
from base_server.template.chat.domain.ports import ShardDatabase
from base_server.template.chat.persistence.batch_save import BEHIND, BatchSave
from base_server.template.chat.persistence.batch_states import BatchStates, last_event
from base_server.template.chat.persistence.decoder import EventDecoder
from base_server.template.chat.persistence.shard_marks import ShardMarks
from base_server.template.chat.rooms.directory import ChatDirectory
from base_server.template.chat.settings import ChatSettings

# A length of windows, for acknowledge_events.lua.
_NOT_TRIMMED = 2**31


class BatchWriter:
    """``cache`` is the bulk client: batches do not queue before requests."""

    def __init__(
        self,
        queue: QueueService,
        database: ShardDatabase,
        cache: CacheClient,
        states: ChatStateMachine,
        directory: ChatDirectory,
        settings: ChatSettings,
    ) -> None:
        self._queue = queue
        self._database = database
        self._cache = cache
        self._settings = settings
        self._decoder = EventDecoder(queue, database, cache, directory)
        self._states = BatchStates(cache, states, settings)
        self.marks = ShardMarks(queue, database, cache, settings)
        # Batches that met an outage, with the generation of the Redis that had them. This process
        # may be the only one that still has them.
        self._unfinished: dict[EventStream, tuple[str, Sequence[QueueEntry]]] = {}
        self._generations: dict[EventStream, str] = {}  # of Redis, as last seen

    async def write(self, stream: EventStream, entries: Sequence[QueueEntry]) -> int:
        """Write one batch of a stream's head, in order; how many events the stream has left.

        Raises ServiceUnavailable when nothing could be acknowledged, or (DeadLettersFull) not all:
        what is not acknowledged stays and is read again."""
        await self.write_lost(stream)
        return await self._write(stream, entries)

    @property
    def unfinished(self) -> Set[EventStream]:
        """Event streams whose last batch met an outage."""
        return self._unfinished.keys()

    async def write_lost(self, stream: EventStream) -> None:
        """Write the events of a batch that met an outage if Redis lost them meanwhile: only this
        process has them.

        The caller has the stream's lock. Raises as :meth:`write`."""
        if stream not in self._unfinished:
            return
        generation, entries = self._unfinished[stream]
        missing = await self._missing(stream, entries)
        # Asked after: a Redis that lost them between the two calls is another one by now.
        self._generations[stream] = (await self._states.server_state(stream))[0]
        if generation == self._generations[stream]:
            if len(missing) == len(entries):
                del self._unfinished[stream]  # another process wrote them
            return  # else they are read again, and kept here until then
        if lost := await self._missing(stream, entries):
            Logger.warn(
                "a batch is written that Redis lost",
                lane=stream.name,
                partition=stream.partition,
                count=len(lost),
            )
            await self._write(stream, lost, generation)
        self._unfinished.pop(stream, None)

    async def _missing(
        self, stream: EventStream, entries: Sequence[QueueEntry]
    ) -> list[QueueEntry]:
        """Those of ``entries`` that are not in the stream."""
        found = await self._cache.execute_many(
            [("XRANGE", stream.key, entry.entry_id, entry.entry_id) for entry in entries]
        )
        return [entry for entry, there in zip(entries, found, strict=True) if not there]

    async def _write(
        self, stream: EventStream, entries: Sequence[QueueEntry], read_in: str = ""
    ) -> int:
        """``read_in``: the generation of Redis that had the entries, if it is gone."""
        begun_s = time.monotonic()
        if stream not in self._generations:
            self._generations[stream] = (await self._states.server_state(stream))[0]
        # Remembered before anything can fail: to decode a save from outside the database is asked.
        self._unfinished[stream] = read_in or self._generations[stream], entries
        events, poison = await self._decoder.decode(stream, entries)

        batch = await self._states.begin(stream, events)
        self._generations[stream] = batch.generation
        generation = read_in or batch.generation
        self._unfinished[stream] = generation, entries

        raised = self.marks.raised(stream, batch.saved, last_event(batch.events))
        save = BatchSave(self._database, int(stream.name), batch.events, raised)
        await save.run()
        refused = dict.fromkeys(batch.blocked, BEHIND) | save.refused
        written = [event for event in events if event.entry_id not in refused]
        # Before the batch is acknowledged: from then on Redis says that the database has it.
        older_mark = None
        if written:
            older_mark = await self.marks.advance(
                stream, batch.saved, last_event(written), save.mark
            )

        await self._states.end_outside(written)
        poison |= refused
        # What is no event of ours blocks no room.
        rooms = {event.entry_id: event.room_id for event in events if event.entry_id in poison}
        full = await self._dead_letter(stream, poison, rooms, entries if read_in else ())
        # A database that came back older may lack what the windows have beyond their length.
        window = self._settings.window if older_mark is None else _NOT_TRIMMED
        left = await self._states.acknowledge(
            stream, events, refused, save.renumbered, generation, window
        )
        if full is not None and read_in:
            # They wait nowhere else.
            waiting = [entry for entry in entries if entry.entry_id in poison]
            self._unfinished[stream] = generation, waiting
        else:
            self._unfinished.pop(stream, None)

        if older_mark is not None:
            # After the batch: its events leave a full Redis first, and no repeat of the restore
            # writes them again.
            await self.marks.restore(stream, older_mark, batch.saved, last_event(written))
        BATCH_EVENTS.observe(len(entries))
        BATCH_SECONDS.observe(time.monotonic() - begun_s)
        if full is not None:
            raise full
        return left

    async def _dead_letter(
        self,
        stream: EventStream,
        poison: Mapping[str, str],
        rooms: Mapping[str, str],
        lost: Sequence[QueueEntry],
    ) -> DeadLettersFull | None:
        """Move what cannot be written (entry id → reason) to the dead letters, and block its room;
        returns the error when they take no more. ``lost``: the batch, if Redis does not have it any
        more."""
        if not poison:
            return None
        causes = [reason for reason in poison.values() if reason != BEHIND]
        if causes:
            Logger.error(
                "events move to the dead letters",
                lane=stream.name,
                count=len(poison),
                reason=causes[0],
            )
        try:
            if lost:
                of_batch = [
                    (entry, poison[entry.entry_id]) for entry in lost if entry.entry_id in poison
                ]
                await self._queue.add_dead_letters(stream, of_batch, rooms)
            else:
                in_order = sorted(poison.items(), key=lambda item: _order_of(item[0]))
                await self._queue.dead_letter(stream, in_order, rooms)
        except DeadLettersFull as full:
            return full
        return None


def _order_of(entry_id: str) -> tuple[int, int]:
    ms, _, n = entry_id.partition("-")
    return int(ms), int(n)
