"""Messages: accepting a question with its reply, deleting, and their states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from base_server.template.base.errors import IdempotencyMismatch, MessageNotFound, NotAllowedInState
from base_server.template.chat.cache.loader import row_entry
from base_server.template.chat.cache.script_runner import ScriptRunner, state_name
from base_server.template.chat.cache.scripts import Answer
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import open_payload, payload
from base_server.template.chat.domain.message_format import body_hash, open_tail, title_of, to_json
from base_server.template.chat.domain.metrics import REPEATED_SENDS
from base_server.template.chat.domain.states import GONE
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
    """A stored question and its reply, as list entries. ``turn``: of a reply that nobody has asked for yet; None: it
    runs, has ended, or waits in another process.

    ``has_come``: whoever claims the turn may ask now; else it waits. ``repeated``: the question was sent before; else
    ``history`` is the entries before a question whose turn has come.
    """

    question: str
    reply: str
    turn: ReplySlot | None = None
    has_come: bool = False
    repeated: bool = True
    history: Sequence[str] = ()


class MessageRepository(ScriptRunner):
    """The messages of rooms."""

    @cached_property
    def _send_limits(self) -> Sequence[float]:
        """How the ARGV of accept_send end."""
        settings = self._settings
        return (
            settings.max_waiting_turns,
            self._streams.max_backlog,
            round(settings.reply_deadline_s * 1000),
            settings.max_dead_letters_per_room,
            settings.sends_per_minute,
            settings.sends_at_once,
            settings.max_open_replies,
            settings.stream_ttl_s * 1000,
            settings.ready_lease_ms,
            settings.history_length,
            round(settings.reply_lease_s * 1000),
        )

    async def accept(self, caller: Caller, room_id: str, message: NewMessage) -> Accepted:
        """Store a question and open its reply; G1: when this returns, both are in Redis with the event."""
        self.check_room_id(caller, room_id)
        keys, args = self._accept_call(caller, room_id, message)
        while (answer := await self._run("accept_send", caller, room_id, keys, args))[
            0
        ] == Answer.UNSURE:
            if (sent := await self._sent_before(caller, room_id, message)) is not None:
                REPEATED_SENDS.add()
                return sent
            args[10] = answer[1]
        if answer[0] == Answer.REPEAT:
            REPEATED_SENDS.add()
            turn = parse_slot(answer[3], caller, room_id) if answer[3] else None
            return Accepted(answer[1], answer[2], turn, has_come=True)
        self._report_backlog(caller, answer[5])
        turn = parse_slot(answer[6], caller, room_id)
        return Accepted(
            answer[2], answer[3], turn, bool(answer[4]), repeated=False, history=answer[7:]
        )

    def _accept_call(
        self, caller: Caller, room_id: str, message: NewMessage
    ) -> tuple[list[str], list[Any]]:
        keys = self._keys.partition(caller.partition)
        room, account = keys.room(room_id), keys.account(caller.account_id)
        script_keys = [
            *self._room_keys(caller, keys, room),
            account.record,
            account.rooms,
            account.order,
            account.load_token,
            keys.message_state(message.question_id),
            keys.message_state(message.reply_id),
            room.waiting,
            keys.leases,
            self._held(caller),
            account.open_replies,
            keys.signals,
            keys.message_state(""),
            room.reply_stream(""),
        ]
        return script_keys, [
            caller.db_key,
            room_id,
            message.question_id,
            message.reply_id,
            message.token,
            open_tail("USER", message.content, None),
            open_tail("AI", "", message.question_id, streaming=True),
            open_payload(caller, room_id),
            message.client_message_id or "",
            _fingerprint(message) if message.client_message_id else "",
            "",
            self._id_time(message.client_message_id),
            message.on_busy,
            to_json(message.persona) if message.persona else "",
            to_json(title) if (title := title_of(message.content)) else "",
            *self._send_limits,
        ]

    async def _sent_before(
        self, caller: Caller, room_id: str, message: NewMessage
    ) -> Accepted | None:
        """What MySQL knows of this client_message_id: the two messages of the first send, or None."""
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
        return Accepted(row_entry(room_id, question), row_entry(room_id, reply))

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
        keys = self._keys.partition(caller.partition)
        room = keys.room(room_id)
        script_keys = [
            *self._room_keys(caller, keys, room),
            keys.message_state(message_id),
            keys.leases,
            room.waiting,
            room.reply_stream(message_id),
            keys.signals,
        ]
        event = payload(caller, room_id, message_id=message_id)
        args = [
            caller.db_key,
            room_id,
            message_id,
            "",
            event,
            self._settings.ready_lease_ms,
            "",
            "",
        ]
        answer = await self._run("delete_message", caller, room_id, script_keys, args)
        if answer[0] == Answer.UNSURE:
            rows = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_message_find", (room_id, message_id)
            )
            if not rows:
                raise MessageNotFound
            if rows[0]["deleted"]:
                return
            args[3] = str(rows[0]["seq"])
            answer = await self._run("delete_message", caller, room_id, script_keys, args)
        if answer[0] == Answer.LOST:
            raise MessageNotFound
        if answer[0] == Answer.OK:
            self._report_backlog(caller, answer[1])


def _fingerprint(message: NewMessage) -> str:
    """What must be the same for a client_message_id to be the same send."""
    return body_hash(message.content, message.persona)
