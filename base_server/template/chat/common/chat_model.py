"""ChatRoom and ChatMessage, as clients see them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer

_CANONICAL_LENGTH = len("2026-01-02T03:04:05.678+00:00")


def wire_time(text: str) -> str:
    """A time as ISO 8601 in UTC with an offset; '' stays '', a naive time is the server's local
    time."""
    if not text or (len(text) == _CANONICAL_LENGTH and text.endswith("+00:00")):
        return text
    return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="milliseconds")


WireTime = Annotated[str, PlainSerializer(wire_time)]


class ChatRoom(BaseModel):
    """A room. ``message_count`` counts what can be seen; ``state`` is the RoomState's name."""

    model_config = ConfigDict(validate_by_name=True, use_attribute_docstrings=True)

    room_id: str = ""
    title: str = ""
    ai_persona: str = ""
    created_at: WireTime = ""
    last_message_at: WireTime = ""
    message_count: int = 0
    state: str | None = None


class ChatMessage(BaseModel):
    """A message. ``seq`` orders the room; ``sender_type`` is USER, AI or SYSTEM; ``state`` the
    MessageState's name.

    ``metadata``: ai_persona; of the AI also model, tokens {prompt, completion, total},
    finish_reason (stop, length, stopped, interrupted, error) and latency_ms.
    """

    model_config = ConfigDict(validate_by_name=True, use_attribute_docstrings=True)

    message_id: str = ""
    room_id: str = ""
    seq: int | None = None
    """Place in the room, from 1 on without gaps."""
    sender_type: str = "USER"
    content: str = ""
    timestamp: WireTime = ""
    state: str | None = None
    parent_message_id: str | None = None
    """Of a reply: its question."""
    metadata: dict[str, Any] = {}
    is_streaming: bool = False
    """It is being written: resume it by its `message_id`."""
