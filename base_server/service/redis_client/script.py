"""Lua scripts as files, one script a file; the header is the schema of the call.

Header, at the top of each script::

    -- purpose: one or more lines
    -- KEYS: room_record; messages; reply_streams prefix of the room's reply streams
    -- ARGV: account_db_key; limit int; is_repeated flag; rooms... of each: room_id, title
    -- returns: {0, …} OK | {1} NOT_LOADED
    -- allow-oom: what it may add; only for a script that must work when Redis is full

Each item of KEYS and ARGV is a name, for ARGV perhaps its type, and perhaps a description; items
end with ``;``. The loader makes a local of each name, so a body says ``messages`` and never
``KEYS[2]``. ``int`` is a number (nil for ''), ``flag`` is true for '1'. A last name that ends in
``...`` is the table of all that follows.

Files whose name begins with ``_`` are the prelude: locals that scripts share. What a script uses of
them is put before it, and no more: every run makes its locals again. Folders are for the reader; a
script's name is unique in its set. As the body stands behind the prelude, the line number in an
error of Redis is not that of the file: :meth:`Script.explain` adds the text of the line, to be
looked for in the files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_HEADER_FIELD = re.compile(r"--\s*(purpose|KEYS|ARGV|returns|allow-oom):\s*(.*)")
_HEADER_MORE = re.compile(r"--\s*(.*)")
_ITEM = re.compile(r"([a-z]\w*)(\.\.\.)?(?: (int|flag)\b)?(?: |$)(.*)")
# Redis 7 and Valkey: without it a full server refuses a script at its first command that may need
# memory.
_ALLOW_OOM = "#!lua flags=allow-oom\n"
_LOCAL = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)
_LINE = re.compile(r"user_script:(\d+)")
_OF_TYPE = {"": "ARGV[{}]", "int": "tonumber(ARGV[{}])", "flag": "ARGV[{}] == '1'"}


class ScriptError(Exception):
    """A script file breaks the rules of this folder; the text names the file and the rule."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """An item of a header. ``kind``: '', 'int' or 'flag'. ``is_rest``: all values from here on."""

    name: str
    kind: str = ""
    is_rest: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """What the head of a script file says."""

    keys: tuple[Parameter, ...]
    args: tuple[Parameter, ...]
    allow_oom: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script ready to run: ``body`` contains prelude and locals, EVAL takes ``source``,
    EVALSHA ``sha1``.

    ``allow_oom``: a Redis that has reached ``maxmemory`` runs it all the same."""

    name: str
    body: str
    allow_oom: bool = False
    header: Header = Header((), ())
    source: str = field(init=False)
    sha1: str = field(init=False)

    def __post_init__(self) -> None:
        source = _ALLOW_OOM + self.body if self.allow_oom else self.body
        object.__setattr__(self, "source", source)
        object.__setattr__(
            self, "sha1", hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        )

    def explain(self, reason: str) -> str:
        """An error of Redis with the line of the source that its ``user_script:<number>`` means."""
        if (at := _LINE.search(reason)) is None:
            return reason
        return f"{reason} [{self.name}.lua: {self.source.splitlines()[int(at[1]) - 1].strip()}]"


