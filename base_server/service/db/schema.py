"""Whether a database is what the scripts say, and the way to make it so.

Each database keeps a ledger, ``schema_versions(name, checksum, applied_at)``. Table scripts are
append-only: one that was applied never changes, a new one gets the next number. Procedures are
replaced when their file has changed, but not by an older version of the server, unless that is
asked for: the ledger's line ``set/version`` has the number of the newest scripts that were applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from base_server.service.core.errors import StartError
from base_server.service.db.database import Database
from base_server.service.db.scripts import VERSION_ENTRY, DatabaseScript, ScriptSet


class ScriptState(StrEnum):
    """What the ledger of one database says about one file."""

    APPLIED = "applied"
    PENDING = "pending"
    OUTDATED = "outdated"
    """A procedure whose file has changed since: applying replaces it."""
    NEWER = "newer"
    """A procedure that a newer version of this server applied: only a downgrade replaces it."""
    ALTERED = "altered"
    """A table script that was changed after it was applied: a mistake in the files."""
    UNKNOWN = "unknown"
    """A table script that the ledger has and the files have not: the database is newer than this
    program."""


@dataclass(frozen=True)
class SchemaStatus:
    """The state of every script in one database."""

    label: str
    states: dict[str, ScriptState]
    version: int
    applied_version: int
    """The ledger's; 0 where only versions of the server that kept no number were applied."""

    def names(self, *states: ScriptState) -> list[str]:
        return [name for name, state in self.states.items() if state in states]

    @property
    def is_current(self) -> bool:
        return all(state is ScriptState.APPLIED for state in self.states.values())

    @property
    def newer_version(self) -> str:
        """That a newer version of the scripts was applied, in words; empty when none was."""
        if self.applied_version <= self.version:
            return ""
        return (
            "a newer version was applied: "
            f"its scripts have number {self.applied_version}, these {self.version}"
        )

    def refuse_mistakes(self, *, command: str = "db apply", downgrade: bool = False) -> None:
        """Raise :class:`StartError` for what applying cannot fix or, except for a ``downgrade``,
        must not replace.

        ``command`` is what the error calls the command that applies.
        """
        if altered := self.names(ScriptState.ALTERED):
            raise StartError(
                f"{self.label}: {', '.join(altered)} changed after it was applied; "
                "restore the file and put the change into a new numbered script"
            )
        if unknown := self.names(ScriptState.UNKNOWN):
            raise StartError(
                f"{self.label}: {', '.join(unknown)} was applied by a newer version of this "
                "server, or this database is another one's: run that version, "
                "or give the global database and each shard one of its own"
                " (databaseConfig.database, databaseConfig.shards)"
            )
        if not downgrade and (newer := self.names(ScriptState.NEWER)):
            raise StartError(
                f"{self.label}: {self.newer_version}, and {', '.join(newer)} would be replaced by "
                "older ones; run the newer version, or put this version's procedures back with: "
                f"{command} --downgrade"
            )


def compare(label: str, ledger: Mapping[str, str], scripts: ScriptSet) -> SchemaStatus:
    """What ``ledger``, the one of the database ``label``, says about each of ``scripts``."""
    applied_version = int(ledger.get(VERSION_ENTRY, "0"))
    changed = ScriptState.NEWER if applied_version > scripts.version else ScriptState.OUTDATED
    states: dict[str, ScriptState] = {}
    for script in scripts.scripts:
        applied = ledger.get(script.name)
        if applied is None:
            states[script.name] = ScriptState.PENDING
        elif applied == script.checksum:
            states[script.name] = ScriptState.APPLIED
        else:
            states[script.name] = changed if script.is_procedure else ScriptState.ALTERED
    unknown = [name for name in ledger if name.startswith("tables/") and name not in states]
    states.update(dict.fromkeys(unknown, ScriptState.UNKNOWN))
    return SchemaStatus(label, states, scripts.version, applied_version)


async def read_status(database: Database, scripts: ScriptSet) -> SchemaStatus:
    """Compare the ledger of ``database`` with ``scripts``."""
    return compare(database.label, await database.applied(), scripts)


async def apply(
    database: Database, scripts: ScriptSet, *, command: str = "db apply", downgrade: bool = False
) -> list[str]:
    """Bring ``database`` up to ``scripts``; the names of what was pending or outdated.

    Raises :class:`StartError` as :meth:`SchemaStatus.refuse_mistakes`, and has changed nothing
    then.
    """

    def select(ledger: Mapping[str, str]) -> list[DatabaseScript]:
        status = compare(database.label, ledger, scripts)
        status.refuse_mistakes(command=command, downgrade=downgrade)
        todo = set(status.names(ScriptState.PENDING, ScriptState.OUTDATED, ScriptState.NEWER))
        selected = [script for script in scripts.scripts if script.name in todo]
        # The number comes first: an apply that dies on its way (MySQL commits each script) leaves
        # procedures of this version, which an older one must not replace.
        if status.applied_version < scripts.version or status.names(ScriptState.NEWER):
            selected.insert(0, scripts.version_entry)
        return selected

    selected = select(await database.applied())
    if selected:
        await database.apply(select)
    return [script.name for script in selected if script.name != VERSION_ENTRY]


async def require_current(database: Database, scripts: ScriptSet, *, fix: str) -> None:
    """Raise :class:`StartError`, naming the command ``fix``, unless every script is applied as it
    is."""
    status = await read_status(database, scripts)
    status.refuse_mistakes(command=fix)
    if not status.is_current:
        todo = status.names(ScriptState.PENDING, ScriptState.OUTDATED)
        raise StartError(
            f"{database.label}: {len(todo)} database scripts are not applied; run: {fix}"
        )
