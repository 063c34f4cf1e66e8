"""The JSON that scripts put together: fragments made here once, passed on unparsed afterwards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import ujson

from base_server.template.chat.domain.states import MESSAGE_STATE_CODES

TOMBSTONE = "x"
"""Begins what a deleted message leaves in the list."""
RUNNING = '"is_streaming":true,"metadata":'
"""Stands in a reply that is being written. (In a text the quotes would be escaped.)"""

_TITLE_CHARS = 60


def to_json(value: Any) -> str:
    """JSON in UTF-8 text, nothing escaped that need not be. Raises OverflowError for NaN and infinities."""
    return str(
        ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False, allow_nan=False)
    )


def from_json(text: str) -> Any:
    """Read back JSON that this server wrote."""
    return ujson.loads(text)


def open_tail(
    sender_type: str, content: str, parent_message_id: str | None, *, streaming: bool = False
) -> str:
    """The part of a stored message behind its id, room, seq and timestamp, up to its metadata (the last member)."""
    running = '"is_streaming":true,' if streaming else ""
    parent = "null" if parent_message_id is None else to_json(parent_message_id)
    text = to_json(content)
    return f'"sender_type":"{sender_type}","content":{text},"parent_message_id":{parent},{running}"metadata":'


def tail(sender_type: str, content: str, parent_message_id: str | None, metadata_json: str) -> str:
    """:func:`open_tail` with its metadata, closed."""
    return f"{open_tail(sender_type, content, parent_message_id)}{metadata_json}}}"


def entry(message_id: str, room_id: str, seq: int, at: str, message_tail: str) -> str:
    """A stored message; ``format_message()`` in lua/_messages.lua writes the same."""
    return f'{{"message_id":"{message_id}","room_id":"{room_id}","seq":{seq},"timestamp":"{at}",{message_tail}'


def tombstone(message_id: str) -> str:
    """What a deleted message leaves in the list, so that an entry is found by its seq."""
    return TOMBSTONE + message_id


def is_tombstone(item: str) -> bool:
    return item.startswith(TOMBSTONE)


_SENDER, _CONTENT, _PARENT = '"sender_type":"', '","content":', ',"parent_message_id":'
_HEAD = re.compile(r'\{"message_id":"([^"]+)","room_id":"[^"]*","seq":(\d+),"timestamp":"([^"]*)",')


class EntryHead(NamedTuple):
    """What a stored message begins with."""

    message_id: str
    seq: int
    timestamp: str


def head_of(item: str) -> EntryHead:
    """The head of a stored message or of one on the wire; raises ValueError for what is neither."""
    found = _HEAD.match(item)
    if found is None:
        raise ValueError("not an entry of a message list")
    return EntryHead(found[1], int(found[2]), found[3])


def spoken_of(item: str) -> tuple[str, str]:
    """Sender and content of a stored message, without parsing the rest. (In a text the quotes would be escaped.)"""
    begin = item.find(_SENDER)
    middle = item.find(_CONTENT, begin)
    end = item.find(_PARENT, middle)
    if begin < 0 or middle < 0 or end < 0:
        raise ValueError("not an entry of a message list")
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
        raise ValueError("not an entry of a message list")
    running = "" if RUNNING in item else ',"is_streaming":false'
    return f'{item[:-1]},"state":"{state}"{running}}}'


def wire_messages(items: Iterable[str], codes: str) -> list[str]:
    """The same of many, with the codes of their states."""
    return [
        # Most of a page: a short way that looks at nothing. What is sent runs no more.
        f'{item[:-1]},"state":"SENT","is_streaming":false}}'
        if code == "S"
        else wire_message(item, MESSAGE_STATE_CODES[code])
        for item, code in zip(items, codes, strict=True)
    ]


def iso(moment: datetime) -> str:
    """A time as ``iso()`` in lua/_time.lua writes it: UTC, milliseconds, offset; compares as text."""
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
    """A room's title from a message: its first words on one line; '' when nothing of it can be seen."""
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
