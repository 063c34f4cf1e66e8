"""Puts the events of one batch into their shard, and finds those that it will not take.

An event is poison only if the database refuses it alone, with an error about its data, while
another statement on that shard succeeds. What comes later in its room is not written any more: it
waits behind it, in order. Every other room goes on. Whatever else fails is an outage: raised, and
the whole batch is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from base_server.service.core.errors import DataRefused
from base_server.service.core.logger import Logger
from base_server.template.chat.domain.events import (
    MESSAGE_COLUMNS,
    MESSAGE_SAVE,
    WRITE_ORDER,
    Event,
)
from base_server.template.chat.domain.message_format import to_json
from base_server.template.chat.domain.ports import ShardDatabase
from base_server.template.chat.persistence.procedures import ShardProcedures

# In metadata, as the scripts and procedures know it.
_INTERRUPTED = '"finish_reason":"interrupted"'
BEHIND = "waits behind the dead letters of its room"

# max_allowed_packet is 16 MiB where nobody set it; JSON may be escaped on the way.
_MAX_CALL_BYTES = 4 * 1024 * 1024


class BatchSave:
    """One batch of one shard. :attr:`refused`: entry id → reason, of what is not in the database.

    :attr:`renumbered`: rooms in which another message had an event's seq, stored by a batch of a
    Redis that was lost or replaced. Their events took the next free numbers, all of them by the
    same distance, so that the order and each reply's position directly after its question stay. Run
    again, a stored event shows the distance.

    ``raised``: stream, known and mark, as ``fp_stream_mark_raise`` takes them. :attr:`mark`: its
    answer when the mark was raised in the transaction of the batch, which saves a commit; None when
    that is still to be done.
    """

    def __init__(
        self,
        database: ShardDatabase,
        shard_id: int,
        events: Sequence[Event],
        raised: tuple[int, int, int],
    ) -> None:
        self.mark: int | None = None
        self._raised = raised
        self.refused: dict[str, str] = {}
        self._shard = ShardProcedures(database, shard_id)
        self._events = events
        self._index = {event.entry_id: index for index, event in enumerate(events)}
        self._shift: dict[str, int] = {}  # room → what is added to the numbers of its events
        self._stopped: dict[str, int] = {}  # room → index of its first refused event

    @property
    def renumbered(self) -> Set[str]:
        return self._shift.keys()

    async def run(self) -> None:
        """One call per message type, in the order that the types need; row by row only when that is
        refused."""
        for kind in WRITE_ORDER:
            placed = [
                event for event in self._events if event.kind == kind and not _is_single(event)
            ]
            for part, rows in _by_size(placed):
                await self._save(kind, part, rows)
        for event in self._events:
            if _is_single(event):
                await self._save_alone(event)

    async def _save(self, kind: str, events: Sequence[Event], rows: Sequence[str]) -> None:
        going = [
            (event, row)
            for event, row in zip(events, rows, strict=True)
            if not self._is_behind(event)
        ]
        if not self._shift.keys().isdisjoint(event.room_id for event, _ in going):
            await self._save_each(event for event, _ in going)
            return
        if not going:
            return
        saved_rows = [row for _, row in going]
        is_whole = kind == MESSAGE_SAVE and len(going) == len(self._events)
        if is_whole:
            saved_rows[0] = f"{saved_rows[0][:-1]},{','.join(map(str, self._raised))}]"
        try:
            answer = await self._shard.write_batch(kind, saved_rows)
            if is_whole:
                self.mark = int(answer[0]["mark"])
        except DataRefused:
            await self._save_each(event for event, _ in going)

    async def _save_each(self, events: Iterable[Event]) -> None:
        for event in events:
            await self._save_alone(event)

    async def _save_alone(self, event: Event) -> None:
        if self._is_behind(event):
            return
        try:
            await self._call_alone(event)
        except DataRefused:
            # Poison, or an outage? Raises ServiceUnavailable if it is the latter.
            await self._shard.find_room(event.room_id)
            try:
                # The first refusal may have been another process writing the same row in the same
                # moment.
                await self._call_alone(event)
            except DataRefused as error:
                self.refused[event.entry_id] = f"{event.kind} refused by the database: {error}"
                self._stopped[event.room_id] = self._index[event.entry_id]

    def _is_behind(self, event: Event) -> bool:
        """Whether an earlier event of its room was refused: then it is refused too."""
        is_behind = self._index[event.entry_id] > self._stopped.get(
            event.room_id, len(self._events)
        )
        if is_behind:
            self.refused[event.entry_id] = BEHIND
        return is_behind

    async def _call_alone(self, event: Event) -> None:
        if event.kind != MESSAGE_SAVE:
            await self._shard.write_batch(event.kind, [_row_json(event)])
            return
        shift = self._shift.get(event.room_id, 0)
        row = event.row if event.seq is None else event.row | {"seq": event.seq + shift}
        stored = await self._shard.save_message(row)
        if event.seq is None:
            event.seq = stored
        elif stored == 0:
            # It stood in for a reply that has come meanwhile. The room is read again: Redis may
            # know only this one.
            self._shift.setdefault(event.room_id, 0)
        elif stored != event.seq + shift:
            self._shift[event.room_id] = max(stored - event.seq, 0)
            # Redis keeps the number that it gave until the room is loaded again
            # (acknowledge_events.lua).
            Logger.warn(
                "a message took another number than Redis gave it: that one was taken",
                room_id=event.room_id,
                message_id=event.message_id,
                seq=stored,
                given=event.seq,
            )


def _is_single(event: Event) -> bool:
    """A save whose number in its room the database is to give; and one of a reply that may stand in
    for another, which the bulk procedure would store beside it (an interrupted reply without text
    is rare)."""
    if event.kind != MESSAGE_SAVE:
        return False
    row = event.row
    is_empty_reply = row["sender_type"] == "AI" and not row["content"]
    return event.seq is None or (is_empty_reply and _INTERRUPTED in (row["metadata"] or ""))


def _row_json(event: Event) -> str:
    """The event's row as its bulk procedure takes it: a message as an array of its columns, all
    else as an object."""
    if event.kind == MESSAGE_SAVE:
        return to_json([event.row[name] for name in MESSAGE_COLUMNS])
    return to_json(event.row)


def _by_size(events: Sequence[Event]) -> Iterable[tuple[Sequence[Event], Sequence[str]]]:
    """The events with their rows, in parts that fit into one packet of the database; nearly always
    it is one part."""
    rows = [_row_json(event) for event in events]
    start = size = 0
    for index, row in enumerate(rows):
        row_bytes = len(row.encode())
        if index > start and size + row_bytes > _MAX_CALL_BYTES:
            yield events[start:index], rows[start:index]
            start, size = index, 0
        size += row_bytes
    if events:
        yield events[start:], rows[start:]
