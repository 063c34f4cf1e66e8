"""SQLite in trouble: a file that others hold, calls that last too long."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.db.scripts import DatabaseScript, ScriptSet
from base_server.service.db.sqlite_database import SqliteDatabase
from tests.waiting import PATIENCE_S

TIMEOUT_S = 0.2
"""Of what a test wants to fail by the time-out; all else may take as long as a test waits."""
SCRIPTS = ScriptSet(
    (
        DatabaseScript(
            "tables/0001_notes",
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL);",
            "1",
        ),
        DatabaseScript(
            "procedures/add", "-- params: text\nINSERT INTO notes (text) VALUES (:text);\n", "2"
        ),
        DatabaseScript("procedures/count", "-- params:\nSELECT COUNT(*) AS n FROM notes;\n", "3"),
        DatabaseScript(
            "procedures/endless",
            "-- params: text\nINSERT INTO notes (text) VALUES (:text);\n"
            "SELECT COUNT(*) FROM (WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT n FROM t);\n",
            "4",
        ),
    ),
    version=1,
)


@pytest.fixture
async def database(tmp_path: Path) -> SqliteDatabase:
    database = SqliteDatabase(tmp_path / "db" / "notes.sqlite3", SCRIPTS, timeout_s=PATIENCE_S)
    await database.apply(lambda ledger: SCRIPTS.scripts)
    return database


async def test_every_commit_is_on_the_disk(database: SqliteDatabase) -> None:
    connection = database._open()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    await database.close()


async def test_scripts_are_applied_however_long_it_takes(tmp_path: Path) -> None:
    """cases/README.md: a slow machine."""
    text = "CREATE TABLE slow AS WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1"
    text += " FROM t WHERE n < 300000) SELECT n FROM t;"
    slow = DatabaseScript("tables/0002_slow", text, "5")
    database = SqliteDatabase(tmp_path / "notes.sqlite3", SCRIPTS, timeout_s=0.05)
    await database.apply(lambda ledger: [*SCRIPTS.scripts, slow])
    database._timeout_s = PATIENCE_S
    assert "tables/0002_slow" in await database.applied()
    await database.close()


async def test_a_file_that_another_process_writes_to_is_an_outage(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "db" / "notes.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    database._open().execute(f"PRAGMA busy_timeout = {round(TIMEOUT_S * 1000)}")
    with pytest.raises(ServiceUnavailable, match="locked"):
        await database.call("add", ("x",))
    assert await database.call("count", ()) == [{"n": 0}], "readers do not wait"
    other.execute("ROLLBACK")
    other.close()
    await database.call("add", ("x",))
    assert await database.call("count", ()) == [{"n": 1}]
    await database.close()


async def test_a_call_that_lasts_too_long_is_undone(database: SqliteDatabase) -> None:
    database._timeout_s = TIMEOUT_S
    with pytest.raises(ServiceUnavailable):
        await database.call("endless", ("x",))
    database._timeout_s = PATIENCE_S
    assert await database.call("count", ()) == [{"n": 0}]
    await database.close()


async def test_calls_behind_one_that_lasts_too_long_are_told_and_never_run(
    database: SqliteDatabase,
) -> None:
    released = threading.Event()
    ahead = database._thread.submit(released.wait)  # as a call that no interrupt ends
    database._timeout_s = TIMEOUT_S
    told = await asyncio.gather(
        *(database.call("add", ("y",)) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(each, ServiceUnavailable) and "was busy" in str(each) for each in told), (
        told
    )
    released.set()
    ahead.result()
    database._timeout_s = PATIENCE_S
    assert await database.call("count", ()) == [{"n": 0}]
    await database.close()


async def test_the_loop_does_not_wait_for_the_file(database: SqliteDatabase) -> None:
    endless = asyncio.create_task(database.call("endless", ("x",)))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not endless.done()
    while not endless.done():  # what is interrupted before it has begun goes on
        database._open().interrupt()
        await asyncio.sleep(0.01)
    assert isinstance(endless.exception(), ServiceUnavailable)
    await database.close()


async def test_a_file_that_is_no_database_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "notes.sqlite3").write_bytes(b"not a database" * 100)
    database = SqliteDatabase(tmp_path / "notes.sqlite3", SCRIPTS, timeout_s=TIMEOUT_S)
    with pytest.raises(ServiceUnavailable, match="not a database"):
        await database.call("count", ())
    await database.close()
