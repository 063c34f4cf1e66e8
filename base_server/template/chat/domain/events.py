"""The five message types of the chat_persistence queue: written complete, read back strictly.

An event carries everything that its row needs; redelivery reads nothing else. The scripts add what
they alone know as fields of the entry: ``seq``, ``version`` and ``time``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from base_server.service.queue.message_queue import QueueEntry
from base_server.template.base.envelope import INT64_MAX
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.message_format import from_json, sql_time, to_json

QUEUE_NAME = "chat_persistence"

ROOM_CREATE = "CHAT_ROOM_CREATE"
MESSAGE_SAVE = "CHAT_MESSAGE_SAVE"
ROOM_UPDATE = "CHAT_ROOM_UPDATE"
MESSAGE_DELETE = "CHAT_MESSAGE_DELETE"
ROOM_DELETE = "CHAT_ROOM_DELETE"
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
_NUMBER = re.compile(r"-?[0-9]{1,40}")
# The columns' own limits, in characters.
_MAX_TITLE, _MAX_PERSONA, _MAX_ID = 200, 64, 64
# Whatever is sent later in the account is stamped later than its newest time: one in the year 9999
# would leave no time that MySQL can store. A day allows for a sender's wrong time zone.
_MAX_AHEAD = timedelta(days=1)


class BadEvent(Exception):
    """The entry is no event that can be stored; the text says why."""


@dataclass
class Event:
    """One entry of the stream. ``row`` is the procedure's JSON object; ``account_id`` '' when the
    sender gave none.

    ``shard_id``: the one that the sender named, 0 for none. ``seq`` None: a save from outside the
    chat's scripts, whose place in the room is still to be given. ``is_elsewhere``: the message's
    state lies in another partition than its room (an id that is not ours is hashed).
    """

    entry_id: str
    kind: str
    room_id: str
    account_id: str
    row: dict[str, Any]
    message_id: str = ""
    shard_id: int = 0
    seq: int | None = None
    is_elsewhere: bool = False
    entry: QueueEntry | None = field(default=None, repr=False)

    @property
    def is_replayed(self) -> bool:
        """It was a dead letter, or waited behind one, or was written before them and then lost: it
        is written though its room may have more of them."""
        return self.entry is not None and "was" in self.entry.fields

    @property
    def is_from_outside(self) -> bool:
        """A save that a host sent: the chat's scripts did not give it its seq."""
        return (
            self.kind == MESSAGE_SAVE and self.entry is not None and "seq" not in self.entry.fields
        )


def payload(caller: Caller, room_id: str, **fields: Any) -> str:
    """The payload of an event of ``caller``'s room."""
    begun = open_payload(caller, room_id)
    return begun + to_json(fields)[1:] if fields else f"{begun[:-1]}}}"


def open_payload(caller: Caller, room_id: str) -> str:
    """The beginning of such a payload, for a script that adds the rest."""
    return (
        f'{{"room_id":"{room_id}","account_id":{to_json(caller.account_id)},'
        f'"account_db_key":{caller.db_key},"shard_id":{caller.shard_id},'
    )


def kind_of(message_type: str, data: dict[str, Any]) -> str | None:
    """Which of the five types it is, by its own name or the one in the user's document; None for
    another."""
    if message_type == "chat_save" and data.get("type") in _DOCUMENT_SAVES:
        return MESSAGE_SAVE
    return message_type if message_type in _READERS else None


def read_event(entry: QueueEntry) -> Event:
    """Raises BadEvent for an unknown type, a payload that is no object, or a field that is missing
    or cannot be."""
    try:
        data = entry.payload
    except ValueError as error:
        raise BadEvent(f"payload: {error}") from None
    if (kind := kind_of(entry.message_type, data)) is None:
        raise BadEvent(f"unknown message type {entry.message_type!r}")
    return _read(kind, entry, data)


