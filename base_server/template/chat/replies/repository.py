"""A reply by its id, for the owner of its room: to follow it, and to stop it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from base_server.template.base.errors import MessageNotFound, NotAllowedInState
from base_server.template.chat.cache.script_runner import ScriptRunner
from base_server.template.chat.cache.scripts import NeedsDatabase
from base_server.template.chat.common.chat_model import ChatMessage
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import open_payload
from base_server.template.chat.domain.message_format import read_message, stored_row
from base_server.template.chat.domain.states import GONE, MessageState, state_name
from base_server.template.chat.replies.calls import (
    EndKeys,
    Found,
    LeaseRuns,
    ReplyStopped,
    StopReply,
    StoredReply,
    WatchReply,
)
from base_server.template.chat.replies.slot import ReplyRef


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
        self, caller: Caller, room_id: str, reply_id: str, watch: Literal["text", "end", ""]
    ) -> ChatMessage:
        """The reply as it stands, without the text of one that runs.

        ``watch``: what its process shall publish."""
        self.check_room_id(caller, room_id)
        partition = self._keys.partition(caller.partition)
        call = WatchReply(
            caller,
            partition.room(room_id),
            partition,
            partition.message_state(reply_id),
            reply_id,
            watch,
        )
        found = await self._call(call, caller, room_id)
        return await self._read(caller, room_id, reply_id, found)

    async def stop(self, caller: Caller, room_id: str, reply_id: str) -> StoppedReply:
        """End a reply that runs or waits, with the text in its stream; one that has ended stays as
        it is."""
        self.check_room_id(caller, room_id)
        call = StopReply(
            EndKeys.of(self._keys, self._streams, ReplyRef(caller, room_id, reply_id, 0)),
            account_db_key=caller.db_key,
            room_id=room_id,
            reply_id=reply_id,
            reason="stopped",
            ready_lease_ms=self._settings.ready_lease_ms,
            stream_ttl_ms=self._settings.stream_ttl_s * 1000,
            payload_start=open_payload(caller, room_id),
        )
        stopped = await self._call(call, caller, room_id)
        if isinstance(stopped, ReplyStopped):
            self._report_backlog(caller, stopped.backlog)
            message = read_message(stopped.message, stopped.state)
            return StoppedReply(message, True, stopped.granted_token)
        return StoppedReply(await self._read(caller, room_id, reply_id, stopped), False)

    async def _read(
        self, caller: Caller, room_id: str, reply_id: str, found: LeaseRuns | Found
    ) -> ChatMessage:
        match found:
            case StoredReply(message, state):
                return _checked(read_message(message, state))
            case NeedsDatabase():
                return await self._stored(caller, room_id, reply_id)
        raise MessageNotFound

    async def _stored(self, caller: Caller, room_id: str, message_id: str) -> ChatMessage:
        """A reply older than the window, from MySQL."""
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
