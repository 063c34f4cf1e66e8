"""Loads a room from MySQL into Redis, whole or not at all; its open replies stay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from base_server.template.base.envelope import INT64_MAX
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.load import ENDS, Load, LoadContext, Loaded, LoadRunner
from base_server.template.chat.cache.load_calls import (
    DropWrongTypes,
    FinishRoomLoad,
    LoadBegun,
    LoadUnit,
)
from base_server.template.chat.cache.room_window import RoomWindow, RoomWindowReader
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import open_payload
from base_server.template.chat.domain.message_format import iso, ms_of, to_json
from base_server.template.chat.domain.ports import Row
from base_server.template.chat.persistence.procedures import ShardProcedures
from base_server.template.chat.replies.slot import ReplySlot, parse_slot
from base_server.template.chat.rooms.directory import ChatDirectory

# A process checks this often whether the slot of a question was granted, and so learns that Redis
# has lost it.
_LOST_SLOT_WAIT_S = 1.0


class RoomCreator(Protocol):
    """Makes a room while the load token still stands; None when it does not. ``has_messages``:
    MySQL has some of it."""

    async def __call__(self, token: str, *, has_messages: bool) -> Loaded | None: ...


class RoomLoader:
    """For callers whose script answered NOT_LOADED. ``interrupt`` ends a reply that runs elsewhere
    with what was streamed of it."""

    def __init__(
        self,
        context: LoadContext,
        interrupt: Callable[[ReplySlot], Awaitable[object]],
        directory: ChatDirectory,
        runner: LoadRunner,
    ) -> None:
        self.interrupt = interrupt
        self.directory = directory
        self.windows = RoomWindowReader(context)
        self.context = context
        self.keys = ChatKeys(context.cache)
        self._runner = runner

    async def load(self, caller: Caller, room_id: str) -> Loaded:
        """Raises as :meth:`LoadRunner.run`."""
        return await self._runner.run_once(_RoomLoad(self, caller, room_id))

    async def load_or_create(self, caller: Caller, room_id: str, create: RoomCreator) -> Loaded:
        """As :meth:`load`; a room that MySQL does not know is made by ``create``."""
        return await self._runner.run(_RoomLoad(self, caller, room_id, create))

    async def drop_wrong_types(self, caller: Caller, room_id: str) -> None:
        """Let keys of the room that are of another type count as missing."""
        room = self.keys.room(room_id, caller.partition)
        await DropWrongTypes(
            event_stream=self.context.streams.stream_key(caller.partition, caller.shard_id),
            room_or_account_record=room.record,
            lists=[room.messages, room.json, room.waiting],
            list_types=["list", "string", "list"],
        ).run(self.context.cache)


class _RoomLoad(Load):
    """``create`` None: a room that MySQL does not know stays unknown."""

    def __init__(
        self, loader: RoomLoader, caller: Caller, room_id: str, create: RoomCreator | None = None
    ) -> None:
        self._loader = loader
        self._context = loader.context
        self._create = create
        self._keys = loader.keys.partition(caller.partition)
        self._room = room = self._keys.room(room_id)
        self._shard = ShardProcedures(loader.context.database, caller.shard_id)
        self._waited: set[str] = set()
        unit = LoadUnit("room", room_id, room.record, room.load_token, room.messages, room.json)
        super().__init__(caller, unit)

    async def prepare(self) -> bool:
        """A room with an id of a host's own has its keys in its account's partition once it is
        loaded. Events that were sent before for where the id is hashed to are in MySQL first; later
        ones are sent, or moved, to this stream.

        False: it is not this account's; nothing is noted for ids that somebody makes up."""
        context, caller, directory = self._context, self.caller, self._loader.directory
        if context.cache.partitions.of_id(self.unit.room_id) == caller.partition:
            return True
        if (
            self._create is None
            and await directory.partition_of(self.unit.room_id) != caller.partition
            and not _is_of(await self._shard.find_room(self.unit.room_id), caller)
        ):
            return False
        hashed = await directory.move_home(self.unit.room_id, caller.partition)
        await context.wait_until_written(hashed, caller.shard_id)
        return True

    async def stored_last_seq(self) -> int:
        """Further than any record for a room that is deleted."""
        room = await self._shard.find_room(self.unit.room_id)
        if room is None:
            return 0
        return INT64_MAX if room["deleted"] else int(room["last_seq"])

    async def end_lost_reply(self, slot: str) -> bool:
        """All events of the room are in MySQL."""
        if not _is_of(await self._shard.find_room(self.unit.room_id), self.caller):
            return False
        await self._loader.interrupt(parse_slot(slot, self.caller, self.unit.room_id))
        return True

    async def fill(self, begun: LoadBegun) -> Loaded | None:
        caller, room_id = self.caller, self.unit.room_id
        row = await self._shard.find_room(room_id)
        if row is None and await self._wait_for_backlog():
            # Its keys may be gone while its create still waits.
            row = await self._shard.find_room(room_id)
        if row is None and self._create is not None:
            # Messages may have come before their room: another account's are not for this one.
            owner = await self._shard.find_room_owner(room_id)
            if owner in (None, caller.db_key):
                return await self._create(begun.token, has_messages=owner is not None)
        if row is None or not _is_of(row, caller):
            return Loaded.UNKNOWN
        if row["deleted"]:
            return Loaded.DELETED
        window = await self._loader.windows.read(caller, room_id, row, begun.open_slots)
        if not self._waited.issuperset(window.lost):
            self._waited.update(window.lost)
            await self._wait_for_lost_replies()
            return None
        return await self._finish(begun, row, window)

    async def _finish(self, begun: LoadBegun, row: Row, window: RoomWindow) -> Loaded | None:
        context, caller, keys, room = self._context, self.caller, self._keys, self._room
        settings, slots = context.settings, [slot.text for slot in window.open]
        done = await FinishRoomLoad(
            room=room,
            partition=keys,
            message_states=keys.message_state(""),
            reply_streams=room.reply_stream(""),
            event_stream=context.streams.stream_key(caller.partition, caller.shard_id),
            token=begun.token,
            begun_in=begun.generation,
            last_event=begun.last_event,
            window_ttl_ms=settings.message_list_ttl_s * 1000,
            json_ttl_ms=settings.room_list_ttl_s * 1000,
            stream_ttl_ms=settings.stream_ttl_s * 1000,
            lease_ms=round(settings.reply_lease_s * 1000),
            ready_lease_ms=settings.ready_lease_ms,
            room_id=self.unit.room_id,
            last_ms=max(ms_of(row["last_message_at"]), window.last_ms),
            count=int(row["message_count"]) + len(slots) + len(window.lost),
            title=to_json(row["title"]),
            persona=to_json(row["ai_persona"]),
            created=iso(row["created_at"]),
            payload_start=open_payload(caller, self.unit.room_id),
            open_count=len(slots),
            field_count=len(window.fields),
            lost_count=len(window.ends),
            values=[*slots, *window.fields, *window.ends, *window.messages],
        ).run(context.cache)
        return ENDS.get(type(done))

    async def _wait_for_lost_replies(self) -> None:
        """MySQL has their questions, Redis has lost the replies. A process that runs one, or awaits
        its slot, gives it back within this time, and the end of one may be among the events that
        are not written yet. What is still lost then ends in the step that fills the room."""
        await asyncio.sleep(_LOST_SLOT_WAIT_S + self._context.settings.reply_lease_s / 3)
        await self._wait_for_backlog()

    async def _wait_for_backlog(self) -> bool:
        caller = self.caller
        return await self._context.wait_until_written(caller.partition, caller.shard_id)


def _is_of(room: Row | None, caller: Caller) -> bool:
    return room is not None and int(room["account_db_key"]) == caller.db_key
