"""The scripts of rooms as calls: a field for each name of the script's header, typed answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from base_server.service.redis_client.script_call import ScriptCall
from base_server.template.chat.cache.keys import AccountKeys, PartitionKeys, RoomKeys
from base_server.template.chat.cache.scripts import (
    Damaged,
    DeletedBefore,
    NeedsDatabase,
    NotFound,
    ScriptStatus,
    StateRefused,
    script_call,
)
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import payload
from base_server.template.chat.domain.states import RoomState


@dataclass(frozen=True, slots=True)
class RoomCreated:
    """``text``: the room's JSON."""

    text: str
    backlog: int


@dataclass(frozen=True, slots=True)
class CreatedBefore:
    """The same request, or another write, made it."""

    room_id: str


@dataclass(frozen=True, slots=True)
class LoadLost:
    """Something was written since MySQL was asked."""


RoomCreation = RoomCreated | CreatedBefore | NeedsDatabase | LoadLost


@script_call("create_room")
@dataclass(slots=True)
class CreateRoom(ScriptCall[RoomCreation]):
    """``title``, ``persona``: as JSON. What has a default is of a room under an id of a host's own
    but for ``asked_load``, as of which MySQL does not know the request."""

    caller: Caller
    room: RoomKeys
    account: AccountKeys
    partition: PartitionKeys
    event_stream: str
    room_id: str
    title: str
    persona: str
    payload: str
    client_request_id: str | None
    request_hash: str
    request_id_time: str
    backlog_limit: int
    rooms_limit: int
    title_version: int
    asked_load: str = ""
    created_at: str = ""
    created_ms: int | None = None
    load_token: str = ""
    has_messages: bool = False

    @staticmethod
    def read(answer: list[Any]) -> RoomCreation:
        match answer:
            case [ScriptStatus.OK, text, backlog]:
                return RoomCreated(text, backlog)
            case [ScriptStatus.DUPLICATE, room_id]:
                return CreatedBefore(room_id)
            case [ScriptStatus.NEEDS_DATABASE, load]:
                return NeedsDatabase(load)
        return LoadLost()


@dataclass(frozen=True, slots=True)
class RoomDeleted:
    """``before``: the room's state until then."""

    backlog: int
    before: str


RoomDeletion = RoomDeleted | DeletedBefore | StateRefused | NotFound


@script_call("delete_room")
@dataclass(slots=True)
class DeleteRoom(ScriptCall[RoomDeletion]):
    """A handler's delete leaves out all that has a default."""

    caller: Caller
    room: RoomKeys
    account: AccountKeys
    partition: PartitionKeys
    event_stream: str
    reply_streams: str
    message_states: str
    room_id: str
    payload: str
    state_ttl_ms: int
    new_state: str
    allowed_states: str = ""
    done_note: str | None = None
    note_ttl_ms: int | None = None

    @classmethod
    def of(
        cls,
        keys: PartitionKeys,
        event_stream: str,
        caller: Caller,
        room_id: str,
        state_ttl_ms: int,
        new_state: RoomState,
    ) -> DeleteRoom:
        """A handler's delete, from whatever state."""
        room = keys.room(room_id)
        return cls(
            caller=caller,
            room=room,
            account=keys.account(caller.account_id),
            partition=keys,
            event_stream=event_stream,
            reply_streams=room.reply_stream(""),
            message_states=keys.message_state(""),
            room_id=room_id,
            payload=payload(caller, room_id),
            state_ttl_ms=state_ttl_ms,
            new_state=new_state.value,
        )

    @staticmethod
    def read(answer: list[Any]) -> RoomDeletion:
        match answer:
            case [ScriptStatus.OK, backlog, before]:
                return RoomDeleted(backlog, before)
            case [ScriptStatus.REFUSED, state]:
                return StateRefused(state)
            case [ScriptStatus.NOT_FOUND, *_]:
                return NotFound()
        return DeletedBefore()


@dataclass(frozen=True, slots=True)
class RoomsRead:
    """A page of rooms as JSON, with the codes of their states; ``total`` of the account's rooms."""

    total: int
    state_codes: str
    rooms: Sequence[str]


@dataclass(frozen=True, slots=True)
class RoomsMissing:
    """Rooms of the page that are to be loaded first."""

    room_ids: Sequence[str]


@script_call("read_rooms")
@dataclass(slots=True)
class ReadRooms(ScriptCall[RoomsRead | RoomsMissing | Damaged]):
    """Ranks count from the newest activity."""

    caller: Caller
    account: AccountKeys
    partition: PartitionKeys
    room_jsons: str
    room_states: str
    first_rank: int
    last_rank: int

    @staticmethod
    def read(answer: list[Any]) -> RoomsRead | RoomsMissing | Damaged:
        match answer:
            case [ScriptStatus.OK, total, state_codes, *rooms]:
                return RoomsRead(total, state_codes, rooms)
            case [ScriptStatus.PARTIAL, *room_ids]:
                return RoomsMissing(room_ids)
        return Damaged()


@script_call("update_room")
@dataclass(slots=True)
class UpdateRoom(ScriptCall[int]):
    """Answers the length of the backlog. ``title``: as JSON."""

    caller: Caller
    room: RoomKeys
    partition: PartitionKeys
    event_stream: str
    blocked_rooms: str
    done_note: str
    room_id: str
    title: str
    payload: str
    operation_id: str
    dead_letters_limit: int
    note_ttl_ms: int
    backlog_limit: int

    @staticmethod
    def read(answer: list[Any]) -> int:
        _, _, backlog = answer
        return int(backlog)
