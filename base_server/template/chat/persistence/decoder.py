"""Reads the events of a batch, and finds the entries that are no events (poison): step "decode" of
the batch writer.

A save from outside (a host's own handler sent it) has no place in its room yet: it gets its seq
here.
"""

from __future__ import annotations

from collections.abc import Sequence

from base_server.service.cache.cache_client import CacheClient
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry
from base_server.service.queue.queue_service import QueueService
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.scripts import StateRefused
from base_server.template.chat.domain.events import MESSAGE_SAVE, BadEvent, Event, read_event
from base_server.template.chat.domain.message_format import message_body
from base_server.template.chat.domain.ports import ShardDatabase
from base_server.template.chat.persistence.calls import AssignSeq
from base_server.template.chat.persistence.procedures import ShardProcedures
from base_server.template.chat.rooms.directory import ChatDirectory

_FOREIGN = "the room is another account's or another shard's"
_IN_ANOTHER_ROOM = "another room has a message of this id"


class EventDecoder:
    """``cache`` is the bulk client."""

    def __init__(
        self,
        queue: QueueService,
        database: ShardDatabase,
        cache: CacheClient,
        directory: ChatDirectory,
    ) -> None:
        self._queue = queue
        self._database = database
        self._cache = cache
        self._directory = directory
        self._keys = ChatKeys(cache)

    async def decode(
        self, stream: EventStream, entries: Sequence[QueueEntry]
    ) -> tuple[list[Event], dict[str, str]]:
        """The events, each with its seq in its room; and the poison: entry id → reason."""
        events, poison = [], {}
        rooms: dict[str, str] = {}  # message → its room
        for entry in entries:
            try:
                event = read_event(entry)
            except BadEvent as error:
                poison[entry.entry_id] = str(error)
                continue
            if event.shard_id not in (0, int(stream.name)):
                # Sent by a process that did not know this queue's streams: here nobody would find
                # its row.
                poison[entry.entry_id] = (
                    f"{event.kind}: shard_id {event.shard_id} is not the stream's, {stream.name}"
                )
                continue
            # Our scripts give a message its seq as they queue it.
            is_from_host = event.kind == MESSAGE_SAVE and event.seq is None
            if is_from_host and await self._moved_home(stream, event):
                continue
            if event.message_id:
                id_partition = self._cache.partitions.of_id(event.message_id)
                event.is_elsewhere = id_partition != stream.partition
            if event.kind == MESSAGE_SAVE:
                # Within the batch too: MySQL has neither of two messages with one id yet.
                in_room = rooms.setdefault(event.message_id, event.room_id)
                if is_from_host and (refused := await self._assign_seq(stream, event, in_room)):
                    poison[entry.entry_id] = f"{MESSAGE_SAVE}: {refused}"
                    continue
            events.append(event)
        return events, poison

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

    async def _assign_seq(self, stream: EventStream, event: Event, in_room: str) -> str:
        """A save from outside: its seq from the database if it is there already, from the room if
        that is loaded, else (None) from the database when it is stored. ``in_room``: where the
        batch has a message of its id. Returns why it cannot be stored, '' when it can."""
        row, room_id, shard_id = event.row, event.room_id, int(stream.name)
        shard = ShardProcedures(self._database, shard_id)
        if await shard.find_room_owner(room_id) not in (None, row["account_db_key"]):
            return _FOREIGN
        if in_room != room_id:
            return _IN_ANOTHER_ROOM
        # The batch may run for the second time: then its row is there, with the seq of the first.
        if (found := await shard.find_message(event.message_id)) is not None:
            stored_in, event.seq = found
            row["seq"] = event.seq
            return "" if stored_in == room_id else _IN_ANOTHER_ROOM
        keys = self._keys.partition(stream.partition)
        call = AssignSeq(
            room=keys.room(room_id),
            partition=keys,
            room_id=room_id,
            message_id=event.message_id,
            event_id=event.entry_id,
            at=row["created_at"].replace(" ", "T") + "+00:00",
            message_body=message_body(
                row["sender_type"], row["content"], row["parent_message_id"], row["metadata"]
            ),
            account_db_key=row["account_db_key"],
            shard_id=shard_id,
        )
        match await call.run(self._cache):
            case int(seq):
                event.seq = row["seq"] = seq
            case StateRefused():
                return _FOREIGN
        return ""
