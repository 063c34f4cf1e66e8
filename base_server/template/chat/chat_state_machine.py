"""ChatStateMachine: the documented, atomic state calls on single rooms and messages.

The chat's own scripts move states themselves, in the same step as the write (``lua/``). These calls
are for a host's own code. One that sets DELETING or DELETED for a room or message of ours deletes
it (``chat_deletes``): with its event, in one step, whether or not it is in Redis. For an id that
neither Redis nor a shard knows a missing key is ABSENT, and nothing but the state moves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.facade import Facade
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script_call import ScriptCall
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.scripts import ScriptStatus, script_call
from base_server.template.chat.domain.states import (
    GONE,
    MESSAGE_STATE_CODES,
    ROOM_STATE_CODES,
    MessageState,
    RoomState,
    allowed_before,
    can_move,
)
from base_server.template.chat.persistence.deletes import ChatDeletes, DeleteOutcome, Deletion
from base_server.template.chat.rooms.directory import ChatDirectory
from base_server.template.chat.settings import ChatSettings

__all__ = ["ChatStateMachine", "MessageState", "RoomState", "Transition", "get_chat_state_machine"]

S = TypeVar("S", RoomState, MessageState)

# The message's room, in or behind the log (lua/_states.lua, with_state).
_ROOM = re.compile(r"\|[^|,]*")
_LOG_ITEM = re.compile(r"([A-Z])([0-9]{1,14})(?:,|$)")


@dataclass(frozen=True)
class Transition:
    """False when it was refused; ``reason`` says why and ``before`` what the state was (None:
    absent)."""

    moved: bool
    before: str | None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.moved


@script_call("move_state")
@dataclass(slots=True)
class MoveState(ScriptCall[tuple[bool, str]]):
    """Answers whether the state was moved, and what it was before, or is now."""

    state_key: str
    new_state: str
    allowed_states: str
    ttl_ms: int
    is_saved: bool

    @staticmethod
    def read(answer: list[Any]) -> tuple[bool, str]:
        return answer[0] == ScriptStatus.OK, answer[1]


class ChatStateMachine(Facade):
    """Compare-and-set in Lua against the one table in ``chat_states``. Raises only
    ServiceUnavailable, on an outage."""

    def __init__(self, cache: CacheClient, settings: ChatSettings) -> None:
        self._cache = cache
        self._keys = ChatKeys(cache)
        self._ttl_ms = settings.state_ttl_s * 1000
        self._log_ttl_s = settings.transition_log_ttl_s
        self._directory: ChatDirectory | None = None
        self._deletes: ChatDeletes | None = None

    def delete_through(self, directory: ChatDirectory, deletes: ChatDeletes) -> None:
        """From here on deletes are those of the chat's rooms and messages, not of their states
        alone."""
        self._directory, self._deletes = directory, deletes

    async def transition_room(
        self, room_id: str, to: RoomState | str, from_state: RoomState | str | None = None
    ) -> Transition:
        """Move a room to ``to``; with ``from_state`` only from there. States may be given by their
        names."""
        move = _move_of(RoomState, room_id, to, from_state)
        if isinstance(move, str):
            return Transition(False, None, move)
        (to, before), key = move, await self._room_key(room_id)
        if (
            self._deletes is not None
            and to.value in GONE
            and _state_name(await self._read(key)) not in GONE
        ):
            try:
                deletion = await self._deletes.room(room_id, to, before)
            except ServiceUnavailable as outage:
                return _not_asked(outage)
            if (result := _transition_of(deletion, to.value, before)) is not None:
                return result
        return await self._compare_and_set(key, to, before)

    async def transition_message(
        self, message_id: str, to: MessageState | str, from_state: MessageState | str | None = None
    ) -> Transition:
        """Move a message to ``to``, as :meth:`transition_room`."""
        move = _move_of(MessageState, message_id, to, from_state)
        if isinstance(move, str):
            return Transition(False, None, move)
        to, before = move
        key = self._keys.message_state(message_id)
        if (
            self._deletes is not None
            and to.value in GONE
            and _state_name(await self._read(key)) not in GONE
        ):
            try:
                deletion = await self._deletes.message(message_id, to, before)
            except ServiceUnavailable as outage:
                return _not_asked(outage)
            if (result := _transition_of(deletion, to.value, before)) is not None:
                if result.moved:
                    await self._follow(message_id, to)
                return result
        return await self._compare_and_set(key, to, before)

    async def get_room_state(self, room_id: str) -> RoomState | None:
        """The room's state; None when the key is absent (never stored, or settled longer ago than
        the state TTL)."""
        return _state_of(RoomState, await self._read_room(room_id))

    async def get_message_state(self, message_id: str) -> MessageState | None:
        """The message's state; None when the key is absent."""
        return _state_of(MessageState, await self._read_message(message_id))

    async def get_room_log(self, room_id: str) -> list[tuple[str, datetime]]:
        """The last transitions of a room, oldest first: (state, time), none older than
        ``transition_log_ttl_s``."""
        return self._log(await self._read_room(room_id), ROOM_STATE_CODES)

    async def get_message_log(self, message_id: str) -> list[tuple[str, datetime]]:
        """The last transitions of a message, as :meth:`get_room_log`."""
        return self._log(await self._read_message(message_id), MESSAGE_STATE_CODES)

    async def smart_delete_message(self, message_id: str) -> tuple[bool, str]:
        """Delete a message: DELETED at once what is not in MySQL yet, DELETING the rest until MySQL
        has the delete. Answers (done, text); repeating it is done too."""
        reason = _fault_of(message_id)
        return (False, reason) if reason else await self._smart_delete(message_id)

    async def _smart_delete(self, message_id: str) -> tuple[bool, str]:
        key = self._keys.message_state(message_id)
        if self._deletes is not None and _state_name(await self._read(key)) not in GONE:
            try:
                deletion = await self._deletes.message(message_id, None)
            except ServiceUnavailable as outage:
                refused = _not_asked(outage)
                return False, refused.reason
            if deletion.outcome is DeleteOutcome.DONE:
                await self._follow(message_id, MessageState(deletion.after))
                return True, deletion.after
            if deletion.outcome is DeleteOutcome.BEFORE:
                return True, f"already {deletion.before}"
        for to in (MessageState.DELETED, MessageState.DELETING):
            before = ("COMPOSING", "PENDING") if to is MessageState.DELETED else allowed_before(to)
            result = await self._compare_and_set(key, to, before)
            if result.moved:
                return True, to.value
            if result.before in GONE:
                return True, f"already {result.before}"
        return False, f"message {message_id} is {result.before or 'ABSENT'}: nothing to delete"

    async def move_message_state(self, message_id: str, to: MessageState) -> Transition:
        """Move the state alone, for the consumer: what it says was done already."""
        is_saved = to is MessageState.SENT
        return await self._compare_and_set(
            self._keys.message_state(message_id), to, allowed_before(to), is_saved
        )

    async def delete_what_was(self, message_id: str, room_id: str) -> None:
        """A message was stored whose state a host had set to DELETING or DELETED before: delete
        it."""
        if self._deletes is not None:
            await self._deletes.message(message_id, None, room_id=room_id)

    async def _room_key(self, room_id: str) -> str:
        if self._directory is None:
            return self._keys.room(room_id).state
        return self._keys.room(room_id, await self._directory.partition_of(room_id)).state

    async def _follow(self, message_id: str, to: MessageState) -> None:
        """An id that is not ours has a state of its own beside the one in its room's partition: it
        follows."""
        if self._cache.partitions.is_own_id(message_id) is None:
            await self.move_message_state(message_id, to)

    async def _compare_and_set(
        self,
        key: str,
        to: RoomState | MessageState,
        before: tuple[str, ...],
        is_saved: bool = False,
    ) -> Transition:
        # Not repeatable: sent twice, the second answer would be a refusal of what the first one
        # did.
        call = MoveState(key, to.value, ",".join(before), self._ttl_ms, is_saved)
        is_moved, state = await call.run(self._cache, repeatable=False)
        known = None if state == "ABSENT" else state
        if is_moved:
            return Transition(True, known)
        return Transition(
            False, known, f"{state} -> {to.value} is not allowed (only from {', '.join(before)})"
        )

    async def _read_room(self, room_id: str) -> str:
        return "" if _fault_of(room_id) else await self._read(await self._room_key(room_id))

    async def _read_message(self, message_id: str) -> str:
        return (
            "" if _fault_of(message_id) else await self._read(self._keys.message_state(message_id))
        )

    async def _read(self, key: str) -> str:
        """The stored value; '' when it is absent, or of another type."""
        try:
            return str(await self._cache.execute("GET", key) or "")
        except CacheCommandError:
            return ""

    def _log(self, text: str, codes: Mapping[str, str]) -> list[tuple[str, datetime]]:
        oldest = datetime.now(UTC).timestamp() - self._log_ttl_s
        _, _, rest = text.partition("|")
        log = [
            (codes[code], datetime.fromtimestamp(int(ms) / 1000, UTC))
            for code, ms in _LOG_ITEM.findall(_ROOM.sub("", rest))
            if code in codes
        ]
        return [(state, at) for state, at in log if at.timestamp() >= oldest]


