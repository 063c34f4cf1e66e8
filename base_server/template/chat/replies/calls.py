"""The scripts of replies as calls: a field for each name of the script's header, typed answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from base_server.service.redis_client.script_call import ScriptCall
from base_server.template.chat.cache.keys import AccountKeys, ChatKeys, PartitionKeys, RoomKeys
from base_server.template.chat.cache.scripts import NeedsDatabase, ScriptStatus, script_call
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.states import MessageState
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.replies.slot import (
    ReplyRef,
    ReplySlot,
    RoomNotLoaded,
    SlotLost,
    StreamBehind,
)


@dataclass(frozen=True, slots=True)
class Granted:
    """``question``: the stored message, '' when it was deleted; of a claim only whether it is
    there."""

    question: str
    history: Sequence[str]


@script_call("claim_slot")
@dataclass(slots=True)
class ClaimSlot(ScriptCall[Granted | None]):
    """``history_length`` None: claim, else look only. The answer is None while the slot waits."""

    slot: ReplySlot
    caller: Caller
    room: RoomKeys
    partition: PartitionKeys
    claim_id: str
    lease_ms: int
    history_length: int | None
    is_alone: bool

    @staticmethod
    def read(answer: list[Any]) -> Granted | None:
        match answer:
            case [ScriptStatus.OK, question, *history]:
                return Granted(question, history)
            case [ScriptStatus.WAIT, *_]:
                return None
            case [ScriptStatus.SUPERSEDED, *_]:
                raise SlotLost
        raise RoomNotLoaded


@script_call("restore_slot")
@dataclass(slots=True)
class RestoreSlot(ScriptCall[bool]):
    """The answer: whether the slot is open again."""

    caller: Caller
    room: RoomKeys
    partition: PartitionKeys
    reply_state: str
    slot: str
    slot_token: str
    room_id: str
    claim_id: str
    lease_ms: int

    @staticmethod
    def read(answer: int) -> bool:
        return bool(answer)


@script_call("hand_over")
@dataclass(slots=True)
class HandOver(ScriptCall[None]):
    slot: ReplySlot
    room: RoomKeys
    partition: PartitionKeys
    claim_id: str
    ready_lease_ms: int

    @staticmethod
    def read(answer: int) -> None:
        """Whether it was this claim's matters to nobody: the process stops."""


@script_call("release_reply")
@dataclass(slots=True)
class ReleaseReply(ScriptCall[bool]):
    """The answer: whether the reply goes on in another process."""

    slot: ReplySlot
    room: RoomKeys
    account: AccountKeys
    reply_stream: str
    stream_ttl_ms: int

    @staticmethod
    def read(answer: int) -> bool:
        return bool(answer)


@script_call("append_delta")
@dataclass(slots=True)
class AppendDelta(ScriptCall[bool]):
    """``text_from``: the byte of the reply's text at which ``text`` begins. The answer: whether
    another process reads it."""

    slot: ReplySlot
    room: RoomKeys
    partition: PartitionKeys
    reply_stream: str
    text_from: int
    text: str
    lease_ms: int
    usage: str
    claim_id: str
    is_called: bool

    @staticmethod
    def read(answer: list[Any]) -> bool:
        match answer:
            case [ScriptStatus.SUPERSEDED, *_]:
                raise SlotLost
            case [ScriptStatus.PARTIAL, length]:
                raise StreamBehind(length)
        return bool(answer[1])


@dataclass(slots=True)
class EndKeys:
    """The keys of a script that ends a reply, by the names of its header."""

    room_record: str
    messages: str
    event_stream: str
    signals: str
    leases: str
    waiters: str
    open_replies: str
    reply_state: str
    reply_stream: str
    generation: str

    @classmethod
    def of(cls, chat_keys: ChatKeys, streams: EventStreams, ref: ReplyRef) -> Self:
        caller = ref.caller
        partition = chat_keys.partition(caller.partition)
        room = partition.room(ref.room_id)
        return cls(
            room.record,
            room.messages,
            streams.stream_key(caller.partition, caller.shard_id),
            partition.signals,
            partition.leases,
            room.waiting,
            partition.account(caller.account_id).open_replies,
            partition.message_state(ref.reply_id),
            room.reply_stream(ref.reply_id),
            partition.generation,
        )


@dataclass(frozen=True, slots=True)
class EndStored:
    """``granted_token``: of the slot that may run now, '' for none."""

    message: str
    backlog: int
    granted_token: str


@dataclass(frozen=True, slots=True)
class EndedBefore:
    """``message``: the reply as somebody else ended it, '' when it is not in the window."""

    message: str


