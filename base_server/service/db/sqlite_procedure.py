"""A SQLite procedure: a file of statements with named parameters, run in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from base_server.service.core.errors import ServiceError
from base_server.service.db.scripts import DatabaseScript
from base_server.service.db.values import Row, decode_time


def split_statements(text: str) -> Iterator[str]:
    """The statements of a script, without the comments between them."""
    pending = ""
    for line in text.splitlines(keepends=True):
        if pending or not (line.startswith("--") or line.isspace()):
            pending += line
            if sqlite3.complete_statement(pending):
                yield pending
                pending = ""
    if pending.strip():
        raise ServiceError(f"a statement does not end: {pending[:80]!r}")


class SqliteProcedure:
    """One parsed file. A procedure that only reads does not take the write lock."""

    def __init__(self, script: DatabaseScript) -> None:
        self.name = script.procedure
        self.params = script.header("params")
        self._statements = tuple(split_statements(script.text))
        self._begin = (
            "BEGIN" if all(s.startswith("SELECT") for s in self._statements) else "BEGIN IMMEDIATE"
        )

    def run(self, connection: sqlite3.Connection, params: Sequence[Any]) -> list[Row]:
        """Run in one transaction; the rows of the last SELECT. Columns named ``…_at`` are times."""
        if len(params) != len(self.params):
            raise ServiceError(
                f"{self.name} takes {len(self.params)} parameters, {len(params)} were given"
            )
        named = dict(zip(self.params, params, strict=True))
        rows: list[Row] = []
        connection.execute(self._begin)
        try:
            for statement in self._statements:
                cursor = connection.execute(statement, named)
                if cursor.description is not None:
                    rows = _read_rows(cursor)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return rows


def _read_rows(cursor: sqlite3.Cursor) -> list[Row]:
    names = [column[0] for column in cursor.description]
    rows = [dict(zip(names, values, strict=True)) for values in cursor]
    for name in names:
        if name.endswith("_at"):
            for row in rows:
                if row[name] is not None:
                    row[name] = decode_time(row[name])
    return rows
