"""Protocol ids and paths of the chat template: id, path, one-line summary, errors of its own."""

from __future__ import annotations

from enum import Enum

from base_server.template.base.errors import ErrorCode as E

_ROOM = (E.ROOM_NOT_FOUND,)
_MESSAGE = (E.ROOM_NOT_FOUND, E.MESSAGE_NOT_FOUND)
_REPLY = (*_MESSAGE, E.NOT_ALLOWED_IN_STATE)
_ACCEPT = (*_REPLY, E.MESSAGE_NOT_SENT, E.ROOM_BUSY, E.IDEMPOTENCY_MISMATCH, E.TOO_MANY_REQUESTS)
_CREATE = (*_ROOM, E.IDEMPOTENCY_MISMATCH, E.TOO_MANY_REQUESTS)


KEPT_IDS = (*range(6017, 6020), *range(6022, 6030))
"""For regenerate, edit, branches, usage, search and export."""


class ChatProtocol(Enum):
    """What the chat answers."""

    ROOM_LIST = (6001, "/api/chat/rooms", "Rooms of the account, newest activity first", ())
    ROOM_CREATE = (6002, "/api/chat/room/create", "Create a room", _CREATE)
    ROOM_UPDATE = (6003, "/api/chat/room/update", "Change a room's title", _ROOM)
    ROOM_DELETE = (6004, "/api/chat/room/delete", "Delete a room with its messages", _ROOM)
    MESSAGE_SEND = (
        6011,
        "/api/chat/message/send",
        "Send a message and get the AI's reply",
        (*_ACCEPT, E.AI_UNAVAILABLE, E.AI_TIMED_OUT),
    )
    # A stream has begun when the AI is asked: its failure is an event.
    MESSAGE_STREAM = (
        6012,
        "/api/chat/message/stream",
        "Send a message and get the AI's reply as it is being written",
        _ACCEPT,
    )
    MESSAGE_RESUME = (
        6013,
        "/api/chat/message/resume",
        "The rest of a reply, from any event on",
        _REPLY,
    )
    MESSAGE_STOP = (
        6014,
        "/api/chat/message/stop",
        "Stop a reply and keep what it has said",
        _REPLY,
    )
    MESSAGE_LIST = (6015, "/api/chat/messages", "Messages of a room", _ROOM)
    MESSAGE_DELETE = (6016, "/api/chat/message/delete", "Delete a message", _MESSAGE)
    PERSONAS = (6021, "/api/chat/personas", "The AI personas to choose from", ())

    def __init__(self, protocol_id: int, path: str, summary: str, errors: tuple[E, ...]) -> None:
        self.id = protocol_id
        self.path = path
        self.summary = summary
        self.errors = (E.CHAT_FAILED, *errors)
