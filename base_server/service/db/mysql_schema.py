"""Ledger and scripts of a MySQL or MariaDB database, on connections of their own without time-outs
of the pool.

DDL commits by itself, so a table script is one statement that may be repeated (``CREATE TABLE IF
NOT EXISTS``): a run that died between a script and its ledger line is fixed by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from pymysql.err import Error as MySqlError

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.db.database import SERVICE, Selection
from base_server.service.db.mysql_connection import MySqlConnection, MySqlTarget
from base_server.service.db.mysql_errors import (
    NO_SUCH_TABLE,
    UNKNOWN_DATABASE,
    describe,
    error_number,
)

_APPLY_LOCK_WAIT_S = 30
# A frozen database has all its tables but the ledger under their name and this.
_FROZEN_SUFFIX = "__fenced"
FROZEN_TABLES = """SELECT table_name AS name FROM information_schema.tables
    WHERE table_schema = DATABASE() AND RIGHT(table_name, 8) = '__fenced'"""
_OPEN_TABLES = """SELECT table_name AS name FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'
    AND table_name <> 'schema_versions'
    AND RIGHT(table_name, 8) <> '__fenced'"""
_LEDGER = """CREATE TABLE IF NOT EXISTS schema_versions (
    name VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    checksum CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    applied_at DATETIME(3) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"""


async def read_ledger(target: MySqlTarget, *, timeout_s: float) -> dict[str, str]:
    """Checksum by script name; empty when database or ledger is missing."""
    try:
        async with asyncio.timeout(timeout_s), _connection(target, timeout_s) as connection:
            rows = await connection.run("SELECT name, checksum FROM schema_versions")
    except TimeoutError as error:
        raise ServiceUnavailable(SERVICE, f"{target}: does not answer") from error
    except MySqlError as error:
        if error_number(error) in (UNKNOWN_DATABASE, NO_SUCH_TABLE):
            return {}
        raise _unavailable(target, error) from error
    return {row["name"]: row["checksum"] for row in rows}


async def apply_scripts(target: MySqlTarget, select: Selection) -> None:
    """Create the database if missing and run what ``select`` returns for its ledger, one apply at a
    time."""
    try:
        async with _connection(replace(target, database=None), None) as connection:
            await connection.run(
                f"CREATE DATABASE IF NOT EXISTS `{target.database}` "
                "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            )
            await connection.run(f"USE `{target.database}`")
            lock = f"'schema.{target.database}'"
            rows = await connection.run(f"SELECT GET_LOCK({lock}, {_APPLY_LOCK_WAIT_S}) AS taken")
            if rows[0]["taken"] != 1:
                raise ServiceUnavailable(SERVICE, f"{target}: another apply is running")
            await _run(connection, select)
    except MySqlError as error:
        raise _unavailable(target, error) from error


async def rename_tables(target: MySqlTarget, *, frozen: bool) -> None:
    """Give all tables but the ledger names that no procedure knows, or their own again; all at
    once, and only when no statement uses them any more."""
    try:
        async with _connection(target, None) as connection:
            names = [
                row["name"]
                for row in await connection.run(_OPEN_TABLES if frozen else FROZEN_TABLES)
            ]
            new_names = [
                f"{name}{_FROZEN_SUFFIX}" if frozen else name.removesuffix(_FROZEN_SUFFIX)
                for name in names
            ]
            if names:
                renames = (
                    f"`{name}` TO `{new_name}`"
                    for name, new_name in zip(names, new_names, strict=True)
                )
                await connection.run(f"SET lock_wait_timeout = {_APPLY_LOCK_WAIT_S}")
                await connection.run(f"RENAME TABLE {', '.join(renames)}")
    except MySqlError as error:
        raise _unavailable(target, error) from error


async def _run(connection: MySqlConnection, select: Selection) -> None:
    await connection.run(_LEDGER)
    applied = {
        row["name"]: row["checksum"]
        for row in await connection.run("SELECT * FROM schema_versions")
    }
    for script in select(applied):
        if script.is_procedure:
            await connection.run(f"DROP PROCEDURE IF EXISTS `{script.procedure}`")
        if script.text:
            await connection.run(script.text)
        await connection.run(
            # S608: nothing but a file's name and digest.
            "INSERT INTO schema_versions (name, checksum, applied_at) "  # noqa: S608
            f"VALUES ('{script.name}', '{script.checksum}', UTC_TIMESTAMP(3)) "
            "ON DUPLICATE KEY UPDATE checksum = VALUES(checksum), applied_at = VALUES(applied_at)"
        )


@asynccontextmanager
async def _connection(
    target: MySqlTarget, statement_s: float | None
) -> AsyncIterator[MySqlConnection]:
    connection = await MySqlConnection.open(
        target, lock_wait_s=_APPLY_LOCK_WAIT_S, statement_s=statement_s
    )
    try:
        yield connection
    finally:
        connection.discard()


def _unavailable(target: MySqlTarget, error: MySqlError) -> ServiceUnavailable:
    return ServiceUnavailable(SERVICE, f"{target}: {describe(error)}")
