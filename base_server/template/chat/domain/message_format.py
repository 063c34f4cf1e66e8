"""The JSON that scripts put together: fragments made here once, passed on unparsed afterwards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import ujson

from base_server.template.chat.common.chat_model import ChatMessage
from base_server.template.chat.domain.ports import Row
from base_server.template.chat.domain.states import MESSAGE_STATE_CODES

TOMBSTONE = "x"
"""Begins what a deleted message leaves in the list."""
RUNNING = '"is_streaming":true,"metadata":'
"""Stands in a reply that is being written. (In a text the quotes would be escaped.)"""

LAST_MS = 253_402_300_799_000
"""The last second of the year 9999."""

_TITLE_CHARS = 60


def to_json(value: Any) -> str:
    """JSON in UTF-8 text, nothing escaped that need not be. Raises OverflowError for NaN and
    infinities."""
    return str(
        ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False, allow_nan=False)
    )


def from_json(text: str) -> Any:
    """Read back JSON that this server wrote."""
    return ujson.loads(text)


def open_message_body(
    sender_type: str, content: str, parent_message_id: str | None, *, streaming: bool = False
) -> str:
    """The part of a stored message after its id, room, seq and timestamp, up to its metadata (the
    last member)."""
    running = '"is_streaming":true,' if streaming else ""
    parent = "null" if parent_message_id is None else to_json(parent_message_id)
    text = to_json(content)
    return (
        f'"sender_type":"{sender_type}","content":{text},"parent_message_id":{parent},'
        f'{running}"metadata":'
    )


def message_body(
    sender_type: str, content: str, parent_message_id: str | None, metadata_json: str
) -> str:
    """:func:`open_message_body` with its metadata, closed."""
    return f"{open_message_body(sender_type, content, parent_message_id)}{metadata_json}}}"


def stored_message(message_id: str, room_id: str, seq: int, at: str, body: str) -> str:
    """A stored message; ``format_message()`` in lua/_messages.lua writes the same."""
    return (
        f'{{"message_id":"{message_id}","room_id":"{room_id}","seq":{seq},"timestamp":"{at}",{body}'
    )


def stored_row(room_id: str, row: Row) -> str:
    """A row of chat_messages as the list stores it."""
    if row["deleted"]:
        return tombstone(row["message_id"])
    body = message_body(
        row["sender_type"], row["content"], row["parent_message_id"], row["metadata"] or "{}"
    )
    return stored_message(row["message_id"], room_id, int(row["seq"]), iso(row["created_at"]), body)


def tombstone(message_id: str) -> str:
    """What a deleted message leaves in the list, so that a message is found by its seq."""
    return TOMBSTONE + message_id


def is_tombstone(item: str) -> bool:
    return item.startswith(TOMBSTONE)


_SENDER, _CONTENT, _PARENT = '"sender_type":"', '","content":', ',"parent_message_id":'
_PREFIX = re.compile(
    r'\{"message_id":"([^"]+)","room_id":"[^"]*","seq":(\d+),"timestamp":"([^"]*)",'
)


class MessagePrefix(NamedTuple):
    """What a stored message begins with."""

    message_id: str
    seq: int
    timestamp: str


def message_prefix(item: str) -> MessagePrefix:
    """Of a stored message or of one in a response; raises ValueError for anything else."""
    found = _PREFIX.match(item)
    if found is None:
        raise ValueError("not a stored message")
    return MessagePrefix(found[1], int(found[2]), found[3])


def sender_and_content(item: str) -> tuple[str, str]:
    """Sender and content of a stored message, without parsing the rest. (In a text the quotes would
    be escaped.)"""
    begin = item.find(_SENDER)
    middle = item.find(_CONTENT, begin)
    end = item.find(_PARENT, middle)
    if begin < 0 or middle < 0 or end < 0:
        raise ValueError("not a stored message")
    sender, content = item[begin + len(_SENDER) : middle], item[middle + len(_CONTENT) : end]
    return sender, from_json(content) if "\\" in content else content[1:-1]


def finish_reason_of(item: str) -> str:
    """How a stored reply ended: its finish_reason."""
    found = item.rpartition('"finish_reason":"')[2]
    return found[: found.index('"')] if found is not item else "stop"


def is_running(item: str) -> bool:
    """Whether it is a reply that is being written."""
    return RUNNING in item


def wire_message(item: str, state: str) -> str:
    """A stored message as clients get it, not parsed; raises ValueError for what cannot be one."""
    if not (item.startswith('{"message_id":"') and item.endswith("}}")):
        raise ValueError("not a stored message")
    running = "" if RUNNING in item else ',"is_streaming":false'
    return f'{item[:-1]},"state":"{state}"{running}}}'


def wire_messages(items: Iterable[str], state_codes: str) -> list[str]:
    """The same of many, with their states' codes."""
    return [
        # Most of a page: a short way that looks at nothing. What is sent runs no more.
        f'{item[:-1]},"state":"SENT","is_streaming":false}}'
        if code == "S"
        else wire_message(item, MESSAGE_STATE_CODES[code])
        for item, code in zip(items, state_codes, strict=True)
    ]


def read_message(text: str, state: str) -> ChatMessage:
    """A stored message as the client sees it; raises ValueError for anything else."""
    return ChatMessage(**from_json(wire_message(text, state)))


def iso(moment: datetime) -> str:
    """A time as ``iso()`` in lua/_time.lua writes it: UTC, milliseconds, offset; compares as
    text."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def iso_of_ms(ms: int) -> str:
    return iso(datetime.fromtimestamp(ms / 1000, UTC))


def ms_of(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def sql_time(at: str) -> str:
    """A time of the wire as the procedures' JSON takes it: 'YYYY-MM-DD HH:MM:SS.mmm' in UTC."""
    moment = datetime.fromisoformat(at)
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")


def title_of(content: str) -> str:
    """A room's title from a message: its first words on one line; '' when nothing of it can be
    seen."""
    if not content.isprintable():
        content = "".join(letter if letter.isprintable() else " " for letter in content)
    # More words than letters are never shown.
    words = " ".join(content.split(maxsplit=_TITLE_CHARS + 1)[: _TITLE_CHARS + 1])
    if len(words) <= _TITLE_CHARS:
        return words
    cut = words[: _TITLE_CHARS + 1]
    # Whole words, unless that leaves little (or the language has no spaces).
    end = cut.rfind(" ", _TITLE_CHARS // 2)
    return f"{cut[: end if end > 0 else _TITLE_CHARS].rstrip()}…"


def body_hash(*parts: str | None) -> str:
    """What makes two requests with one client id the same; '' and None differ."""
    digest = hashlib.sha256(to_json(parts).encode())
    return digest.hexdigest()[:32]