class ScriptFolder(Mapping[str, Script]):
    """The scripts of one folder by name (``scripts["send_message"]`` is ``send_message.lua``).

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
    """All ``*.lua`` of ``folder`` and the folders in it, with their prelude, by name."""
    files = sorted(folder.rglob("*.lua"))
    prelude: dict[str, str] = {}
    for file in files:
        if is_prelude(file):
            prelude |= _locals_of(file.read_text(encoding="utf-8"))
    scripts: dict[str, Script] = {}
    for file in files:
        if is_prelude(file):
            continue
        if file.stem in scripts:
            raise ScriptError(f"{file.name}: another folder has a script of this name")
        text = file.read_text(encoding="utf-8")
        header = read_header(file.name, text)
        for each in (*header.keys, *header.args):
            if each.name in prelude:
                raise ScriptError(f"{file.name}: {each.name} is a name of the prelude")
        body = used_of(prelude, text) + _named_locals(header) + text
        scripts[file.stem] = Script(file.stem, body, header.allow_oom, header)
    if not scripts:
        raise ScriptError(f"{folder}: there are no scripts here")
    return scripts


def is_prelude(file: Path) -> bool:
    """Whether a file has no script but locals for others."""
    return file.name.startswith("_")


def used_of(prelude: Mapping[str, str], text: str) -> str:
    """What ``text`` uses of ``prelude`` (name → code), itself or by another local, each after what
    it uses."""
    used: list[str] = []
    seen: set[str] = set()

    def add(code: str) -> None:
        for name in re.findall(r"\w+", _code(code)):
            if (found := prelude.get(name)) is not None and found not in seen:
                seen.add(found)
                add(found)
                used.append(found)

    add(text)
    return "".join(used)


def read_header(file_name: str, text: str) -> Header:
    """Raises :class:`ScriptError` unless the body uses exactly the names of the header."""
    fields, body = _split(text)
    for name in ("purpose", "KEYS", "ARGV", "returns"):
        if not fields.get(name):
            raise ScriptError(
                f'{file_name}: the header has no "-- {name}: …" (write "none" if there is nothing)'
            )
    if numbered := re.search(r"\b(KEYS|ARGV)\b", body):
        raise ScriptError(f"{file_name}: the body says {numbered[1]}; take the header's names")
    header = Header(
        _parameters(file_name, "KEYS", fields["KEYS"]),
        _parameters(file_name, "ARGV", fields["ARGV"]),
        "allow-oom" in fields,
    )
    names = [each.name for each in (*header.keys, *header.args)]
    for name in names:
        if names.count(name) > 1:
            raise ScriptError(f"{file_name}: the header describes {name} twice")
        if not re.search(rf"\b{name}\b", body):
            raise ScriptError(
                f"{file_name}: the header describes {name}, but the body does not use it"
            )
    return header


def _locals_of(text: str) -> dict[str, str]:
    """The code of a prelude by the names of its locals."""
    found: dict[str, str] = {}
    for code in re.split(r"^(?=local )", text, flags=re.MULTILINE):
        if (named := _LOCAL.match(code)) is not None:
            # Comments behind a local are those of the next one.
            lines = [line for line in code.rstrip().splitlines() if not line.startswith("--")]
            found |= dict.fromkeys(re.findall(r"\w+", named[1]), "\n".join(lines) + "\n")
    return found


def _named_locals(header: Header) -> str:
    """``local room_record, limit = KEYS[1], tonumber(ARGV[1])``, in one line."""
    names, values, rests = [], [], ""
    for array, parameters in (("KEYS", header.keys), ("ARGV", header.args)):
        for number, each in enumerate(parameters, start=1):
            if not each.is_rest:
                names.append(each.name)
                values.append((_OF_TYPE[each.kind]).replace("ARGV", array).format(number))
            elif number == 1:
                rests += f"local {each.name} = {array} "
            else:
                # unpack() would fail at some thousand values.
                rests += (
                    f"local {each.name} = {{}} for i = {number}, #{array} do "
                    f"{each.name}[i - {number - 1}] = {array}[i] end "
                )
    fixed = f"local {', '.join(names)} = {', '.join(values)} " if names else ""
    return f"{fixed}{rests}\n"


def _parameters(file_name: str, array: str, text: str) -> tuple[Parameter, ...]:
    if text == "none":
        return ()
    found: list[Parameter] = []
    for item in text.removesuffix(";").split(";"):
        match = _ITEM.fullmatch(item.strip())
        if match is None or (array == "KEYS" and match[3]):
            raise ScriptError(
                f'{file_name}: the {array} are not "name description; more..."; {item.strip()!r}'
            )
        if found and found[-1].is_rest:
            raise ScriptError(f"{file_name}: {array} go on behind {found[-1].name}...")
        found.append(Parameter(match[1], match[3] or "", match[2] is not None, match[4]))
    return tuple(found)


def _split(text: str) -> tuple[dict[str, str], str]:
    """The header's fields (their lines joined by spaces) and the code without comments."""
    header: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
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
