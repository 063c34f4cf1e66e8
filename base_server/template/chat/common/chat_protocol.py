"""Protocol ids and paths of the chat template: id, path, one-line summary."""

from __future__ import annotations

from enum import Enum


class ChatProtocol(Enum):
    """6017 to 6019 and 6022 to 6029 are kept for later features."""

    ROOM_LIST = (6001, "/api/chat/rooms", "Rooms of the account, newest activity first")
    ROOM_CREATE = (6002, "/api/chat/room/create", "Create a room")
    ROOM_UPDATE = (6003, "/api/chat/room/update", "Change a room's title")
    ROOM_DELETE = (6004, "/api/chat/room/delete", "Delete a room with its messages")
    MESSAGE_SEND = (6011, "/api/chat/message/send", "Send a message and get the AI's reply")
    MESSAGE_STREAM = (6012, "/api/chat/message/stream", "Send a message and get the AI's reply as it is being written")
    MESSAGE_RESUME = (6013, "/api/chat/message/resume", "The rest of a reply, from any event on")
    MESSAGE_STOP = (6014, "/api/chat/message/stop", "Stop a reply and keep what it has said")
    MESSAGE_LIST = (6015, "/api/chat/messages", "Messages of a room")
    MESSAGE_DELETE = (6016, "/api/chat/message/delete", "Delete a message")
    PERSONAS = (6021, "/api/chat/personas", "The AI personas to choose from")

    def __init__(self, protocol_id: int, path: str, summary: str) -> None:
        self.id = protocol_id
        self.path = path
        self.summary = summary
