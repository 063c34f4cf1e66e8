"""Whether a database is what the scripts say, and the way to make it so.

Each database keeps a ledger, ``schema_versions(name, checksum, applied_at)``. Table scripts are append-only: one that
was applied never changes, a new one gets the next number. Procedures are replaced when their file has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service.core.errors import StartError
from service.db.database import Database
from service.db.scripts import ScriptSet


class ScriptState(StrEnum):
    """What the ledger of one database says about one file."""

    APPLIED = "applied"
    PENDING = "pending"
    OUTDATED = "outdated"
    """A procedure whose file has changed since: applying replaces it."""
    ALTERED = "altered"
    """A table script that was changed after it was applied: a mistake in the files."""
    UNKNOWN = "unknown"
    """A table script that the ledger has and the files have not: the database is newer than this program."""


@dataclass(frozen=True)
class SchemaStatus:
    """The state of every script in one database."""

    label: str
    states: dict[str, ScriptState]

    def names(self, *states: ScriptState) -> list[str]:
        return [name for name, state in self.states.items() if state in states]

    @property
    def is_current(self) -> bool:
        return all(state is ScriptState.APPLIED for state in self.states.values())

    def refuse_mistakes(self) -> None:
        """Raise :class:`StartError` for what applying cannot mend."""
        if altered := self.names(ScriptState.ALTERED):
            raise StartError(
                f"{self.label}: {', '.join(altered)} changed after it was applied; "
                "restore the file and put the change into a new numbered script"
            )
        if unknown := self.names(ScriptState.UNKNOWN):
            raise StartError(
                f"{self.label}: {', '.join(unknown)} was applied by a newer version of this server, or this database"
                " is another one's: run that version, or give the global database and each shard one of its own"
                " (databaseConfig.database, databaseConfig.shards)"
            )


async def read_status(database: Database, scripts: ScriptSet) -> SchemaStatus:
    """Compare the ledger of ``database`` with ``scripts``."""
    ledger = await database.applied()
    states: dict[str, ScriptState] = {}
    for script in scripts.scripts:
        applied = ledger.pop(script.name, None)
        if applied is None:
            states[script.name] = ScriptState.PENDING
        elif applied == script.checksum:
            states[script.name] = ScriptState.APPLIED
        else:
            states[script.name] = ScriptState.OUTDATED if script.is_procedure else ScriptState.ALTERED
    states.update({name: ScriptState.UNKNOWN for name in ledger if name.startswith("tables/")})
    return SchemaStatus(database.label, states)


async def apply(database: Database, scripts: ScriptSet) -> list[str]:
    """Bring ``database`` up to ``scripts``; the names of what was pending or outdated."""
    status = await read_status(database, scripts)
    status.refuse_mistakes()
    todo = status.names(ScriptState.PENDING, ScriptState.OUTDATED)
    if todo:
        await database.apply(scripts.scripts)
    return todo


async def require_current(database: Database, scripts: ScriptSet, *, mend: str) -> None:
    """Raise :class:`StartError`, naming the command ``mend``, unless every script is applied as it is."""
    status = await read_status(database, scripts)
    status.refuse_mistakes()
    if not status.is_current:
        todo = status.names(ScriptState.PENDING, ScriptState.OUTDATED)
        raise StartError(f"{database.label}: {len(todo)} database scripts are not applied; run: {mend}")
