"""Prints docs/records.md from the schema of the chat's records, and which scripts write a field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from base_server.service.redis_client.script import is_prelude
from base_server.template.chat.cache import records as chat_records
from base_server.template.chat.cache.records import (
    ACCOUNT,
    BACKLOG_WATERMARK,
    RECORDS,
    RESERVED,
    ROOM,
    SIBLINGS,
    Record,
    field_of,
)

LUA = Path(chat_records.__file__).parent / "lua"

_HEAD = """# Records

Printed by `make docs` from `base_server/template/chat/cache/records.py` and the scripts beside it.
Keys are without the prefix of the application and without their partition. A field is stored under
its short name; the term is the word of the documents. A field that ends in `:` stands for many, one
for each id. A load of a room (`finish_room_load`) writes all that MySQL knows, too.

What MySQL has can be deleted here and is loaded again. What it may not have yet is never rebuilt:
events in the event streams, running and queued replies (slot and waiters of a room), and the text
of running replies.

"""
_CALL = re.compile(
    r"(?:redis\.p?call\('(HSET|HGET|HDEL|HEXISTS|HINCRBY)', "
    r"|(?<!function )\b(read_fields|check_room|check_account)\()"
)
_FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
_LIST = re.compile(r"^local (ROOM|ACCOUNT)_FIELDS = \{(.*?)\}", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"^'([a-z_]+:?)'( \.\..*)?$")
# What the scripts call a record.
_BY_NAME = {
    "room_record": [ROOM],
    "room.record": [ROOM],
    "keys.room_record": [ROOM],
    "account_record": [ACCOUNT],
    "account.record": [ACCOUNT],
    "watermark": [BACKLOG_WATERMARK],
    "record": [ROOM, ACCOUNT],
    "room_records .. room_id": [ROOM],
}


@dataclass(frozen=True)
class Use:
    """One command on a field of a record. ``by``: the script, or the prelude's function."""

    record: Record
    field: str
    by: str
    is_write: bool


def uses() -> list[Use]:
    """What the scripts read and write by name, without names that they get as arguments."""
    found: list[Use] = []
    for file in sorted(LUA.rglob("*.lua")):
        text = file.read_text(encoding="utf-8")
        begun, *functions = _FUNCTION.split(text)
        for name, body in [("", begun), *zip(functions[::2], functions[1::2], strict=True)]:
            found += _uses_of(name if is_prelude(file) else file.stem, body)
        for kind, names in _LIST.findall(text):
            record = ROOM if kind == "ROOM" else ACCOUNT
            found += [Use(record, name, file.stem, False) for name in re.findall(r"'(\w+)'", names)]
    return found


def records_page() -> str:
    """The whole of docs/records.md."""
    written: dict[tuple[str, str], set[str]] = {}
    for use in uses():
        if use.is_write:
            written.setdefault((use.record.key, use.field), set()).add(f"`{use.by}`")
    text = _HEAD
    for record in RECORDS:
        if not record.fields:
            continue
        text += f"## `{record.key}`\n\n{record.meaning}\n\n"
        text += "| field | term | meaning | when absent | written by |\n"
        text += "|---|---|---|---|---|\n"
        for field in record.fields:
            cells = (
                f"`{field.name}`",
                field.term,
                field.meaning.replace("|", "\\|"),
                field.absent or "only in a note",
                " ".join(sorted(written.get((record.key, field.name), {"what a load reads"}))),
            )
            text += f"| {' | '.join(cells)} |\n"
        text += "\n"
    text += f"## Room for messages beside the active path\n\n{SIBLINGS}\n"
    for field in RESERVED:
        text += f"Reserved in the room record: `{field.name}` ({field.term}). {field.meaning}\n"
        text += f"Absent: {field.absent}.\n"
    text += "\n## Keys without fields of ours\n\n| key | type | what it is |\n|---|---|---|\n"
    for record in RECORDS:
        if not record.fields:
            meaning = record.meaning.replace("|", "\\|")
            text += f"| `{record.key}` | {record.kind} | {meaning} |\n"
    return text


def _uses_of(by: str, body: str) -> Iterator[Use]:
    for call in _CALL.finditer(body):
        key, *arguments = _arguments(body[call.end() :])
        match call[1] or call[2]:
            case "HSET":
                arguments = arguments[::2]
            case "HINCRBY":
                arguments = arguments[:1]
            case "read_fields" | "check_room" | "check_account":
                arguments = _arguments(arguments[-1].removeprefix("{"))
        records = _BY_NAME.get(key, [])
        for name in [match[1] for argument in arguments if (match := _NAME.match(argument))]:
            # A script for either kind: the field says which it is.
            for record in [each for each in records if field_of(each, name)] or records[:1]:
                yield Use(record, name, by, call[1] in ("HSET", "HINCRBY"))


def _arguments(text: str) -> list[str]:
    """The arguments up to the bracket that ends the call."""
    found, depth, current, quoted = [], 0, "", False
    for character in text:
        if character == "'":
            quoted = not quoted
        elif not quoted and character in "([{":
            depth += 1
        elif not quoted and character in ")]}":
            if depth == 0:
                break
            depth -= 1
        if character == "," and depth == 0 and not quoted:
            found.append(current.strip())
            current = ""
        else:
            current += character
    return [*found, current.strip()]