def check_event(kind: str, data: dict[str, Any], at_ms: int) -> Event:
    """An event as a host sends it, before it is stored, when the scripts have not added theirs yet.
    Raises BadEvent."""
    event = _read(
        kind,
        QueueEntry("", {"type": kind, "at": str(at_ms)} | _ADDED_BY_SCRIPTS.get(kind, {})),
        data,
    )
    if kind == ROOM_UPDATE and not event.row["title"].strip():
        raise BadEvent(f"{kind}: title is blank")
    return event


def _read(kind: str, entry: QueueEntry, data: dict[str, Any]) -> Event:
    try:
        event = _READERS[kind](entry, data)
        if not isinstance(event.account_id, str):
            raise BadEvent("account_id is no text")
        event.shard_id = _whole_number(data, "shard_id") if data.get("shard_id") else 0
    except (BadEvent, ValueError, LookupError) as error:
        # The last two: fields of the entry that are no numbers, or are missing.
        raise BadEvent(f"{kind}: {error}") from None
    event.entry = entry
    return event


def _room_create(entry: QueueEntry, data: dict[str, Any]) -> Event:
    row = _key(data)
    row["title"] = _optional_text(data, "title", _MAX_TITLE)
    row["ai_persona"] = _text(data, "ai_persona", _MAX_PERSONA)
    row |= {
        name: _optional_text(data, name, _MAX_ID) for name in ("client_request_id", "request_hash")
    }
    row["created_at"] = _time(entry, data, "created_at")
    row["title_version"] = _whole_number(data, "title_version", 0)
    return Event(entry.entry_id, ROOM_CREATE, row["room_id"], _account_of(data), row)


def _message_save(entry: QueueEntry, data: dict[str, Any]) -> Event:
    message = data.get("message_data")
    if not isinstance(message, dict):
        raise BadEvent("message_data is missing or no object")
    within = "message_data."
    room_id = _identifier(message if message.get("room_id") else data, "room_id", within)
    if message.get("sender_type") not in _SENDERS:
        raise BadEvent(f"{within}sender_type is none of {', '.join(_SENDERS)}")
    row = {
        "message_id": _identifier(message, "message_id", within),
        "room_id": room_id,
        "account_db_key": _db_key(data),
        "seq": _seq(entry),
        "sender_type": message["sender_type"],
        "content": _text(message, "content", within=within),
        "parent_message_id": _optional_identifier(message, "parent_message_id", within),
        "metadata": _metadata(entry, message.get("metadata")),
        "created_at": _time(entry, message, "timestamp", within),
        "client_message_id": _optional_identifier(data, "client_message_id"),
        "body_hash": _optional_text(data, "body_hash", _MAX_ID),
    }
    event = Event(entry.entry_id, MESSAGE_SAVE, room_id, _account_of(data), row)
    event.message_id, event.seq = row["message_id"], row["seq"]
    return event


def _room_update(entry: QueueEntry, data: dict[str, Any]) -> Event:
    row = _key(data)
    row |= {
        "title": _text(data, "title", _MAX_TITLE),
        "title_version": _script_number(entry, "version"),
    }
    return Event(entry.entry_id, ROOM_UPDATE, row["room_id"], _account_of(data), row)


def _message_delete(entry: QueueEntry, data: dict[str, Any]) -> Event:
    row = _key(data) | {
        "message_id": _identifier(data, "message_id"),
        "seq": _script_number(entry, "seq"),
    }
    event = Event(entry.entry_id, MESSAGE_DELETE, row["room_id"], _account_of(data), row)
    event.message_id, event.seq = row["message_id"], row["seq"]
    return event


def _room_delete(entry: QueueEntry, data: dict[str, Any]) -> Event:
    row = _key(data)
    return Event(entry.entry_id, ROOM_DELETE, row["room_id"], _account_of(data), row)


def _key(data: dict[str, Any]) -> dict[str, Any]:
    return {"room_id": _identifier(data, "room_id"), "account_db_key": _db_key(data)}


def _account_of(data: dict[str, Any]) -> Any:
    """'' when the sender gave none; what it gave is checked last."""
    given = data.get("account_id")
    return "" if given is None else given


def _db_key(data: dict[str, Any]) -> int:
    key = _whole_number(data, "account_db_key")
    if abs(key) > INT64_MAX:
        raise BadEvent("account_db_key is too large")
    return key


