"""Events that a host sends into chat_persistence: checked and applied when they are sent, as the
handlers apply theirs.

A rename, a create or a delete runs the script of the handler that does the same, so it
means the same for the list, the row and the order among our own events. A save waits in its stream,
as the user's document has it, and gets its seq when it is read (``persistence/decoder.py``). An
unknown type waits too, and goes to the dead letters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueMessage
from base_server.service.queue.queue_errors import QueueFull
from base_server.template.base.errors import ApiError, RoomNotFound, ServiceDown
from base_server.template.chat.cache.script_runner import RoomGone
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import (
    MESSAGE_DELETE,
    MESSAGE_SAVE,
    QUEUE_NAME,
    ROOM_CREATE,
    ROOM_DELETE,
    BadEvent,
    Event,
    check_event,
    kind_of,
)
from base_server.template.chat.domain.states import RoomState
from base_server.template.chat.persistence.deletes import ChatDeletes, DeleteOutcome
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.rooms.directory import ChatDirectory, FoundRoom
from base_server.template.chat.rooms.repository import RoomRepository


class HostEvents:
    """The intake of the chat's queue (``QueueService.declare``). Raises ValueError for what cannot
    be understood."""

    def __init__(
        self,
        directory: ChatDirectory,
        rooms: RoomRepository,
        deletes: ChatDeletes,
        streams: EventStreams,
        *,
        account_partition: Callable[[str], int],
        default_shard_id: int,
        load_timeout_s: float,
    ) -> None:
        self._directory = directory
        self._rooms = rooms
        self._deletes = deletes
        self._streams = streams
        self._account_partition = account_partition
        self._default_shard_id = default_shard_id
        self._load_timeout_s = load_timeout_s

    async def __call__(self, message: QueueMessage) -> EventStream | None:
        data = message.payload
        if not isinstance(data, dict) or (kind := kind_of(message.message_type, data)) is None:
            return self._streams.route(message)
        try:
            event = check_event(kind, data, round(time.time() * 1000))
            shard_id = await self._shard_of(kind, event, data)
        except BadEvent as error:
            raise ValueError(str(error)) from None
        try:
            return await self._accept(kind, event, shard_id, message)
        except ServiceDown as refusal:
            raise QueueFull(QUEUE_NAME, self._streams.max_backlog) from refusal
        except ApiError as refusal:
            raise ValueError(f"{kind}: {refusal}") from refusal

    async def _accept(
        self, kind: str, event: Event, shard_id: int, message: QueueMessage
    ) -> EventStream | None:
        if kind == MESSAGE_SAVE:
            return self._streams.stream(await self._directory.partition_of(event.room_id), shard_id)
        if kind == MESSAGE_DELETE:
            await self._delete_message(event, shard_id)
            return None
        if kind == ROOM_DELETE:
            return await self._delete_room(event, shard_id)
        db_key = event.row["account_db_key"]
        try:
            caller = await self._caller_of(event, shard_id)
            if kind == ROOM_CREATE:
                row = event.row
                created_at = datetime.fromisoformat(row["created_at"]).replace(tzinfo=UTC)
                await self._rooms.adopt(
                    caller, event.room_id, row["ai_persona"], row["title"], created_at
                )
            else:
                await self._rooms.rename(
                    caller, event.room_id, event.row["title"], str(message.message_id)
                )
        except RoomGone:
            pass  # A delete wins over what comes after it.
        except RoomNotFound:
            raise ValueError(
                f"{kind}: room_id {event.room_id} is no room of account_db_key {db_key}"
            ) from None
        return None

    async def _delete_room(self, event: Event, shard_id: int) -> EventStream | None:
        db_key = event.row["account_db_key"]
        deletion = await self._deletes.room(event.room_id, RoomState.DELETING, db_key=db_key)
        if deletion.outcome is DeleteOutcome.FOREIGN:
            raise ValueError(
                f"{ROOM_DELETE}: room_id {event.room_id} is no room of account_db_key {db_key}"
            )
        if deletion.outcome is DeleteOutcome.UNKNOWN:
            # Its messages may have come before it: the row becomes a tombstone that nothing lifts.
            return self._streams.stream(await self._directory.partition_of(event.room_id), shard_id)
        return None

    async def _delete_message(self, event: Event, shard_id: int) -> None:
        db_key = event.row["account_db_key"]
        deletion = await self._deletes.message(
            event.message_id, None, room_id=event.room_id, db_key=db_key
        )
        if deletion.outcome is DeleteOutcome.UNKNOWN:
            # Its save may have been sent just before, and have no seq yet.
            partition = await self._directory.partition_of(event.room_id)
            await self._streams.wait_until_written(partition, shard_id, self._load_timeout_s)
            deletion = await self._deletes.message(
                event.message_id, None, room_id=event.room_id, db_key=db_key
            )
        if deletion.outcome in (DeleteOutcome.FOREIGN, DeleteOutcome.UNKNOWN):
            where = f"room {event.room_id} of account_db_key {db_key}"
            raise ValueError(
                f"{MESSAGE_DELETE}: message_id {event.message_id} is no message in {where}"
            )

    async def _caller_of(self, event: Event, shard_id: int) -> Caller:
        """Whose room the event is about: its record says it, or the event itself."""
        db_key, account_id = event.row["account_db_key"], event.account_id
        partition = await self._directory.partition_of(event.room_id)
        if event.kind == ROOM_CREATE or not (
            found := await self._directory.recorded_room(event.room_id, partition)
        ):
            if account_id and not await self._directory.has_number(account_id, db_key):
                raise ValueError(
                    f"{event.kind}: account_id {account_id!r:.80} is not account_db_key {db_key}'s"
                )
            account_id = account_id or await self._directory.account_name(db_key, partition)
            if not account_id:
                raise ValueError(
                    f"{event.kind}: account_id is missing, and nobody else knows the account's name"
                )
            caller = Caller(account_id, db_key, shard_id, self._account_partition(account_id))
            recorded = await self._existing(event.room_id, partition, caller.partition)
        else:
            caller, recorded = found.owner, found
        if recorded is not None and recorded.owner.db_key != db_key:
            raise ValueError(
                f"{event.kind}: account_db_key {db_key} is not the owner of room {event.room_id}"
            )
        if recorded is not None and recorded.deleted:
            raise RoomGone
        return caller if caller.account_id else replace(caller, account_id=account_id)

    async def _existing(
        self, room_id: str, partition: int, account_partition: int
    ) -> FoundRoom | None:
        """The room that has this id already, in whatever partition its account is."""
        if (
            recorded := await self._directory.recorded_room(room_id, account_partition)
        ) is not None:
            return recorded
        try:
            return await self._directory.find_room(room_id, partition, with_awaited=True)
        except ServiceUnavailable:
            # A room is created from Redis alone while MySQL is away; the procedure does not
            # overwrite another's row.
            return None

    async def _shard_of(self, kind: str, event: Event, data: dict[str, Any]) -> int:
        """The room's, else the account's in the mapping table, else the sender's, else the default
        one. Nobody would find rows in any other shard. Raises BadEvent for a number that is no
        shard's, or not this account's."""
        given = data.get("shard_id") or 0
        if (
            isinstance(given, bool)
            or not isinstance(given, int | str)
            or not str(given).isdecimal()
        ):
            raise BadEvent(f"shard_id {given!r:.80} is no shard's number")
        given = int(given)
        if given and not await self._directory.has_shard(given):
            raise BadEvent(f"shard_id {given} is no shard of this server")
        db_key = event.row["account_db_key"]
        known, away = 0, None
        try:
            partition = await self._directory.partition_of(event.room_id)
            room = await self._directory.find_room(event.room_id, partition, with_awaited=True)
            if room is not None and room.owner.db_key != db_key:
                # The event is refused as another account's: a save by its consumer, who looks at
                # the room's own shard.
                return room.owner.shard_id or given or self._default_shard_id
            known = room.owner.shard_id if room is not None else 0
        except ServiceUnavailable as outage:
            away = outage
        try:
            known = known or await self._directory.mapped_shard(db_key)
        except ServiceUnavailable as outage:
            away = outage
        if away is not None and not (known or given):
            raise away
        if known and given and given != known:
            raise BadEvent(
                f"{kind}: shard_id {given} is not the shard of account_db_key {db_key}, "
                f"which is {known}"
            )
        return known or given or self._default_shard_id
