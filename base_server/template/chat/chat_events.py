"""The five message types of the chat_persistence queue: written complete, read back strictly.

An event carries everything that its row needs; redelivery reads nothing else. The scripts add what
they alone know as fields of the entry: ``seq``, ``version`` and ``time``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from service.queue.message_queue import QueueEntry
from template.base.wire import INT64_MAX
from template.chat.chat_owner import Owner
from template.chat.chat_text import from_json, sql_time, to_json

QUEUE_NAME = "chat_persistence"

ROOM_CREATE = "CHAT_ROOM_CREATE"
MESSAGE_SAVE = "CHAT_MESSAGE_SAVE"
ROOM_UPDATE = "CHAT_ROOM_UPDATE"
MESSAGE_DELETE = "CHAT_MESSAGE_DELETE"
ROOM_DELETE = "CHAT_ROOM_DELETE"
# The version of a title that nobody gave: the room gets one from its first message (lua/accept_send.lua).
NOT_NAMED = -1
# The order in which a batch is written, each type its own transaction.
WRITE_ORDER = (ROOM_CREATE, MESSAGE_SAVE, ROOM_UPDATE, MESSAGE_DELETE, ROOM_DELETE)

# Parameters of fp_chat_message_save, in their order; a row of a save has them all.
MESSAGE_COLUMNS = (
    "message_id",
    "room_id",
    "account_db_key",
    "seq",
    "sender_type",
    "content",
    "parent_message_id",
    "metadata",
    "created_at",
    "client_message_id",
    "body_hash",
)

# The user's document sends its events under these names.
_DOCUMENT_SAVES = ("save_user_message", "save_ai_message")
_SENDERS = ("USER", "AI", "SYSTEM")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class BadEvent(Exception):
    """The entry is no event that can be stored; the text says why."""


@dataclass
class Event:
    """One entry of the lane. ``row`` is the procedure's JSON object; ``account_id`` '' when the sender gave none.

    ``seq`` None: a save from outside the chat's scripts, whose place in the room is still to be given.
    ``is_elsewhere``: the message's state lies in another partition than its room (an id that is not ours is hashed).
    """

    entry_id: str
    kind: str
    room_id: str
    account_id: str
    row: dict[str, Any]
    message_id: str = ""
    seq: int | None = None
    is_elsewhere: bool = False
    entry: QueueEntry | None = field(default=None, repr=False)

    @property
    def is_replayed(self) -> bool:
        """It was a dead letter, or waited behind one: it is written though its room may have more of them."""
        return self.entry is not None and "was" in self.entry.fields


def payload(owner: Owner, room_id: str, **fields: Any) -> str:
    """The payload of an event of ``owner``'s room."""
    begun = open_payload(owner, room_id)
    return begun + to_json(fields)[1:] if fields else f"{begun[:-1]}}}"


def open_payload(owner: Owner, room_id: str) -> str:
    """The beginning of such a payload, for a script that adds the rest."""
    return (
        f'{{"room_id":"{room_id}","account_id":{to_json(owner.account_id)},'
        f'"account_db_key":{owner.db_key},"shard_id":{owner.shard_id},'
    )


def read_event(entry: QueueEntry) -> Event:
    """Raises BadEvent for an unknown type, a payload that is no object, or a missing field."""
    try:
        data = entry.payload
    except ValueError as error:
        raise BadEvent(f"payload: {error}") from None
    kind = entry.message_type
    if kind == "chat_save" and data.get("type") in _DOCUMENT_SAVES:
        kind = MESSAGE_SAVE
    if kind not in _READERS:
        raise BadEvent(f"unknown message type {entry.message_type!r}")
    try:
        event = _READERS[kind](entry, data)
        if not isinstance(event.account_id, str):
            raise TypeError("account_id is no text")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise BadEvent(f"{kind}: {type(error).__name__} {error}") from None
    event.entry = entry
    return event


def _room_create(entry: QueueEntry, data: dict[str, Any]) -> Event:
    row = _key(data)
    row |= {
        name: _text_or_none(data.get(name)) for name in ("title", "ai_persona", "client_request_id", "request_hash")
    }
    row |= {"created_at": _time(entry, data.get("created_at")), "title_version": int(data.get("title_version", 0))}
    return Event(entry.entry_id, ROOM_CREATE, row["room_id"], data.get("account_id", ""), row)


