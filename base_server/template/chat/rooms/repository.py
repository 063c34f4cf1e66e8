"""Rooms: create, list, rename, delete."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from base_server.service.core.errors import ServiceUnavailable
from base_server.template.base.errors import IdempotencyMismatch, RoomNotFound
from base_server.template.chat.cache.load import Loaded
from base_server.template.chat.cache.records import UNNAMED_VERSION
from base_server.template.chat.cache.script_runner import RoomGone, ScriptRunner
from base_server.template.chat.cache.scripts import Damaged, NeedsDatabase
from base_server.template.chat.common.chat_model import ChatRoom
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import payload
from base_server.template.chat.domain.message_format import (
    body_hash,
    from_json,
    iso,
    ms_of,
    to_json,
)
from base_server.template.chat.domain.states import GONE, ROOM_STATE_CODES, RoomState, state_name
from base_server.template.chat.rooms.calls import (
    CreatedBefore,
    CreateRoom,
    DeleteRoom,
    LoadLost,
    ReadRooms,
    RoomCreated,
    RoomDeleted,
    RoomsMissing,
    RoomsRead,
    UpdateRoom,
)

DEFAULT_TITLE = "New chat"
_MAX_REPAIRS = 3
# A call is repeated within its time-outs and a load.
_OPERATION_NOTE_MS = 300_000


@dataclass(frozen=True)
class RoomPage:
    """``texts`` are JSON as it goes to the client; ``total`` counts all live rooms of the account;
    ``stale``: from MySQL, Redis was away."""

    texts: list[str]
    total: int
    stale: bool = False

    @property
    def json(self) -> str:
        return f"[{','.join(self.texts)}]"

    def rooms(self) -> list[ChatRoom]:
        return [ChatRoom(**from_json(text)) for text in self.texts]


class RoomRepository(ScriptRunner):
    """The rooms of accounts."""

    async def create(
        self, caller: Caller, persona: str, title: str | None, client_request_id: str | None
    ) -> ChatRoom:
        """A new room, or the one that this client_request_id made before. Usable the moment this
        returns.

        ``title`` None: the default one until the first message names it."""
        room_id = self._keys.new_id(caller.partition)
        request_hash = body_hash(title, persona)
        call = self._create_call(caller, room_id, persona, title, client_request_id, request_hash)
        while True:
            match await self._call(call, caller, room_id):
                case RoomCreated(text, backlog):
                    self._report_backlog(caller, backlog)
                    return _room(text, "PENDING")
                case CreatedBefore(made_id):
                    return await self.get(caller, made_id)
                case NeedsDatabase(load):
                    rows = await self._database.call_shard_procedure(
                        caller.shard_id,
                        "fp_chat_room_find_request",
                        (caller.db_key, client_request_id),
                    )
                    if rows and rows[0]["request_hash"] != request_hash:
                        raise IdempotencyMismatch
                    if rows:
                        return await self.get(caller, rows[0]["room_id"])
                    call.asked_load = load

    def _create_call(
        self,
        caller: Caller,
        room_id: str,
        persona: str,
        title: str | None,
        client_request_id: str | None = None,
        request_hash: str = "",
    ) -> CreateRoom:
        keys = self._keys.partition(caller.partition)
        version = UNNAMED_VERSION if title is None else 0
        title = title or DEFAULT_TITLE
        event = payload(
            caller,
            room_id,
            title=title,
            title_version=version,
            ai_persona=persona,
            client_request_id=client_request_id,
            request_hash=request_hash if client_request_id else None,
        )
        return CreateRoom(
            caller=caller,
            room=keys.room(room_id),
            account=keys.account(caller.account_id),
            partition=keys,
            event_stream=self._streams.stream_key(caller.partition, caller.shard_id),
            room_id=room_id,
            title=to_json(title),
            persona=to_json(persona),
            payload=event,
            client_request_id=client_request_id,
            request_hash=request_hash,
            request_id_time=self._id_time(client_request_id) if client_request_id else "",
            backlog_limit=self._streams.max_backlog,
            rooms_limit=self._settings.max_rooms_per_account,
            title_version=version,
        )

    async def adopt(
        self, caller: Caller, room_id: str, persona: str, title: str | None, created_at: datetime
    ) -> None:
        """A room under an id of a host's own, from its event: usable, and in the list, the moment
        this returns. One that is there, or was deleted, stays as it is. ``title`` None: as for
        :meth:`create`."""
        self.check_room_id(caller, room_id)
        call = self._create_call(caller, room_id, persona, title)
        call.created_at, call.created_ms = iso(created_at), ms_of(created_at)

        async def create(token: str, *, has_messages: bool) -> Loaded | None:
            # Asked for in MySQL under this token: if anything was written since, it is asked again.
            call.load_token, call.has_messages = token, has_messages
            try:
                answer = await self._call(call, caller, room_id)
            except RoomNotFound:
                return Loaded.DELETED
            match answer:
                case RoomCreated(_, backlog):
                    self._report_backlog(caller, backlog)
                case LoadLost():
                    return None
            return Loaded.LOADED

        if await self._loaders.rooms.load_or_create(caller, room_id, create) is Loaded.UNKNOWN:
            raise RoomNotFound

    async def get(self, caller: Caller, room_id: str) -> ChatRoom:
        """The room as it stands; raises RoomNotFound."""
        room = self._keys.room(room_id, caller.partition)
        for _ in range(_MAX_REPAIRS):
            room_json, state = await self._cache.execute_many(
                [
                    ("GET", room.json),
                    ("GET", room.state),
                ]
            )
            if state_name(state) in GONE:
                raise RoomNotFound
            if room_json is not None:
                try:
                    return _room(room_json, state_name(state))
                except ValueError:
                    await self._discard(room.json)
            await self._load_room(caller, room_id)
        raise ServiceUnavailable("cache", "the room was gone after every load")

    async def page(self, caller: Caller, page: int, limit: int) -> RoomPage:
        """A page of the account's rooms, newest activity first; from MySQL, marked stale, when
        Redis is away."""
        try:
            return await self._cached_page(caller, page, limit)
        except ServiceUnavailable as outage:
            if outage.service != "cache":
                raise
            return await self._stale_page(caller, page, limit)

    async def _cached_page(self, caller: Caller, page: int, limit: int) -> RoomPage:
        keys = self._keys.partition(caller.partition)
        all_rooms = keys.room("")
        call = ReadRooms(
            caller=caller,
            account=keys.account(caller.account_id),
            partition=keys,
            room_jsons=all_rooms.json,
            room_states=all_rooms.state,
            first_rank=(page - 1) * limit,
            last_rank=page * limit - 1,
        )
        for _ in range(_MAX_REPAIRS):
            match await self._call(call, caller, ""):
                case RoomsRead(total, state_codes, rooms):
                    states = map(ROOM_STATE_CODES.__getitem__, state_codes)
                    texts = [_wire_room(*each) for each in zip(rooms, states, strict=True)]
                    return RoomPage(texts, total)
                case RoomsMissing(room_ids):
                    for room_id in room_ids:
                        await self._loaders.rooms.load(caller, room_id)
                case Damaged():
                    await self._discard_undecodable(caller, call.first_rank, call.last_rank)
        raise ServiceUnavailable("cache", "rooms of the list were gone after every load")

    async def _discard_undecodable(self, caller: Caller, first: int, last: int) -> None:
        keys = self._keys.partition(caller.partition)
        order = keys.account(caller.account_id).order
        for room_id in await self._cache.execute("ZREVRANGE", order, first, last):
            key = keys.room(room_id).json
            try:
                if (room_json := await self._cache.execute("GET", key)) is not None:
                    _room(room_json, None)
            except ValueError:
                await self._discard(key)

    async def _stale_page(self, caller: Caller, page: int, limit: int) -> RoomPage:
        rows = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_rooms_page", (caller.db_key, (page - 1) * limit, limit)
        )
        rooms = [
            ChatRoom(
                room_id=row["room_id"],
                title=row["title"],
                ai_persona=row["ai_persona"],
                created_at=iso(row["created_at"]),
                last_message_at=iso(row["last_message_at"]),
                message_count=row["message_count"],
                state="ACTIVE",
            ).model_dump_json()
            for row in rows
        ]
        if not rows and page > 1:
            # Past the end no row tells the total.
            return RoomPage([], (await self._stale_page(caller, 1, 1)).total, stale=True)
        return RoomPage(rooms, int(rows[0]["total_count"]) if rows else 0, stale=True)

    async def rename(
        self, caller: Caller, room_id: str, title: str, operation_id: str = ""
    ) -> None:
        """Change the title; the last one acknowledged wins. ``operation_id`` identifies the call
        when it is repeated."""
        self.check_room_id(caller, room_id)
        keys = self._keys.partition(caller.partition)
        operation_id = operation_id or self._keys.new_id(caller.partition)
        stream = self._streams.stream(caller.partition, caller.shard_id)
        call = UpdateRoom(
            caller=caller,
            room=keys.room(room_id),
            partition=keys,
            event_stream=stream.key,
            blocked_rooms=stream.blocked_key,
            done_note=keys.operation(operation_id),
            room_id=room_id,
            title=to_json(title),
            payload=payload(caller, room_id, title=title),
            operation_id=operation_id,
            dead_letters_limit=self._settings.max_dead_letters_per_room,
            note_ttl_ms=_OPERATION_NOTE_MS,
            backlog_limit=self._streams.max_backlog,
        )
        self._report_backlog(caller, await self._call(call, caller, room_id))

    async def delete(self, caller: Caller, room_id: str) -> None:
        """Delete a room permanently, its running and waiting replies with it. Repeating it is no
        error."""
        self.check_room_id(caller, room_id)
        call = DeleteRoom.of(
            self._keys.partition(caller.partition),
            self._streams.stream_key(caller.partition, caller.shard_id),
            caller,
            room_id,
            self._settings.state_ttl_s * 1000,
            RoomState.DELETING,
        )
        try:
            answer = await self._call(call, caller, room_id)
        except RoomGone:
            # Its state says so, and no record: if nothing but the state was set, the row is still
            # to be deleted.
            call.allowed_states = ",".join(GONE)
            answer = await call.run(self._cache)
        if isinstance(answer, RoomDeleted):
            self._report_backlog(caller, answer.backlog)


def _room(room_json: str, state: str | None) -> ChatRoom:
    """A stored room as the client sees it; raises ValueError for anything else."""
    return ChatRoom(**from_json(_wire_room(room_json, state)))


def _wire_room(room_json: str, state: str | None) -> str:
    """The same, not parsed."""
    if not (room_json.startswith('{"room_id":"') and room_json.endswith("}")):
        raise ValueError("not a stored room")
    # A missing state of a listed room: settled longer ago than the state TTL.
    return f'{room_json[:-1]},"state":"{state or "ACTIVE"}"}}'
