"""A reply by its id, for the owner of its room: to follow it, and to stop it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from base_server.template.base.errors import MessageNotFound, NotAllowedInState
from base_server.template.chat.cache.script_runner import ScriptRunner
from base_server.template.chat.cache.scripts import ScriptStatus
from base_server.template.chat.common.chat_model import ChatMessage
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import open_payload
from base_server.template.chat.domain.message_format import read_message, stored_row
from base_server.template.chat.domain.states import GONE, MessageState, state_name
from base_server.template.chat.replies.slot import ReplyRef
from base_server.template.chat.replies.slots import reply_keys


@dataclass(frozen=True)
class StoppedReply:
    """``is_ours``: this call ended it, and ``granted_token`` is of the slot that may run now (''
    for none)."""

    message: ChatMessage
    is_ours: bool
    granted_token: str = ""


class ReplyRepository(ScriptRunner):
    """Raises RoomNotFound, MessageNotFound (deleted ones too), NotAllowedInState for a message that
    is no reply."""

    async def attach(
        self, caller: Caller, room_id: str, reply_id: str, signals: Literal["text", "end", ""]
    ) -> ChatMessage:
        """The reply as it stands, without the text of one that runs.

        ``signals``: what its process shall publish."""
        self.check_room_id(caller, room_id)
        keys = self._keys.partition(caller.partition)
        room = keys.room(room_id)
        answer = await self._run(
            "watch_reply",
            caller,
            room_id,
            [
                room.record,
                room.messages,
                keys.generation,
                keys.message_state(reply_id),
                keys.signals,
            ],
            [caller.db_key, reply_id, signals],
        )
        if answer[0] == ScriptStatus.OK:
            return _checked(read_message(answer[1], answer[2] or MessageState.SENT.value))
        return await self._stored(caller, room_id, reply_id, answer[0])

    async def stop(self, caller: Caller, room_id: str, reply_id: str) -> StoppedReply:
        """End a reply that runs or waits, with the text in its stream; one that has ended stays as
        it is."""
        self.check_room_id(caller, room_id)
        answer = await self._run(
            "stop_reply",
            caller,
            room_id,
            [
                *reply_keys(self._keys, self._streams, ReplyRef(caller, room_id, reply_id, 0)),
                self._keys.partition(caller.partition).generation,
            ],
            [
                caller.db_key,
                room_id,
                reply_id,
                "stopped",
                self._settings.ready_lease_ms,
                self._settings.stream_ttl_s * 1000,
                "0",
                open_payload(caller, room_id),
            ],
        )
        if answer[0] == ScriptStatus.OK:
            self._report_backlog(caller, answer[3])
            return StoppedReply(read_message(answer[1], answer[2]), True, answer[4])
        if answer[0] == ScriptStatus.DUPLICATE:
            return StoppedReply(
                _checked(read_message(answer[1], answer[2] or MessageState.SENT.value)), False
            )
        return StoppedReply(await self._stored(caller, room_id, reply_id, answer[0]), False)

    async def _stored(
        self, caller: Caller, room_id: str, message_id: str, answer: int
    ) -> ChatMessage:
        """A reply older than the window, from MySQL."""
        if answer != ScriptStatus.NEEDS_DATABASE:
            raise MessageNotFound
        found = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_message_find", (room_id, message_id)
        )
        if not found or found[0]["deleted"]:
            raise MessageNotFound
        rows = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_messages_get", (room_id, int(found[0]["seq"]) + 1, 1)
        )
        # Race: a delete that MySQL does not have yet shows in the state, which is read after the
        # rows.
        state = state_name(
            await self._cache.execute("GET", self._keys.message_state(message_id, caller.partition))
        )
        if not rows or rows[0]["message_id"] != message_id or state in GONE:
            raise MessageNotFound
        return _checked(
            read_message(stored_row(room_id, rows[0]), state or MessageState.SENT.value)
        )


def _checked(message: ChatMessage) -> ChatMessage:
    if message.sender_type != "AI":
        raise NotAllowedInState("the message is no reply of the AI")
    return message
