"""Writes one batch of a persistence stream to its shard, and acknowledges it.

decode → mark PROCESSING → one bulk procedure a message type → dead-letter what is refused → acknowledge.
Nothing leaves the stream before MySQL has committed, or refused it for good. Run twice, every step
has the same result, so a batch that was cut off anywhere is simply read again, by this process or
by another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence, Set
from typing import Any

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.logger import Logger
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry
from base_server.service.queue.queue_errors import DeadLettersFull
from base_server.service.queue.queue_service import QueueService
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.loader import ShardDatabase
from base_server.template.chat.cache.records import NO_EVENT
from base_server.template.chat.cache.scripts import SCRIPTS, Answer
from base_server.template.chat.chat_state_machine import ChatStateMachine
from base_server.template.chat.domain.events import (
    MESSAGE_DELETE,
    MESSAGE_SAVE,
    ROOM_CREATE,
    ROOM_DELETE,
    BadEvent,
    Event,
    read_event,
)
from base_server.template.chat.domain.message_format import tail
from base_server.template.chat.domain.metrics import BATCH_EVENTS, BATCH_SECONDS
from base_server.template.chat.domain.states import GONE, MessageState
from base_server.template.chat.persistence.batch_save import BEHIND, BatchSave
from base_server.template.chat.persistence.shard_marks import ShardMarks
from base_server.template.chat.rooms.directory import ChatDirectory
from base_server.template.chat.settings import ChatSettings

# How the state of a message from outside ends.
_END_STATES = {
    MESSAGE_SAVE: (MessageState.SENT,),
    MESSAGE_DELETE: (MessageState.DELETING, MessageState.DELETED),
}
_FOREIGN = "the room is another account's or another shard's"
_IN_ANOTHER_ROOM = "another room has a message of this id"
# A length of windows, for settle.lua.
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
        self._directory = directory
        self._queue = queue
        self._database = database
        self._cache = cache
        self._states = states
        self._settings = settings
        self._keys = ChatKeys(cache)
        self.marks = ShardMarks(queue, database, cache, settings)
        self._unfinished: dict[EventStream, tuple[str, Sequence[QueueEntry]]] = {}
        self._generations: dict[EventStream, str] = {}  # of Redis, as last seen

    async def write(self, stream: EventStream, entries: Sequence[QueueEntry]) -> int:
        """Write one batch of a stream's head, in order; how many events the stream has left.

        Raises ServiceUnavailable when nothing could be settled, or (DeadLettersFull) not all: what
        is not settled stays and is read again."""
        await self.write_lost(stream)
        return await self._write(stream, entries)

    @property
    def unfinished(self) -> Set[EventStream]:
        """Event streams whose last batch met an outage."""
        return self._unfinished.keys()

    async def write_lost(self, stream: EventStream) -> None:
        """Write the events of a batch that met an outage if Redis lost them meanwhile: only this
        process has them.

        The caller holds the stream. Raises as :meth:`write`."""
        if stream not in self._unfinished:
            return
        generation, entries = self._unfinished[stream]
        missing = await self._missing(stream, entries)
        # Asked after: a Redis that lost them between the two calls is another one by now.
        self._generations[stream] = (await self._known(stream))[0]
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
            self._generations[stream] = (await self._known(stream))[0]
        # Kept before anything can fail: a save from outside is looked for in the database first.
        self._unfinished[stream] = read_in or self._generations[stream], entries
        events, given_up = await self._read(stream, entries)
        going, behind, generation, known = await self._begin(stream, events)
        self._generations[stream] = generation
        generation = read_in or generation
        self._unfinished[stream] = generation, entries
        save = BatchSave(
            self._database, int(stream.name), going, self.marks.raised(stream, known, _last(going))
        )
        await save.run()
        refused = behind | save.refused
        written = [event for event in events if event.entry_id not in refused]
        older = (
            await self.marks.advance(stream, known, _last(written), save.mark) if written else None
        )
        await self._end_outside(written)
        given_up |= refused
        rooms = {event.entry_id: event.room_id for event in events}
        full = await self._dead_letter(stream, given_up, rooms, entries if read_in else ())
        # A database that came back older may lack what the windows have beyond their length.
        window = self._settings.window if older is None else _NOT_TRIMMED
        left = await self._acknowledge(stream, events, refused, save.renumbered, generation, window)
        if full is not None and read_in:
            # They wait nowhere else.
            self._unfinished[stream] = (
                generation,
                [entry for entry in entries if entry.entry_id in given_up],
            )
        else:
            self._unfinished.pop(stream, None)
        if older is not None:
            # Behind the batch: its events leave a full Redis first, and no repeat of the restore
            # writes them again.
            await self.marks.restore(stream, older, known, _last(written))
        BATCH_EVENTS.observe(len(entries))
        BATCH_SECONDS.observe(time.monotonic() - begun_s)
        if full is not None:
            raise full
        return left

    async def _read(
        self, stream: EventStream, entries: Sequence[QueueEntry]
    ) -> tuple[list[Event], dict[str, str]]:
        """The events, each with its place in its room; and what is none: entry id → reason."""
        events, given_up = [], {}
        rooms: dict[str, str] = {}  # message → its room
        for entry in entries:
            try:
                event = read_event(entry)
            except BadEvent as error:
                given_up[entry.entry_id] = str(error)
                continue
            if event.shard_id not in (0, int(stream.name)):
                # Sent by a process that did not know this queue's streams: here nobody would find
                # its row.
                given_up[entry.entry_id] = (
                    f"{event.kind}: shard_id {event.shard_id} is not the stream's, {stream.name}"
                )
                continue
            if (
                event.kind == MESSAGE_SAVE
                and event.seq is None
                and await self._moved_home(stream, event)
            ):
                continue
            if event.message_id:
                event.is_elsewhere = (
                    self._cache.partitions.of_id(event.message_id) != stream.partition
                )
            if event.kind == MESSAGE_SAVE:
                in_room = rooms.setdefault(event.message_id, event.room_id)
                if event.seq is None and (refused := await self._place(stream, event, in_room)):
                    given_up[entry.entry_id] = f"{MESSAGE_SAVE}: {refused}"
                    continue
            events.append(event)
        return events, given_up

    async def _dead_letter(
        self,
        stream: EventStream,
        given_up: dict[str, str],
        rooms: dict[str, str],
        lost: Sequence[QueueEntry],
    ) -> DeadLettersFull | None:
        """Move what cannot be written to the dead letters; the full ones, when they take no more.
        What is none of ours (not in ``rooms``) holds up no room. ``lost``: the batch, if Redis does
        not have it any more."""
        if not given_up:
            return None
        causes = [reason for reason in given_up.values() if reason != BEHIND]
        if causes:
            Logger.error(
                "events move to the dead letters",
                lane=stream.name,
                count=len(given_up),
                reason=causes[0],
            )
        groups = {id_: rooms[id_] for id_ in given_up if id_ in rooms}
        try:
            if lost:
                of_batch = [
                    (entry, given_up[entry.entry_id])
                    for entry in lost
                    if entry.entry_id in given_up
                ]
                await self._queue.add_dead_letters(stream, of_batch, groups)
            else:
                in_order = sorted(given_up.items(), key=lambda item: _order_of(item[0]))
                await self._queue.dead_letter(stream, in_order, groups)
        except DeadLettersFull as full:
            return full
        return None

    async def _begin(
        self, stream: EventStream, events: Sequence[Event]
    ) -> tuple[Sequence[Event], dict[str, str], str, str]:
        """Mark the events PROCESSING that may be written now; and those that may not, for their
        rooms have dead letters: entry id → reason. With them what :meth:`_known` says. One round
        trip, unless there are any."""
        room_ids = list({event.room_id for event in events})
        generation, known, *blocked = await self._mark_processing(stream, events, room_ids)
        blocked_rooms = set(blocked)
        going = [
            event for event in events if event.room_id not in blocked_rooms or event.is_replayed
        ]
        if blocked_rooms:
            await self._mark_processing(stream, going, [])
        for event in going:
            if event.kind == MESSAGE_SAVE and event.is_elsewhere:
                await self._states.move_message_state(event.message_id, MessageState.PROCESSING)
        going_ids = {event.entry_id for event in going}
        behind = {event.entry_id: BEHIND for event in events if event.entry_id not in going_ids}
        return going, behind, generation, known

    async def _mark_processing(
        self, stream: EventStream, events: Sequence[Event], room_ids: Sequence[str]
    ) -> list[str]:
        names = self._keys.partition(stream.partition)
        keys = [
            stream.blocked_key,
            names.generation,
            names.generation_run,
            names.backlog_watermark(int(stream.name)),
        ]
        for event in events:
            if event.kind == MESSAGE_SAVE and not event.is_elsewhere:
                keys.append(names.message_state(event.message_id))
            elif event.kind == ROOM_CREATE:
                keys.append(names.room(event.room_id).state)
        answer: list[str] = await self._cache.run_script(SCRIPTS["mark_processing"], keys, room_ids)
        return answer

    async def _moved_home(self, stream: EventStream, event: Event) -> bool:
        """A room with an id of a host's own was loaded, or created, in its account's partition
        after this was sent: the event goes to the end of the stream there. Without a note it stays
        where it is."""
        home = await self._directory.noted_home(event.room_id)
        if home is None or home == stream.partition or event.entry is None:
            return False
        await self._queue.move(
            event.entry, stream, self._queue.stream(stream.queue_name, home, stream.name)
        )
        return True

    async def _place(self, stream: EventStream, event: Event, in_room: str) -> str:
        """A save from outside: its seq from the database if it is there already, from the room if
        that is loaded, else (None) from the database when it is stored. ``in_room``: where the
        batch has a message of its id. Returns why it cannot be stored, '' when it can."""
        row, room_id, shard_id = event.row, event.room_id, int(stream.name)
        rooms = await self._call(shard_id, "fp_chat_room_owner_get", room_id)
        if rooms and int(rooms[0]["account_db_key"]) != row["account_db_key"]:
            return _FOREIGN
        if in_room != room_id:
            return _IN_ANOTHER_ROOM
        if stored := await self._call(shard_id, "fp_chat_message_locate", event.message_id):
            event.seq = row["seq"] = int(stored[0]["seq"])
            return "" if stored[0]["room_id"] == room_id else _IN_ANOTHER_ROOM
        keys = self._keys.partition(stream.partition)
        room = keys.room(room_id)
        at = row["created_at"].replace(" ", "T") + "+00:00"
        answer = await self._cache.run_script(
            SCRIPTS["adopt_message"],
            [
                room.record,
                room.messages,
                room.json,
                keys.generation,
                room.load_token,
            ],
            [
                room_id,
                event.message_id,
                event.entry_id,
                at,
                tail(row["sender_type"], row["content"], row["parent_message_id"], row["metadata"]),
                row["account_db_key"],
                shard_id,
            ],
        )
        if answer[0] == Answer.OK:
            event.seq = row["seq"] = int(answer[1])
        return _FOREIGN if answer[0] == Answer.REFUSED else ""

    async def _call(self, shard_id: int, procedure: str, *params: object) -> list[dict[str, Any]]:
        return await self._database.call_shard_procedure(shard_id, procedure, params)

    async def _known(self, stream: EventStream) -> tuple[str, str]:
        """The generation of Redis, which changes when the server is another one or was emptied; and
        the last event that Redis knows to be in the database, '' for none."""
        keys = self._keys.partition(stream.partition)
        (epoch, run), saved = await self._cache.execute_many(
            [
                ("MGET", keys.generation, keys.generation_run),
                ("HGET", keys.backlog_watermark(int(stream.name)), "saved"),
            ]
        )
        return f"{epoch or ''}|{run or ''}", saved or ""

    async def _acknowledge(
        self,
        stream: EventStream,
        events: Sequence[Event],
        refused: Container[str],
        renumbered: Container[str],
        generation: str,
        window: int,
    ) -> int:
        """Note what is in MySQL; how many events the stream has left. What is refused is not: its
        room may not expire."""
        written = [event for event in events if event.entry_id not in refused]
        settings, keys = self._settings, self._keys.partition(stream.partition)
        # A delete is always ours, so its state lies in the stream's partition, whatever the
        # message's id.
        saved = [
            event for event in written if event.kind == MESSAGE_SAVE and not event.is_elsewhere
        ]
        deleted = [event for event in written if event.kind == MESSAGE_DELETE]
        script_keys = [stream.key, stream.blocked_key, keys.backlog_watermark(int(stream.name))]
        script_keys += [keys.generation, keys.generation_run]
        script_keys += [keys.message_state(event.message_id) for event in (*saved, *deleted)]
        args: list[object] = [
            ",".join(event.entry_id for event in written),
            len(saved),
            len(deleted),
            window,
            settings.message_list_ttl_s * 1000,
            settings.room_list_ttl_s * 1000,
            settings.state_ttl_s * 1000,
            generation,
        ]
        for room_id, of_room in _grouped(events, lambda event: event.room_id):
            room = keys.room(room_id)
            script_keys += [room.record, room.messages, room.json, room.state]
            saved = [event for event in of_room if event.entry_id not in refused]
            notes = ("refused " if len(saved) < len(of_room) else "") + (
                "renumbered" if room_id in renumbered else ""
            )
            args += [
                "r",
                room_id,
                _room_change(saved),
                _last(saved),
                ",".join(_saved_seqs(saved)),
                notes,
            ]
        # Only a create, a question and a room's delete touch the account's list.
        touching = [event for event in written if event.account_id and _touches_account(event)]
        for account_id, of_account in _grouped(touching, lambda event: event.account_id):
            account = keys.account(account_id)
            script_keys += [account.record, account.rooms, account.order]
            args += ["a", _last(of_account)]
        left = await self._cache.run_script(SCRIPTS["settle"], script_keys, args)
        for event in written:
            if (
                event.kind == ROOM_DELETE
                and self._cache.partitions.is_own_id(event.room_id) is None
            ):
                home = self._keys.of_id(event.room_id).room_home(event.room_id)
                await self._cache.execute("EXPIRE", home, settings.state_ttl_s)
        return int(left)

    async def _end_outside(self, written: Iterable[Event]) -> None:
        """The states of messages from outside: no script of the room's partition reaches those that
        lie elsewhere, and one may have been set to DELETED before its save was read, when nobody
        knew its room. It is deleted before its save leaves the stream: an outage in between must
        not lose the delete."""
        for event in written:
            if not event.is_elsewhere and not event.is_from_outside:
                continue
            for state in _END_STATES[event.kind]:
                result = await self._states.move_message_state(event.message_id, state)
                if event.kind == MESSAGE_SAVE and result.before in GONE:
                    await self._states.delete_what_was(event.message_id, event.room_id)


def _grouped(
    events: Iterable[Event], key: Callable[[Event], str]
) -> Iterable[tuple[str, list[Event]]]:
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(key(event), []).append(event)
    return groups.items()


def _last(written: Sequence[Event]) -> str:
    return written[-1].entry_id if written else NO_EVENT


def _order_of(entry_id: str) -> tuple[int, int]:
    ms, _, n = entry_id.partition("-")
    return int(ms), int(n)


def _room_change(events: Sequence[Event]) -> str:
    kinds = {event.kind for event in events}
    if ROOM_DELETE in kinds:
        return "deleted"
    return "created" if ROOM_CREATE in kinds else ""


def _saved_seqs(events: Sequence[Event]) -> list[str]:
    """A message deleted before it was saved has its row too: a tombstone with its seq."""
    kinds = (MESSAGE_SAVE, MESSAGE_DELETE)
    return [str(event.seq) for event in events if event.kind in kinds and event.seq is not None]


def _touches_account(event: Event) -> bool:
    if event.kind == MESSAGE_SAVE:
        return bool(event.row["sender_type"] == "USER")
    return event.kind in (ROOM_CREATE, ROOM_DELETE)