def _message_save(entry: QueueEntry, data: dict[str, Any]) -> Event:
    message = data["message_data"]
    if not isinstance(message, dict):
        raise TypeError("message_data is no object")
    room_id = _identifier(message.get("room_id") or data["room_id"])
    parent, client_id = message.get("parent_message_id"), data.get("client_message_id")
    if message["sender_type"] not in _SENDERS:
        raise ValueError(f"sender_type is none of {', '.join(_SENDERS)}")
    row = {
        "message_id": _identifier(message["message_id"]),
        "room_id": room_id,
        "account_db_key": _db_key(data),
        "seq": _seq(entry),
        "sender_type": message["sender_type"],
        "content": _text(message["content"]),
        "parent_message_id": None if parent is None else _identifier(parent),
        "metadata": _metadata(entry, message.get("metadata")),
        "created_at": _time(entry, message.get("timestamp")),
        "client_message_id": None if client_id is None else _identifier(client_id),
        "body_hash": _text_or_none(data.get("body_hash")),
    }
    return Event(
        entry.entry_id,
        MESSAGE_SAVE,
        room_id,
        data.get("account_id", ""),
        row,
        message_id=row["message_id"],
        seq=row["seq"],
    )


def _room_update(entry: QueueEntry, data: dict[str, Any]) -> Event:
    row = _key(data) | {"title": str(data["title"]), "title_version": int(entry.fields["version"])}
    return Event(entry.entry_id, ROOM_UPDATE, row["room_id"], data.get("account_id", ""), row)


def _message_delete(entry: QueueEntry, data: dict[str, Any]) -> Event:
    row = _key(data) | {"message_id": str(data["message_id"]), "seq": int(entry.fields["seq"])}
    return Event(
        entry.entry_id,
        MESSAGE_DELETE,
        row["room_id"],
        data.get("account_id", ""),
        row,
        message_id=row["message_id"],
        seq=row["seq"],
    )


def _room_delete(entry: QueueEntry, data: dict[str, Any]) -> Event:
    row = _key(data)
    return Event(entry.entry_id, ROOM_DELETE, row["room_id"], data.get("account_id", ""), row)


def _key(data: dict[str, Any]) -> dict[str, Any]:
    return {"room_id": _identifier(data["room_id"]), "account_db_key": _db_key(data)}


def _db_key(data: dict[str, Any]) -> int:
    key = int(data["account_db_key"])
    if abs(key) > INT64_MAX:
        raise ValueError("account_db_key is too large")
    return key


def _identifier(value: Any) -> str:
    """An id goes into keys and, as it is, into stored JSON."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"{value!r:.80} is no id: 1 to 64 of A-Z a-z 0-9 . _ -")
    return value


def _text(value: Any) -> str:
    """Text that Redis and the databases give back as it is."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{value!r:.80} is no text, or has U+0000 in it")
    value.encode()  # a lone surrogate raises ValueError
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _metadata(entry: QueueEntry, given: Any) -> str:
    if "persona" in entry.fields:
        return f'{{"ai_persona":{entry.fields["persona"]}}}'
    value = from_json(given) if isinstance(given, str) and given else given or {}
    if not isinstance(value, dict):
        raise ValueError("metadata is no object")
    return _text(to_json(value))


def _seq(entry: QueueEntry) -> int | None:
    return int(entry.fields["seq"]) if "seq" in entry.fields else None


def _time(entry: QueueEntry, given: Any) -> str:
    """The script's time, else the sender's own (naive: this server's local time), else when it was queued."""
    if (at := entry.fields.get("time")) is not None:
        return f"{at[:10]} {at[11:23]}"  # as iso() in lua/_prelude.lua writes it
    if given:
        return sql_time(str(given))
    return sql_time(datetime.fromtimestamp(int(entry.fields["at"]) / 1000).astimezone().isoformat())


_READERS = {
    ROOM_CREATE: _room_create,
    MESSAGE_SAVE: _message_save,
    ROOM_UPDATE: _room_update,
    MESSAGE_DELETE: _message_delete,
    ROOM_DELETE: _room_delete,
}
