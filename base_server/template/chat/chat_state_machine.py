"""ChatStateMachine: the documented, atomic state calls on single rooms and messages.

The chat's own scripts move states themselves, in the same step as the write (``lua/``). These calls
are for a host's own code: they know no room record and no shard, and a missing key is ABSENT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from service.cache.cache_client import CacheClient
from service.cache.cache_errors import CacheCommandError
from service.core.facade import Facade
from template.chat.chat_keys import ChatKeys
from template.chat.chat_scripts import SCRIPTS
from template.chat.chat_settings import ChatSettings
from template.chat.chat_states import MessageState, RoomState, allowed_before, can_move

__all__ = ["ChatStateMachine", "MessageState", "RoomState", "Transition", "get_chat_state_machine"]

# C is COMPOSING of a message and CREATING of a room.
_LETTERS = {"P": "PENDING", "R": "PROCESSING", "S": "SENT", "A": "ACTIVE", "X": "DELETING", "D": "DELETED"}

_LOG_ITEM = re.compile(r"([A-Z])([0-9]{1,14})(?:,|$)")


@dataclass(frozen=True)
class Transition:
    """False when it was refused; ``reason`` says why and ``before`` what the state was (None: absent)."""

    moved: bool
    before: str | None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.moved


class ChatStateMachine(Facade):
    """Compare-and-set in Lua against the one table in ``chat_states``. Raises only ServiceUnavailable, on an outage."""

    def __init__(self, cache: CacheClient, settings: ChatSettings) -> None:
        self._cache = cache
        self._keys = ChatKeys(cache)
        self._ttl_ms = settings.state_ttl_s * 1000
        self._log_ttl_s = settings.transition_log_ttl_s

    async def transition_room(self, room_id: str, to: RoomState, from_state: RoomState | None = None) -> Transition:
        """Move a room to ``to``; with ``from_state`` only from there."""
        return await self._transition(self._keys.room_state(room_id), to, from_state)

    async def transition_message(
        self, message_id: str, to: MessageState, from_state: MessageState | None = None
    ) -> Transition:
        """Move a message to ``to``; with ``from_state`` only from there."""
        return await self._transition(self._keys.message_state(message_id), to, from_state)

    async def get_room_state(self, room_id: str) -> RoomState | None:
        """The room's state; None when the key is absent (never stored, or settled longer ago than the state TTL)."""
        state = _state_name(await self._read(self._keys.room_state(room_id)))
        return RoomState(state) if state else None

    async def get_message_state(self, message_id: str) -> MessageState | None:
        """The message's state; None when the key is absent."""
        state = _state_name(await self._read(self._keys.message_state(message_id)))
        return MessageState(state) if state else None

    async def get_room_log(self, room_id: str) -> list[tuple[str, datetime]]:
        """The last transitions of a room, oldest first: (state, time), none older than ``transition_log_ttl_s``."""
        return self._log(await self._read(self._keys.room_state(room_id)), "CREATING")

    async def get_message_log(self, message_id: str) -> list[tuple[str, datetime]]:
        """The last transitions of a message, as :meth:`get_room_log`."""
        return self._log(await self._read(self._keys.message_state(message_id)), "COMPOSING")

    async def smart_delete_message(self, message_id: str) -> tuple[bool, str]:
        """Take a message's state towards DELETED, the state only: what is not in MySQL yet is DELETED at once, the
        rest DELETING. Answers (done, text); repeating it is done too."""
        for to in (MessageState.DELETED, MessageState.DELETING):
            before = ("COMPOSING", "PENDING") if to is MessageState.DELETED else allowed_before(to)
            result = await self._compare_and_set(self._keys.message_state(message_id), to, before)
            if result.moved:
                return True, to.value
            if result.before in ("DELETING", "DELETED"):
                return True, f"already {result.before}"
        return False, f"message {message_id} is {result.before or 'ABSENT'}: nothing to delete"

    async def _transition(
        self, key: str, to: RoomState | MessageState, from_state: RoomState | MessageState | None
    ) -> Transition:
        if from_state is not None and not can_move(from_state.value, to):
            return Transition(False, None, f"{from_state.value} -> {to.value} is no transition")
        before = allowed_before(to) if from_state is None else (from_state.value,)
        return await self._compare_and_set(key, to, before)

    async def _compare_and_set(self, key: str, to: RoomState | MessageState, before: tuple[str, ...]) -> Transition:
        # Not repeatable: sent twice, the second answer would be a refusal of what the first one did.
        code, state = await self._cache.run_script(
            SCRIPTS["transition"], [key], [to.value, ",".join(before), self._ttl_ms], repeatable=False
        )
        known = None if state == "ABSENT" else state
        if code == 0:
            return Transition(True, known)
        return Transition(False, known, f"{state} -> {to.value} is not allowed (only from {', '.join(before)})")

    async def _read(self, key: str) -> str:
        """The stored value; '' when it is absent, or of another type."""
        try:
            return str(await self._cache.execute("GET", key) or "")
        except CacheCommandError:
            return ""

    def _log(self, text: str, first: str) -> list[tuple[str, datetime]]:
        oldest = datetime.now(UTC).timestamp() - self._log_ttl_s
        log = [
            (_LETTERS.get(letter, first), datetime.fromtimestamp(int(ms) / 1000, UTC))
            for letter, ms in _LOG_ITEM.findall(text.partition("|")[2])
        ]
        return [(state, at) for state, at in log if at.timestamp() >= oldest]


def _state_name(text: str) -> str | None:
    """The state in a stored value ('SENT|…'); a value that is no state of ours counts as absent."""
    name = text.partition("|")[0]
    return name if name in _STATE_NAMES else None


_STATE_NAMES = {state.value for state in RoomState} | {state.value for state in MessageState}


def get_chat_state_machine() -> ChatStateMachine:
    """The running server's state machine."""
    return ChatStateMachine.get_instance()
