"""A SQLite file behind the database port: its own thread, WAL, commits synced to the disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

from base_server.service.core.errors import (
    DataRefused,
    NotDeployed,
    OutcomeUnknown,
    ServiceError,
    ServiceUnavailable,
)
from base_server.service.db.database import SERVICE, Selection
from base_server.service.db.scripts import ScriptSet
from base_server.service.db.sqlite_procedure import SqliteProcedure, split_statements
from base_server.service.db.values import Row, encode_params

T = TypeVar("T")

_LEDGER = """CREATE TABLE IF NOT EXISTS schema_versions (
    name TEXT NOT NULL PRIMARY KEY, checksum TEXT NOT NULL, applied_at TEXT NOT NULL)"""
_RECORD = """INSERT INTO schema_versions (name, checksum, applied_at)
    VALUES (?, ?, strftime('%Y-%m-%d %H:%M:%f', 'now'))
    ON CONFLICT (name)
    DO UPDATE SET checksum = excluded.checksum, applied_at = excluded.applied_at"""


_NO_FREEZE = "a SQLite shard needs no freeze: it is a file, to be copied while no server runs"


class SqliteDatabase:
    """One file and the one thread that touches it; calls run one after the other."""

    def __init__(self, path: Path, scripts: ScriptSet, *, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._procedures = {
            name: SqliteProcedure(script) for name, script in scripts.procedures.items()
        }
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite-{path.stem}")
        self._connection: sqlite3.Connection | None = None

    @property
    def label(self) -> str:
        return f"database file {self._path}"

    async def call(self, procedure: str, params: Sequence[Any]) -> list[Row]:
        values = encode_params(params)
        if (found := self._procedures.get(procedure)) is None:
            raise NotDeployed(SERVICE, f"{self.label} has no procedure {procedure}")
        return await self._run(lambda: found.run(self._open(), values))

    async def ping(self) -> None:
        await self._run(lambda: self._open().execute("SELECT 1").fetchone())

    async def facts(self) -> dict[str, str]:
        level = await self._run(lambda: self._open().execute("PRAGMA synchronous").fetchone()[0])
        return {"synchronous": str(level), "version": f"SQLite {sqlite3.sqlite_version}"}

    async def applied(self) -> dict[str, str]:
        return await self._run(self._read_ledger) if self._path.exists() else {}

    async def apply(self, select: Selection) -> None:
        # Without the calls' time-out: on a slow disk it would stop the start, each time.
        await asyncio.wrap_future(
            self._thread.submit(_translated, lambda: self._apply(select), self.label)
        )

    async def freeze(self) -> None:
        raise ServiceError(_NO_FREEZE)

    async def unfreeze(self) -> None:
        raise ServiceError(_NO_FREEZE)

    async def close(self) -> None:
        def close() -> None:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

        await asyncio.wrap_future(self._thread.submit(close))
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the thread, for at most the time-out: then it is taken back or
        interrupted."""
        job = self._thread.submit(_translated, work, self.label)
        answer = asyncio.wrap_future(job)
        await asyncio.wait({answer}, timeout=self._timeout_s)
        if not answer.done():
            if job.cancel():
                raise ServiceUnavailable(SERVICE, f"{self.label} was busy for {self._timeout_s} s")
            if self._connection is not None:
                self._connection.interrupt()
            await asyncio.wait({answer}, timeout=self._timeout_s)
            if not answer.done():
                raise OutcomeUnknown(
                    SERVICE, f"{self.label} did not answer in {2 * self._timeout_s} s"
                )
        return answer.result()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path,
                timeout=self._timeout_s / 2,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                _use_wal(connection, self._timeout_s / 2)
                connection.execute("PRAGMA synchronous=FULL")
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _read_ledger(self) -> dict[str, str]:
        connection = self._open()
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'schema_versions'"
        ).fetchone():
            return {}
        return dict(connection.execute("SELECT name, checksum FROM schema_versions").fetchall())

    def _apply(self, select: Selection) -> None:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(_LEDGER)
            for script in select(self._read_ledger()):
                if not script.is_procedure:  # procedures are read from their files
                    for statement in split_statements(script.text):
                        connection.execute(statement)
                connection.execute(_RECORD, (script.name, script.checksum))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _use_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Switch the file to WAL. SQLite does not wait here for another process that opens the new file
    as well."""
    deadline_s = monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > deadline_s:
                raise
            sleep(0.01)
        else:
            return


def _translated(work: Callable[[], T], label: str) -> T:
    try:
        return work()
    except (sqlite3.IntegrityError, sqlite3.DataError) as error:
        raise DataRefused(error.sqlite_errorcode, str(error)) from error
    except OverflowError as error:
        raise DataRefused(sqlite3.SQLITE_TOOBIG, str(error)) from error
    except sqlite3.OperationalError as error:
        if str(error) == "malformed JSON":
            raise DataRefused(error.sqlite_errorcode, str(error)) from error
        raise ServiceUnavailable(SERVICE, f"{label}: {error}") from error
    except (sqlite3.DatabaseError, OSError) as error:
        raise ServiceUnavailable(SERVICE, f"{label}: {error}") from error
    except sqlite3.Error as error:
        raise ServiceError(f"{label}: {error}") from error
