"""The scripts of loads as calls: a field for each name of the script's header, typed answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from base_server.service.redis_client.script_call import ScriptCall
from base_server.template.chat.cache.keys import AccountKeys, PartitionKeys, RoomKeys
from base_server.template.chat.cache.scripts import (
    NeedsDatabase,
    NotFound,
    ScriptStatus,
    script_call,
)
from base_server.template.chat.domain.caller import Caller


@dataclass(frozen=True, slots=True)
class LoadBegun:
    """Go on with this token, maybe another loader's. ``last_event``: of the record, or ''."""

    generation: str
    token: str
    last_event: str
    open_slots: Sequence[str]


@dataclass(frozen=True, slots=True)
class AlreadyLoaded:
    """Another process was faster, or the room is deleted."""


@dataclass(frozen=True, slots=True)
class EventsWait:
    """Events are not in MySQL yet. ``lost_slot``: they are, but this one is to be ended first."""

    lost_slot: str | None


@dataclass(frozen=True, slots=True)
class NotWhole:
    """A room with dead letters is nowhere but in Redis, and there a part of it is missing."""


LoadStart = LoadBegun | AlreadyLoaded | EventsWait | NotWhole | NeedsDatabase


@dataclass(frozen=True, slots=True)
class LoadUnit:
    """What is loaded whole. ``kind`` 'room': ``list`` its messages, ``other`` its JSON; 'account'
    (``room_id`` is ''): the set of rooms and their order."""

    kind: str
    room_id: str
    record: str
    load_key: str
    list: str
    other: str


@script_call("begin_load")
@dataclass(slots=True)
class BeginLoad(ScriptCall[LoadStart]):
    """NeedsDatabase: for the stream's mark, asked as of a generation, or (None) for the room's last
    seq."""

    caller: Caller
    partition: PartitionKeys
    unit: LoadUnit
    event_stream: str
    watermark: str
    blocked_rooms: str
    waiters: str
    message_states: str
    token_ttl_ms: int
    token: str = ""
    stored_last_seq: int | None = None
    compared_in: str = ""

    @staticmethod
    def read(answer: Any) -> LoadStart:
        match answer:
            case [ScriptStatus.OK, generation, token, last_event, *open_slots]:
                return LoadBegun(generation, token, last_event, open_slots)
            case [ScriptStatus.WAIT, *lost]:
                return EventsWait(lost[0] if lost else None)
            case [ScriptStatus.NEEDS_DATABASE, *asked]:
                return NeedsDatabase(asked[0] if asked else None)
            case [ScriptStatus.FULL, *_]:
                return NotWhole()
        return AlreadyLoaded()


@dataclass(frozen=True, slots=True)
class LoadDone:
    """It is in Redis now."""


@dataclass(frozen=True, slots=True)
class LoadOvertaken:
    """A write or another load came first."""


@script_call("finish_room_load")
@dataclass(slots=True)
class FinishRoomLoad(ScriptCall[LoadDone | LoadOvertaken | NotFound]):
    """``title``, ``persona``: as JSON. ``values``: the open slots, the record's fields and values,
    four for each lost reply, the window's messages; the counts say where each begins."""

    room: RoomKeys
    partition: PartitionKeys
    message_states: str
    reply_streams: str
    event_stream: str
    token: str
    begun_in: str
    last_event: str
    window_ttl_ms: int
    json_ttl_ms: int
    stream_ttl_ms: int
    lease_ms: int
    ready_lease_ms: int
    room_id: str
    last_ms: int
    count: int
    title: str
    persona: str
    created: str
    payload_start: str
    open_count: int
    field_count: int
    lost_count: int
    values: Sequence[object]

    @staticmethod
    def read(answer: list[int]) -> LoadDone | LoadOvertaken | NotFound:
        match answer:
            case [ScriptStatus.OK]:
                return LoadDone()
            case [ScriptStatus.NOT_FOUND]:
                return NotFound()
        return LoadOvertaken()


@script_call("finish_account_load")
@dataclass(slots=True)
class FinishAccountLoad(ScriptCall[LoadDone | LoadOvertaken]):
    """``rows``: eight values for each room, see the script's header."""

    caller: Caller
    account: AccountKeys
    partition: PartitionKeys
    room_records: str
    room_jsons: str
    room_states: str
    blocked_rooms: str
    account_name: str
    token: str
    begun_in: str
    ttl_ms: int
    latest_request_time: str
    name_ttl_ms: int
    rows: Sequence[object]

    @staticmethod
    def read(answer: list[int]) -> LoadDone | LoadOvertaken:
        return LoadDone() if answer[0] == ScriptStatus.OK else LoadOvertaken()


@script_call("drop_wrong_types")
@dataclass(slots=True)
class DropWrongTypes(ScriptCall[int]):
    """Answers how many keys were dropped."""

    event_stream: str
    room_or_account_record: str
    lists: Sequence[str]
    list_types: Sequence[str]
    record_type: str = "hash"

    @staticmethod
    def read(answer: int) -> int:
        return answer
