"""The scripts between the event streams and MySQL as calls: a field for each name of the header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from base_server.service.redis_client.script_call import ScriptCall
from base_server.template.chat.cache.keys import AccountKeys, PartitionKeys, RoomKeys
from base_server.template.chat.cache.scripts import (
    NotFound,
    NotLoaded,
    ScriptStatus,
    StateRefused,
    script_call,
)


@dataclass(frozen=True, slots=True)
class ServerState:
    """``generation``: changes when the Redis server is another one or was emptied.
    ``saved_event``: the last that is known to be in MySQL, or ''."""

    generation: str
    saved_event: str
    blocked_rooms: Sequence[str]


@script_call("mark_processing")
@dataclass(slots=True)
class MarkProcessing(ScriptCall[ServerState]):
    """``room_ids``: those of the batch, to be looked for among the blocked ones."""

    partition: PartitionKeys
    blocked_rooms: str
    watermark: str
    states: Sequence[str]
    room_ids: Sequence[str]

    @staticmethod
    def read(answer: list[str]) -> ServerState:
        generation, saved_event, *blocked_rooms = answer
        return ServerState(generation, saved_event, blocked_rooms)


@script_call("acknowledge_events")
@dataclass(slots=True)
class AcknowledgeEvents(ScriptCall[int]):
    """Answers how many events are left. The script's header says what the two lists hold."""

    partition: PartitionKeys
    event_stream: str
    blocked_rooms: str
    watermark: str
    touched_keys: Sequence[str]
    event_ids: str
    saved_count: int
    deleted_count: int
    window: int
    window_ttl_ms: int
    list_ttl_ms: int
    state_ttl_ms: int
    read_in: str
    items: Sequence[object]

    @staticmethod
    def read(answer: int) -> int:
        return int(answer)


@script_call("assign_seq")
@dataclass(slots=True)
class AssignSeq(ScriptCall[int | NotLoaded | NotFound | StateRefused]):
    """Answers the seq; NotLoaded: MySQL assigns it. StateRefused: the room is another account's or
    shard's."""

    room: RoomKeys
    partition: PartitionKeys
    room_id: str
    message_id: str
    event_id: str
    at: str
    message_body: str
    account_db_key: int
    shard_id: int

    @staticmethod
    def read(answer: list[Any]) -> int | NotLoaded | NotFound | StateRefused:
        match answer:
            case [ScriptStatus.OK, seq]:
                return int(seq)
            case [ScriptStatus.REFUSED]:
                return StateRefused("")
            case [ScriptStatus.NOT_FOUND]:
                return NotFound()
        return NotLoaded()


@dataclass(frozen=True, slots=True)
class DeadLetterCounts:
    """How many dead letters of a room were replayed or dropped, and how many it still has."""

    done: int
    left: int


@dataclass(frozen=True, slots=True)
class NoSuchLetter:
    """The room has no dead letter of this id."""


@dataclass(frozen=True, slots=True)
class StreamTooLong:
    """More events wait than are looked through."""


@script_call("replay_dead_letters")
@dataclass(slots=True)
class ReplayDeadLetters(ScriptCall[DeadLetterCounts | NoSuchLetter | StreamTooLong]):
    """``last_letter`` '': all of the room."""

    room: RoomKeys
    account: AccountKeys
    dead_letters: str
    event_stream: str
    blocked_rooms: str
    room_id: str
    last_letter: str
    longest_stream: int
    note_ttl_ms: int

    @staticmethod
    def read(answer: list[Any]) -> DeadLetterCounts | NoSuchLetter | StreamTooLong:
        match answer:
            case [ScriptStatus.OK, done, left]:
                return DeadLetterCounts(done, left)
            case [ScriptStatus.FULL, *_]:
                return StreamTooLong()
        return NoSuchLetter()


@script_call("drop_dead_letters")
@dataclass(slots=True)
class DropDeadLetters(ScriptCall[DeadLetterCounts]):
    """``letters``: the id of each, then whether it has a state among ``states``."""

    room: RoomKeys
    account: AccountKeys
    dead_letters: str
    event_stream: str
    blocked_rooms: str
    states: Sequence[str]
    room_id: str
    window_ttl_ms: int
    list_ttl_ms: int
    state_ttl_ms: int
    letters: Sequence[str | bool]

    @staticmethod
    def read(answer: list[int]) -> DeadLetterCounts:
        return DeadLetterCounts(*answer)


@script_call("restore_room")
@dataclass(slots=True)
class RestoreRoom(ScriptCall[str]):
    """Answers the first event that was appended, '' for none. ``words``: of each event how many
    follow, then its fields and values."""

    room: RoomKeys
    account: AccountKeys
    event_stream: str
    note_ttl_ms: int
    list_changes: bool
    words: Sequence[object]

    @staticmethod
    def read(answer: str) -> str:
        return answer
