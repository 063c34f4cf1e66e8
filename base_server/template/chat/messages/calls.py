"""The scripts of messages as calls: a field for each name of the script's header, typed answers."""

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
    NotLoaded,
    ScriptStatus,
    StateRefused,
    script_call,
)
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import payload


@dataclass(frozen=True, slots=True)
class SendLimits:
    """What the settings allow, and for how long things are kept."""

    waiters_limit: int
    backlog_limit: int
    deadline_ms: int
    dead_letters_limit: int
    sends_per_minute: float
    sends_at_once: int
    open_replies_limit: int
    stream_ttl_ms: int
    ready_lease_ms: int
    history_length: int
    reply_lease_ms: int


@dataclass(frozen=True, slots=True)
class SendStored:
    """Question and reply as stored messages; ``slot`` as the record has it; ``is_granted``: its
    reply may run now, and ``history`` are the messages before the question."""

    question: str
    reply: str
    is_granted: bool
    backlog: int
    slot: str
    history: Sequence[str]


@dataclass(frozen=True, slots=True)
class SentBefore:
    """What the first send stored. ``slot``: nobody has called the provider for it yet, else ''."""

    question: str
    reply: str
    slot: str


@script_call("accept_send")
@dataclass(slots=True)
class AcceptSend(ScriptCall[SendStored | SentBefore | NeedsDatabase]):
    """Bodies are without their metadata; ``first_title`` and ``own_persona`` are JSON."""

    caller: Caller
    room: RoomKeys
    account: AccountKeys
    partition: PartitionKeys
    event_stream: str
    blocked_rooms: str
    question_state: str
    reply_state: str
    message_states: str
    reply_streams: str
    room_id: str
    question_id: str
    reply_id: str
    slot_token: str
    question_body: str
    reply_body: str
    payload_start: str
    client_message_id: str | None
    body_hash: str
    client_id_time: str
    on_busy: str
    own_persona: str
    first_title: str
    limits: SendLimits
    asked_first_seq: int | None = None

    @staticmethod
    def read(answer: list[Any]) -> SendStored | SentBefore | NeedsDatabase:
        match answer:
            case [ScriptStatus.OK, _, question, reply, granted, backlog, slot, *history]:
                return SendStored(question, reply, bool(granted), backlog, slot, history)
            case [ScriptStatus.DUPLICATE, question, reply, slot]:
                return SentBefore(question, reply, slot)
        return NeedsDatabase(answer[1])


@dataclass(frozen=True, slots=True)
class MessageDeleted:
    """The message's states before and after."""

    backlog: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class NoSuchMessage:
    """The whole room is in Redis, and the message is not."""


MessageDeletion = (
    MessageDeleted
    | DeletedBefore
    | NoSuchMessage
    | StateRefused
    | NeedsDatabase
    | NotLoaded
    | NotFound
)

_NOT_DELETED: dict[int, MessageDeletion] = {
    ScriptStatus.DUPLICATE: DeletedBefore(),
    ScriptStatus.SUPERSEDED: NoSuchMessage(),
    ScriptStatus.NEEDS_DATABASE: NeedsDatabase(),
    ScriptStatus.NOT_LOADED: NotLoaded(),
    ScriptStatus.NOT_FOUND: NotFound(),
}


@script_call("delete_message")
@dataclass(slots=True)
class DeleteMessage(ScriptCall[MessageDeletion]):
    """A handler's delete leaves out all that has a default but ``stored_seq``."""

    caller: Caller
    room: RoomKeys
    partition: PartitionKeys
    event_stream: str
    message_state: str
    reply_stream: str
    room_id: str
    message_id: str
    payload: str
    ready_lease_ms: int
    stored_seq: int | None = None
    allowed_states: str = ""
    new_state: str = ""
    done_note: str | None = None
    note_ttl_ms: int | None = None

    @classmethod
    def of(
        cls,
        keys: PartitionKeys,
        event_stream: str,
        caller: Caller,
        room_id: str,
        message_id: str,
        ready_lease_ms: int,
    ) -> DeleteMessage:
        """A handler's delete, from whatever state."""
        room = keys.room(room_id)
        return cls(
            caller=caller,
            room=room,
            partition=keys,
            event_stream=event_stream,
            message_state=keys.message_state(message_id),
            reply_stream=room.reply_stream(message_id),
            room_id=room_id,
            message_id=message_id,
            payload=payload(caller, room_id, message_id=message_id),
            ready_lease_ms=ready_lease_ms,
        )

    @staticmethod
    def read(answer: list[Any]) -> MessageDeletion:
        match answer:
            case [ScriptStatus.OK, backlog, _, before, after]:
                return MessageDeleted(backlog, before, after)
            case [ScriptStatus.REFUSED, state]:
                return StateRefused(state)
        return _NOT_DELETED[answer[0]]


@dataclass(frozen=True, slots=True)
class WindowSlice:
    """``low``: the lowest seq looked at. ``missing``: of those to skip, how many the window does
    not have. ``below``: is a visible message under ``low`` ('1', '0', '?')."""

    first_seq: int
    low: int
    missing: int
    below: str
    state_codes: str
    messages: Sequence[str]


@script_call("read_messages")
@dataclass(slots=True)
class ReadMessages(ScriptCall[WindowSlice | Damaged]):
    """``highest_seq`` None: from the newest."""

    caller: Caller
    room: RoomKeys
    partition: PartitionKeys
    message_states: str
    highest_seq: int | None
    count: int
    skip: int

    @staticmethod
    def read(answer: list[Any]) -> WindowSlice | Damaged:
        if answer[0] == ScriptStatus.DAMAGED:
            return Damaged()
        _, first_seq, low, missing, below, state_codes, *messages = answer
        return WindowSlice(first_seq, low, missing, below, state_codes, messages)