def _state_name(text: str) -> str | None:
    """The state in a stored value ('SENT|…'); a value that is no state of ours counts as absent."""
    name = text.partition("|")[0]
    return name if name in _STATE_NAMES else None


def _state_of(kind: type[S], text: str) -> S | None:
    """The state in a stored value, if it is one of this kind."""
    return _member(kind, text.partition("|")[0])


def _member(kind: type[S], value: object) -> S | None:
    """A state that was given itself or by its name; one of the other kind is none, whatever its
    name."""
    if isinstance(value, kind):
        return value
    return next((state for state in kind if state.value == value), None)


def _fault_of(identifier: object) -> str:
    """Why this cannot be the id of anything; '' when it can."""
    if not isinstance(identifier, str):
        return f"an id is text, not {type(identifier).__name__}"
    try:
        identifier.encode()
    except UnicodeEncodeError:
        return "an id is text that UTF-8 can hold"
    return ""


def _move_of(
    kind: type[S], identifier: object, to: object, from_state: object
) -> tuple[S, tuple[str, ...]] | str:
    """Where to, and the states from which the move may be made; or why it may not."""
    if reason := _fault_of(identifier):
        return reason
    states = ", ".join(state.value for state in kind)
    if (after := _member(kind, to)) is None:
        return f"{to} is no {kind.__name__} (one of {states})"
    if from_state is None:
        return after, allowed_before(after)
    if (before := _member(kind, from_state)) is None:
        return f"{from_state} is no {kind.__name__} (one of {states})"
    if not can_move(before.value, after):
        return f"{before.value} -> {after.value} is no transition"
    return after, (before.value,)


def _transition_of(deletion: Deletion, to: str, before: tuple[str, ...]) -> Transition | None:
    """What a delete means as a transition; None when the chat does not know the id."""
    match deletion.outcome:
        case DeleteOutcome.DONE:
            return Transition(True, deletion.before)
        case DeleteOutcome.UNKNOWN | DeleteOutcome.FOREIGN:
            return None
    state = deletion.before or "DELETED"
    return Transition(
        False, state, f"{state} -> {to} is not allowed (only from {', '.join(before)})"
    )


def _not_asked(outage: ServiceUnavailable) -> Transition:
    """Nothing was done, for a database that may know the id is away; an outage of Redis is
    raised."""
    if outage.service == "cache":
        raise outage
    return Transition(False, None, f"not possible now, try again: {outage.reason}")


_STATE_NAMES = {state.value for state in RoomState} | {state.value for state in MessageState}


def get_chat_state_machine() -> ChatStateMachine:
    """The running server's state machine."""
    return ChatStateMachine.get_instance()
