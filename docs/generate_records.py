"""Prints docs/records.md from the schema of the chat's records, with the scripts that write a field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from base_server.service.redis_client.script import PRELUDE_NAME, check_header
from base_server.template.chat.cache import records as chat_records
from base_server.template.chat.cache.records import (
    ACCOUNT,
    BACKLOG_WATERMARK,
    RECORDS,
    ROOM,
    Record,
    field_of,
)

LUA = Path(chat_records.__file__).parent / "lua"

_HEAD = """# Records

Printed by `make docs` from `base_server/template/chat/cache/records.py` and the scripts beside it.
Keys are without the prefix of the application and without their partition. A field is stored under
its short name; the term is the word of the documents. A field that ends in `:` stands for many, one
for each id. A load of a room (`fill_room`) writes all that MySQL knows, too.

What MySQL has can be deleted here and is loaded again. What it may not have yet is never rebuilt:
events in the event streams, running and queued replies (slot and waiters of a room), and the text
of running replies.

"""
_CALL = re.compile(r"redis\.p?call\('(HSET|HGET|HMGET|HDEL|HEXISTS|HINCRBY)', ")
_FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
_NAME = re.compile(r"^'([a-z_]+:?)'( \.\..*)?$")
# What a header calls a key of each record.
_BY_HEADER = {"room record": ROOM, "account record": ACCOUNT, "mark of the lane": BACKLOG_WATERMARK}


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
    for file in sorted(LUA.glob("*.lua")):
        text = file.read_text(encoding="utf-8")
        is_prelude = file.name == PRELUDE_NAME
        keys = "" if is_prelude else check_header(file.name, text)["KEYS"]
        begun, *functions = _FUNCTION.split(text)
        for name, body in [("", begun), *zip(functions[::2], functions[1::2], strict=True)]:
            found += _uses_of(name if is_prelude else file.stem, name, body, keys)
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
    text += "## Keys without fields of ours\n\n| key | type | what it is |\n|---|---|---|\n"
    for record in RECORDS:
        if not record.fields:
            meaning = record.meaning.replace("|", "\\|")
            text += f"| `{record.key}` | {record.kind} | {meaning} |\n"
    return text


def _uses_of(by: str, function: str, body: str, keys: str) -> Iterator[Use]:
    for call in _CALL.finditer(body):
        command = call[1]
        key, *arguments = _arguments(body[call.end() :])
        if command == "HSET":
            arguments = arguments[::2]
        elif command == "HINCRBY":
            arguments = arguments[:1]
        records = _records_of(function, key, keys)
        for name in [match[1] for argument in arguments if (match := _NAME.match(argument))]:
            # A script for either kind: the field says which it is.
            for record in [each for each in records if field_of(each, name)] or records[:1]:
                yield Use(record, name, by, command in ("HSET", "HINCRBY"))


def _records_of(function: str, key: str, keys: str) -> list[Record]:
    """The records that the key of a command may belong to; ``function``: where the command is."""
    if number := re.match(r"KEYS\[(\d+)\]", key):
        described = re.search(rf"(?:^|; ){number[1]} ([^;]+)", keys)
        if described is None:
            raise ValueError(f"{key} is not in the header {keys!r}")
        if described[1] in ("record", "room record or account record"):
            return [ROOM, ACCOUNT]
        return [record for name, record in _BY_HEADER.items() if name in described[1]]
    if key.startswith("KEYS["):  # settle.lua, of an item of either kind
        return [ROOM, ACCOUNT]
    # The others call a record `rec`.
    return {"check_account": [ACCOUNT], "settle_account": [ACCOUNT], "forget": [ROOM, ACCOUNT]}.get(
        function, [ROOM]
    )


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
