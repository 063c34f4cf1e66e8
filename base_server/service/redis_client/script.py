"""Lua scripts as files: one folder, one script a file, a header that is checked against the body.

Header, at the top of each script::

    -- purpose: one or more lines
    -- KEYS: 1 room record; 2 messages list; 3.. further keys
    -- ARGV: 1 account_id; 2.. repeated (room_id, json)
    -- returns: {0, …} OK | {1} COLD
    -- allow-oom: what it may add; only for a script that must work when Redis is full

What a script uses of ``_prelude.lua`` of its folder (locals only) is put before it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PRELUDE_NAME = "_prelude.lua"

_HEADER_FIELD = re.compile(r"--\s*(purpose|KEYS|ARGV|returns|allow-oom):\s*(.*)")
# Redis 7 and Valkey: without it a full server refuses a script at the first command that may need memory.
_ALLOW_OOM = "#!lua flags=allow-oom\n"
_HEADER_MORE = re.compile(r"--\s*(.*)")
_ITEM = re.compile(r"(\d+)(\.\.)?\s+\S")
_LOCAL = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)


class ScriptError(Exception):
    """A script file breaks the rules of this folder; the text names the file and the rule."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script ready to run: ``body`` contains the prelude, EVAL takes ``source``, EVALSHA ``sha1``.

    ``allow_oom``: a Redis that has reached ``maxmemory`` runs it all the same."""

    name: str
    body: str
    allow_oom: bool = False
    source: str = field(init=False)
    sha1: str = field(init=False)

    def __post_init__(self) -> None:
        source = _ALLOW_OOM + self.body if self.allow_oom else self.body
        object.__setattr__(self, "source", source)
        object.__setattr__(
            self, "sha1", hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        )


class ScriptFolder(Mapping[str, Script]):
    """The scripts of one folder by name (``scripts["send_message"]`` is ``send_message.lua``), read once.

    Raises :class:`ScriptError` when a header is missing or does not say what the body uses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scripts = load_scripts(path)

    def __getitem__(self, name: str) -> Script:
        return self._scripts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scripts)

    def __len__(self) -> int:
        return len(self._scripts)


def load_scripts(folder: Path) -> dict[str, Script]:
    """All ``*.lua`` of ``folder`` with its prelude, by name, their headers checked."""
    prelude_file = folder / PRELUDE_NAME
    prelude = prelude_file.read_text(encoding="utf-8") if prelude_file.exists() else ""
    scripts = {}
    for file in sorted(folder.glob("*.lua")):
        if file.name == PRELUDE_NAME:
            continue
        text = file.read_text(encoding="utf-8")
        header = check_header(file.name, text)
        scripts[file.stem] = Script(
            file.stem, used_of(prelude, text) + text, allow_oom="allow-oom" in header
        )
    if not scripts:
        raise ScriptError(f"{folder}: there are no scripts here")
    return scripts


def used_of(prelude: str, text: str) -> str:
    """What ``text`` uses of ``prelude``, itself or by another local: each run of a script makes all its locals anew."""
    used, code = "", _code(text)
    # From the last to the first, for a local uses only what stands before it.
    for local in reversed(re.split(r"^(?=local )", prelude, flags=re.MULTILINE)):
        named = _LOCAL.match(local)
        if named is not None and not set(re.findall(r"\w+", named[1])).isdisjoint(
            re.findall(r"\w+", code)
        ):
            used = local + used
            code += _code(local)
    return used


def check_header(file_name: str, text: str) -> dict[str, str]:
    """The header's fields. Raises :class:`ScriptError` unless it describes exactly the KEYS and ARGV of the body."""
    header, body = _split(text)
    for name in ("purpose", "KEYS", "ARGV", "returns"):
        if not header.get(name):
            raise ScriptError(
                f'{file_name}: the header has no "-- {name}: …" (write "none" when there is nothing)'
            )
    for array in ("KEYS", "ARGV"):
        _check_array(file_name, array, header[array], body)
    return header


def _check_array(file_name: str, array: str, line: str, body: str) -> None:
    described, rest_from = _described(file_name, array, line)
    used = {int(number) for number in re.findall(rf"\b{array}\s*\[\s*(\d+)\s*\]", body)}
    computed = re.search(rf"\b{array}\s*\[\s*(?!\d+\s*\])", body) is not None
    handed_on = re.search(rf"[,(]\s*{array}\s*[,)]", body) is not None
    for number in sorted(used - described):
        if rest_from is None or number < rest_from:
            raise ScriptError(
                f"{file_name}: {array}[{number}] is used, but the header does not describe it"
            )
    if not (computed or handed_on) and (unused := sorted(described - used)):
        raise ScriptError(
            f"{file_name}: the header describes {array}[{unused[0]}], but the body does not use it"
        )
    if rest_from is not None and not (
        computed or handed_on or any(number >= rest_from for number in used)
    ):
        raise ScriptError(
            f"{file_name}: the header describes {array} {rest_from}.., but the body does not use it"
        )


def _split(text: str) -> tuple[dict[str, str], str]:
    """The header's fields (their lines joined by spaces) and the code without comments."""
    header: dict[str, str] = {}
    name = ""
    lines = text.splitlines()
    for line in lines:
        if not line.startswith("--"):
            break
        if match := _HEADER_FIELD.match(line):
            name = match[1]
            header[name] = match[2].strip()
        elif name and (more := _HEADER_MORE.match(line)):
            header[name] = f"{header[name]} {more[1].strip()}".strip()
    return header, _code(text)


def _code(text: str) -> str:
    """Lua without its comments."""
    return "\n".join(line.partition("--")[0] for line in text.splitlines())


def _described(file_name: str, array: str, text: str) -> tuple[set[int], int | None]:
    """The numbers that a KEYS or ARGV line describes, and where its trailing ``N..`` begins."""
    if text == "none":
        return set(), None
    numbers: list[int] = []
    rest_from = None
    for item in text.split(";"):
        match = _ITEM.match(item.strip())
        if match is None and rest_from is not None:
            continue  # a semicolon in what the trailing item says
        if match is None or rest_from is not None:
            raise ScriptError(
                f'{file_name}: the {array} line is not "1 name; 2 name; 3.. rest": {item.strip()!r}'
            )
        if match[2]:
            rest_from = int(match[1])
        else:
            numbers.append(int(match[1]))
    if numbers != list(range(1, len(numbers) + 1)) or rest_from not in (None, len(numbers) + 1):
        raise ScriptError(f"{file_name}: the {array} of the header are not numbered 1, 2, 3, …")
    return set(numbers), rest_from
