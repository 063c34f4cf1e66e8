"""Messages: accepting a question with its reply, deleting, and their states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from base_server.template.base.errors import IdempotencyMismatch, MessageNotFound, NotAllowedInState
from base_server.template.chat.cache.script_runner import ScriptRunner
from base_server.template.chat.cache.scripts import NeedsDatabase
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import open_payload
from base_server.template.chat.domain.message_format import (
    body_hash,
    open_message_body,
    stored_row,
    title_of,
    to_json,
)
from base_server.template.chat.domain.metrics import REPEATED_SENDS
from base_server.template.chat.domain.states import GONE, state_name
from base_server.template.chat.messages.calls import (
    AcceptSend,
    DeleteMessage,
    MessageDeleted,
    NoSuchMessage,
    SendLimits,
    SendStored,
    SentBefore,
)
from base_server.template.chat.replies.slot import ReplySlot, parse_slot


@dataclass(frozen=True)
class NewMessage:
    """What a send brings. Ids are made before the first call and are the operation's identity.

    ``persona`` None: the room's own."""

    question_id: str
    reply_id: str
    token: str
    content: str
    persona: str | None
    client_message_id: str | None
    on_busy: str


@dataclass(frozen=True)
class Accepted:
    """A stored question and its reply, as list entries. ``slot``: of a reply that nobody has asked
    for yet; None: it runs, has ended, or waits in another process.

    ``is_granted``: the process that claims the slot may ask now; else it waits. ``repeated``: the
    question was sent before; else ``history`` is the entries before a question whose slot is
    granted.
    """

    question: str
    reply: str
    slot: ReplySlot | None = None
    is_granted: bool = False
    repeated: bool = True
    history: Sequence[str] = ()


class MessageRepository(ScriptRunner):
    """The messages of rooms."""

    @cached_property
    def _send_limits(self) -> SendLimits:
        settings = self._settings
        return SendLimits(
            waiters_limit=settings.max_waiting_turns,
            backlog_limit=self._streams.max_backlog,
            deadline_ms=round(settings.reply_deadline_s * 1000),
            dead_letters_limit=settings.max_dead_letters_per_room,
            sends_per_minute=settings.sends_per_minute,
            sends_at_once=settings.sends_at_once,
            open_replies_limit=settings.max_open_replies,
            stream_ttl_ms=settings.stream_ttl_s * 1000,
            ready_lease_ms=settings.ready_lease_ms,
            history_length=settings.history_length,
            reply_lease_ms=round(settings.reply_lease_s * 1000),
        )

    async def accept(self, caller: Caller, room_id: str, message: NewMessage) -> Accepted:
        """Store a question and open its reply; G1: when this returns, both are in Redis with the
        event."""
        self.check_room_id(caller, room_id)
        call = self._accept_call(caller, room_id, message)
        while True:
            match await self._call(call, caller, room_id):
                case SendStored() as stored:
                    self._report_backlog(caller, stored.backlog)
                    return Accepted(
                        stored.question,
                        stored.reply,
                        parse_slot(stored.slot, caller, room_id),
                        stored.is_granted,
                        repeated=False,
                        history=stored.history,
                    )
                case SentBefore(question, reply, text):
                    REPEATED_SENDS.add()
                    slot = parse_slot(text, caller, room_id) if text else None
                    return Accepted(question, reply, slot, is_granted=True)
                case NeedsDatabase(first_seq):
                    if (sent := await self._sent_before(caller, room_id, message)) is not None:
                        REPEATED_SENDS.add()
                        return sent
                    call.asked_first_seq = first_seq

    def _accept_call(self, caller: Caller, room_id: str, message: NewMessage) -> AcceptSend:
        client_id, title = message.client_message_id, title_of(message.content)
        stream = self._streams.stream(caller.partition, caller.shard_id)
        keys = self._keys.partition(caller.partition)
        room = keys.room(room_id)
        return AcceptSend(
            caller=caller,
            room=room,
            account=keys.account(caller.account_id),
            partition=keys,
            event_stream=stream.key,
            blocked_rooms=stream.blocked_key,
            question_state=keys.message_state(message.question_id),
            reply_state=keys.message_state(message.reply_id),
            message_states=keys.message_state(""),
            reply_streams=room.reply_stream(""),
            room_id=room_id,
            question_id=message.question_id,
            reply_id=message.reply_id,
            slot_token=message.token,
            question_body=open_message_body("USER", message.content, None),
            reply_body=open_message_body("AI", "", message.question_id, streaming=True),
            payload_start=open_payload(caller, room_id),
            client_message_id=client_id,
            body_hash=_fingerprint(message) if client_id else "",
            client_id_time=self._id_time(client_id) if client_id else "",
            on_busy=message.on_busy,
            own_persona=to_json(message.persona) if message.persona else "",
            first_title=to_json(title) if title else "",
            limits=self._send_limits,
        )

    async def _sent_before(
        self, caller: Caller, room_id: str, message: NewMessage
    ) -> Accepted | None:
        """What MySQL knows of this client_message_id: the two messages of the first send, or
        None."""
        rows = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_message_find_client", (room_id, message.client_message_id)
        )
        if not rows:
            return None
        if rows[0]["body_hash"] != _fingerprint(message):
            raise IdempotencyMismatch
        pair = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_messages_get", (room_id, int(rows[0]["seq"]) + 2, 2)
        )
        by_id = {row["message_id"]: row for row in pair}
        question, reply = by_id.get(rows[0]["message_id"]), by_id.get(rows[0]["reply_message_id"])
        # A delete that is not in MySQL yet shows in the state, read after the rows.
        states = await self.states(caller, *by_id)
        if question is None or reply is None or not set(GONE).isdisjoint(states):
            raise NotAllowedInState(
                "the message that this client_message_id sent, or its reply, was deleted"
            )
        return Accepted(stored_row(room_id, question), stored_row(room_id, reply))

    async def states(self, caller: Caller, *message_ids: str) -> list[str | None]:
        """The states as they stand; None for a key that is absent."""
        keys = self._keys.partition(caller.partition)
        texts = await self._cache.execute_many(
            [("GET", keys.message_state(message_id)) for message_id in message_ids]
        )
        return [state_name(text) for text in texts]

    async def delete(self, caller: Caller, room_id: str, message_id: str) -> None:
        """Delete a message; a reply that runs or waits is ended. Repeating it is no error."""
        self.check_room_id(caller, room_id)
        call = DeleteMessage.of(
            self._keys.partition(caller.partition),
            self._streams.stream_key(caller.partition, caller.shard_id),
            caller,
            room_id,
            message_id,
            self._settings.ready_lease_ms,
        )
        answer = await self._call(call, caller, room_id)
        if isinstance(answer, NeedsDatabase):
            rows = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_message_find", (room_id, message_id)
            )
            if not rows:
                raise MessageNotFound
            if rows[0]["deleted"]:
                return
            call.stored_seq = int(rows[0]["seq"])
            answer = await self._call(call, caller, room_id)
        match answer:
            case NoSuchMessage():
                raise MessageNotFound
            case MessageDeleted(backlog):
                self._report_backlog(caller, backlog)


def _fingerprint(message: NewMessage) -> str:
    """What must be the same for a client_message_id to be the same send."""
    return body_hash(message.content, message.persona)