@script_call("end_reply")
@dataclass(slots=True)
class EndReply(ScriptCall[EndStored | EndedBefore]):
    reply: EndKeys
    slot: ReplySlot
    message_body: str
    payload_start: str
    reason: str
    ready_lease_ms: int
    stream_ttl_ms: int
    unsent_from: int
    unsent_text: str
    claim_id: str

    @staticmethod
    def read(answer: list[Any]) -> EndStored | EndedBefore:
        match answer:
            case [ScriptStatus.OK, message, backlog, granted_token]:
                return EndStored(message, backlog, granted_token)
            case [ScriptStatus.SUPERSEDED, message]:
                return EndedBefore(message)
        raise SlotLost


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A stored message of the window, with its state."""

    message: str
    state: str


@dataclass(frozen=True, slots=True)
class ReplyStopped(StoredReply):
    backlog: int
    granted_token: str


@dataclass(frozen=True, slots=True)
class LeaseRuns:
    """The process of the reply is alive, or was a moment ago."""


@dataclass(frozen=True, slots=True)
class NoSuchReply:
    """There is no such message, or it is deleted."""


Found = StoredReply | NeedsDatabase | NoSuchReply


def _found(answer: list[Any]) -> Found:
    match answer:
        case [ScriptStatus.OK | ScriptStatus.DUPLICATE, message, state]:
            return StoredReply(message, state or MessageState.SENT.value)
        case [ScriptStatus.NEEDS_DATABASE, *_]:
            return NeedsDatabase()
    return NoSuchReply()


@script_call("stop_reply")
@dataclass(slots=True)
class StopReply(ScriptCall[ReplyStopped | LeaseRuns | Found]):
    """``account_db_key`` None: of any account, on a record of any generation."""

    reply: EndKeys
    account_db_key: int | None
    room_id: str
    reply_id: str
    reason: str
    ready_lease_ms: int
    stream_ttl_ms: int
    payload_start: str
    only_if_expired: bool = False

    @staticmethod
    def read(answer: list[Any]) -> ReplyStopped | LeaseRuns | Found:
        match answer:
            case [ScriptStatus.OK, message, state, backlog, granted_token]:
                return ReplyStopped(message, state, backlog, granted_token)
            case [ScriptStatus.WAIT, *_]:
                return LeaseRuns()
        return _found(answer)


@script_call("watch_reply")
@dataclass(slots=True)
class WatchReply(ScriptCall[Found]):
    """``watch``: what the process of a running reply is to publish, 'text', 'end' or ''."""

    caller: Caller
    room: RoomKeys
    partition: PartitionKeys
    message_state: str
    message_id: str
    watch: str

    @staticmethod
    def read(answer: list[Any]) -> Found:
        return _found(answer)


@dataclass(frozen=True, slots=True)
class Final:
    """A reply that has ended, as a stored message; '' when it was deleted."""

    message: str
    state: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """A reply that runs: ``length`` of its text in bytes, and ``deltas`` (end in bytes, text) that
    a reader lacks."""

    length: int
    deltas: Sequence[tuple[int, str]]


@script_call("read_reply")
@dataclass(slots=True)
class ReadReply(ScriptCall[Progress | Final | None]):
    """The answer is None when the reply has left the room's window."""

    room: RoomKeys
    reply_stream: str
    message_state: str
    reply_seq: int
    reply_id: str
    offset: int
    limit: int

    @staticmethod
    def read(answer: list[Any]) -> Progress | Final | None:
        match answer:
            case [ScriptStatus.NOT_LOADED, *_]:
                return None
            case [ScriptStatus.SUPERSEDED, *_]:
                return Final("")
            case [ScriptStatus.OK, message, state]:
                return Final(message, state or MessageState.SENT.value)
        _, length, *deltas = answer
        return Progress(
            length, [(int(entry_id.partition("-")[0]), fields[1]) for entry_id, fields in deltas]
        )


@script_call("find_expired_slots")
@dataclass(slots=True)
class FindExpiredSlots(ScriptCall[Sequence[str]]):
    """The answer: ids of rooms, the longest expired first."""

    partition: PartitionKeys
    all_open: bool
    limit: int
    longest_lease_ms: int

    @staticmethod
    def read(answer: list[Any]) -> Sequence[str]:
        return answer[1:]


@script_call("drop_lease")
@dataclass(slots=True)
class DropLease(ScriptCall[None]):
    room: RoomKeys
    partition: PartitionKeys
    room_id: str

    @staticmethod
    def read(answer: int) -> None:
        """How many were dropped matters to nobody."""