def _whole_number(data: dict[str, Any], name: str, default: int | None = None) -> int:
    """A number, or its digits as text."""
    value = data.get(name, default)
    if value is None:
        raise BadEvent(f"{name} is missing")
    if (
        isinstance(value, bool)
        or not isinstance(value, int | str)
        or not _NUMBER.fullmatch(str(value))
    ):
        raise BadEvent(f"{name} is no whole number")
    return int(value)


def _script_number(entry: QueueEntry, name: str) -> int:
    """What the chat's scripts alone know of an event."""
    if name not in entry.fields:
        raise BadEvent(
            f"the entry has no {name}: it did not come through send_message of a server with the"
            " chat"
        )
    return int(entry.fields[name])


def _identifier(data: dict[str, Any], name: str, within: str = "") -> str:
    """An id goes into keys and, as it is, into stored JSON."""
    value = data.get(name)
    if value is None:
        raise BadEvent(f"{within}{name} is missing")
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise BadEvent(f"{within}{name} {value!r:.80} is no id: 1 to 64 of A-Z a-z 0-9 . _ -")
    return value


def _optional_identifier(data: dict[str, Any], name: str, within: str = "") -> str | None:
    return None if data.get(name) is None else _identifier(data, name, within)


def _text(data: dict[str, Any], name: str, longest: int | None = None, within: str = "") -> str:
    """Text that Redis and the databases give back as it is."""
    value = data.get(name)
    if value is None:
        raise BadEvent(f"{within}{name} is missing")
    if not isinstance(value, str) or "\0" in value:
        raise BadEvent(f"{within}{name} {value!r:.80} is no text, or has U+0000 in it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadEvent(f"{within}{name} has lone surrogates: it is no text") from None
    if longest is not None and not len(value) <= longest:
        raise BadEvent(f"{within}{name} is longer than {longest} characters")
    return value


def _optional_text(data: dict[str, Any], name: str, longest: int) -> str | None:
    return None if data.get(name) is None else _text(data, name, longest)


def _metadata(entry: QueueEntry, given: Any) -> str:
    if "persona" in entry.fields:
        return f'{{"ai_persona":{entry.fields["persona"]}}}'
    try:
        value = from_json(given) if isinstance(given, str) and given else given or {}
        if not isinstance(value, dict):
            raise BadEvent("message_data.metadata is no object")
        return _text({"metadata": to_json(value)}, "metadata", within="message_data.")
    except (ValueError, OverflowError, TypeError) as error:
        raise BadEvent(f"message_data.metadata is no JSON: {error}") from None


def _seq(entry: QueueEntry) -> int | None:
    return int(entry.fields["seq"]) if "seq" in entry.fields else None


def _time(entry: QueueEntry, data: dict[str, Any], name: str, within: str = "") -> str:
    """The script's time, else the sender's own (naive: this server's local time), else when it was
    queued."""
    if (at := entry.fields.get("time")) is not None:
        return f"{at[:10]} {at[11:23]}"  # as iso() in lua/_time.lua writes it
    given = data.get(name)
    try:
        queued_at = datetime.fromtimestamp(int(entry.fields["at"]) / 1000, UTC)
        at = sql_time(str(given) if given else queued_at.isoformat())
        latest = sql_time((queued_at + _MAX_AHEAD).isoformat())
    except (ValueError, ArithmeticError, OSError):
        raise BadEvent(
            f"{within}{name} {given!r:.80} is no ISO 8601 time of the years 1 to 9999"
        ) from None
    if at > latest:
        raise BadEvent(f"{within}{name} {given!r:.80} is more than one day in the future")
    return at


_ADDED_BY_SCRIPTS = {ROOM_UPDATE: {"version": "0"}, MESSAGE_DELETE: {"seq": "0"}}
_READERS = {
    ROOM_CREATE: _room_create,
    MESSAGE_SAVE: _message_save,
    ROOM_UPDATE: _room_update,
    MESSAGE_DELETE: _message_delete,
    ROOM_DELETE: _room_delete,
}
