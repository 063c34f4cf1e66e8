"""The files of ``db_scripts``: numbered tables and one procedure a file, with a header that says
what it takes.

Header lines are comments at the top of a file: ``-- params: a, b`` and ``-- returns: x, y`` (a
procedure's columns, empty for none). A file is known by ``tables/0001_name`` or
``procedures/name``.

``VERSION`` has the number of the whole set, raised with every change of a file, and a digest by
which a test notices one that was not: two versions of the server compare their numbers and know
which is the older.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from base_server.service.core.errors import StartError

Kind = Literal["global", "shard"]
VERSION_ENTRY = "set/version"
"""The ledger's line for the version of the set; its checksum is the number."""
_HEADER = re.compile(r"^-- (\w+):[ ]?(.*)$")
_TABLE_NAME = re.compile(r"^\d{4}_\w+$")


@dataclass(frozen=True)
class DatabaseScript:
    """One file; ``checksum`` is the SHA-256 of its text with line ends as ``\\n``."""

    name: str
    text: str
    checksum: str

    @property
    def is_procedure(self) -> bool:
        return self.name.startswith("procedures/")

    @property
    def procedure(self) -> str:
        """The procedure's own name."""
        return self.name.removeprefix("procedures/")

    def header(self, key: str) -> tuple[str, ...]:
        """The names listed in header line ``key``; a missing line is a mistake in the file."""
        for line in self.text.splitlines():
            if not line.startswith("--"):
                break
            if (match := _HEADER.match(line)) and match[1] == key:
                return tuple(name.strip() for name in match[2].split(",") if name.strip())
        raise StartError(f"{self.name}.sql has no header line `-- {key}: …`")


@dataclass(frozen=True)
class ScriptSet:
    """All files of one database, in the order in which they are applied: tables by number, then
    procedures."""

    scripts: tuple[DatabaseScript, ...]
    version: int
    """Higher in each later version of the server that changed a file of db_scripts."""

    @property
    def version_entry(self) -> DatabaseScript:
        """What the ledger says of this set: a script without text, so there is nothing to run."""
        return DatabaseScript(VERSION_ENTRY, "", str(self.version))

    @property
    def procedures(self) -> dict[str, DatabaseScript]:
        return {script.procedure: script for script in self.scripts if script.is_procedure}


def load_scripts(folder: Path, dialect: str, kind: Kind) -> ScriptSet:
    """Read ``folder/dialect/kind``; raises :class:`StartError` when it is not there or a name is
    wrong."""
    root = folder / dialect / kind
    if not (root / "tables").is_dir():
        raise StartError(f"no database scripts in {root}: is the installation complete?")
    return ScriptSet(
        (*_read(root, "tables"), *_read(root, "procedures")), _read_version(folder / "VERSION")
    )


def _read_version(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError) as error:
        raise StartError(
            f"{path} does not begin with a number: is the installation complete?"
        ) from error


def _read(root: Path, part: str) -> Iterator[DatabaseScript]:
    for path in sorted((root / part).glob("*.sql")):
        if part == "tables" and not _TABLE_NAME.match(path.stem):
            raise StartError(f"{path}: the name of a table script is NNNN_name.sql")
        text = path.read_text(encoding="utf-8")
        yield DatabaseScript(f"{part}/{path.stem}", text, hashlib.sha256(text.encode()).hexdigest())
