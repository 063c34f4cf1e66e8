"""What is put into a queue and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import ujson


class MessagePriority(IntEnum):
    """Higher is read first, in queues with the default route."""

    LOW = 1
    NORMAL = 2
    HIGH = 3
    CRITICAL = 4


@dataclass
class QueueMessage:
    """A message as its sender and its consumer see it. ``payload`` is a JSON object.

    Messages of one ``partition_key`` (and, by the default route, one priority) are consumed in the
    order in which they were accepted. ``message_id`` and ``created_at_ms`` (Unix, Redis time) are
    given when the message is accepted; a sender that gives its own id makes the send safe to
    repeat.
    """

    queue_name: str
    payload: dict[str, Any]
    message_type: str
    priority: int = MessagePriority.NORMAL
    partition_key: str | None = None
    message_id: str | None = None
    created_at_ms: int | None = None


@dataclass(frozen=True)
class QueueEntry:
    """An entry of an event stream as it stands in Redis. ``fields`` is all of it, text by name:
    ``id``, ``type``, ``payload`` (JSON), ``priority``, ``key``, ``at`` (Unix ms), and whatever else
    a script of the queue's owner wrote. Nothing is checked before :attr:`payload` is asked for."""

    entry_id: str  # the stream's own id, "<ms>-<n>"
    fields: dict[str, str] = field(repr=False)

    @property
    def message_id(self) -> str:
        return self.fields.get("id", "")

    @property
    def message_type(self) -> str:
        return self.fields.get("type", "")

    @property
    def partition_key(self) -> str:
        """Empty when it has none."""
        return self.fields.get("key", "")

    @property
    def payload_text(self) -> str:
        return self.fields.get("payload", "")

    @property
    def payload(self) -> dict[str, Any]:
        """The payload decoded; raises ValueError when it is not a JSON object."""
        value = ujson.loads(self.payload_text)
        if not isinstance(value, dict):
            raise ValueError("the payload is not a JSON object")
        return value

    def to_message(self, queue_name: str) -> QueueMessage:
        """Raises ValueError when the entry is not a message."""
        return QueueMessage(
            queue_name=queue_name,
            payload=self.payload,
            message_type=self.message_type,
            priority=int(self.fields.get("priority", MessagePriority.NORMAL)),
            partition_key=self.partition_key or None,
            message_id=self.message_id,
            created_at_ms=int(self.fields.get("at", 0)),
        )
