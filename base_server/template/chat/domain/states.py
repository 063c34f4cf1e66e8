"""The one table of states: what a room or message can be, and where each state may come from."""

from __future__ import annotations

from enum import Enum


class RoomState(Enum):
    CREATING = "CREATING"
    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    ACTIVE = "ACTIVE"
    DELETING = "DELETING"
    DELETED = "DELETED"


class MessageState(Enum):
    COMPOSING = "COMPOSING"
    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    SENT = "SENT"
    DELETING = "DELETING"
    DELETED = "DELETED"


# In one of these a room or message is in no list and no history, and takes nothing (is_gone in
# lua/_states.lua).
GONE = ("DELETING", "DELETED")

# A key that is not there.
ABSENT = "ABSENT"

# State before -> states after. A redelivered event may take PROCESSING again.
ROOM_TRANSITIONS: dict[str, tuple[RoomState, ...]] = {
    ABSENT: (RoomState.CREATING,),
    "CREATING": (RoomState.PENDING, RoomState.DELETED),
    "PENDING": (RoomState.PROCESSING, RoomState.DELETING, RoomState.DELETED),
    "PROCESSING": (RoomState.PROCESSING, RoomState.ACTIVE, RoomState.DELETING),
    "ACTIVE": (RoomState.DELETING,),
    "DELETING": (RoomState.DELETED,),
    "DELETED": (),
}
MESSAGE_TRANSITIONS: dict[str, tuple[MessageState, ...]] = {
    ABSENT: (MessageState.COMPOSING, MessageState.PENDING),
    "COMPOSING": (MessageState.PENDING, MessageState.DELETED),
    "PENDING": (MessageState.PROCESSING, MessageState.DELETED),
    "PROCESSING": (MessageState.PROCESSING, MessageState.SENT, MessageState.DELETING),
    "SENT": (MessageState.DELETING,),
    "DELETING": (MessageState.DELETED,),
    "DELETED": (),
}

# State codes of the transition log, and of the states of a page; lua/_states.lua writes them (a
# test compares).
_STATE_CODES = {"P": "PENDING", "R": "PROCESSING", "X": "DELETING", "D": "DELETED"}
ROOM_STATE_CODES = {"C": "CREATING", "A": "ACTIVE", **_STATE_CODES}
MESSAGE_STATE_CODES = {"C": "COMPOSING", "S": "SENT", **_STATE_CODES}


def allowed_before(state: RoomState | MessageState) -> tuple[str, ...]:
    """The states, and ABSENT, from which ``state`` may be reached."""
    table = ROOM_TRANSITIONS if isinstance(state, RoomState) else MESSAGE_TRANSITIONS
    return tuple(before for before, after in table.items() if state in after)


def can_move(before: str, after: RoomState | MessageState) -> bool:
    return before in allowed_before(after)


def state_name(text: str | None) -> str | None:
    """The state in a stored value ('SENT|…'); None when absent."""
    return text.partition("|")[0] if text else None
