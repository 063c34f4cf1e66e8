"""A MySQL or MariaDB database behind the database port: a call is one ``CALL``, one round trip."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from typing import Any

from pymysql.err import Error as MySqlError

from base_server.service.core.errors import OutcomeUnknown, ServiceError, ServiceUnavailable
from base_server.service.db.database import SERVICE, Selection
from base_server.service.db.mysql_connection import MySqlConnection, MySqlTarget
from base_server.service.db.mysql_errors import Verdict, judge, translate
from base_server.service.db.mysql_pool import MySqlPool
from base_server.service.db.mysql_schema import (
    FROZEN_TABLES,
    apply_scripts,
    read_ledger,
    rename_tables,
)
from base_server.service.db.scripts import ScriptSet
from base_server.service.db.values import Row, encode_params

_PROCEDURE_NAME = re.compile(r"^\w{1,64}$", re.ASCII)
_BUSY_RETRIES = 3
_FACTS = (
    "SELECT @@global.innodb_flush_log_at_trx_commit AS innodb_flush_log_at_trx_commit, "
    "@@global.sync_binlog AS sync_binlog, @@global.log_bin AS log_bin, @@version AS version, "
    "UNIX_TIMESTAMP(NOW(3)) AS clock_s"
)


class MySqlDatabase:
    """One database and its pool.

    The procedures of our own scripts can be repeated (they carry their ids): they are called again
    once after a lost connection and up to three times after a deadlock. A host's own procedures are
    sent once.
    """

    def __init__(
        self, target: MySqlTarget, scripts: ScriptSet, *, pool_size: int, timeout_s: float
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._repeatable = frozenset(scripts.procedures)
        self.pool = MySqlPool(target, size=pool_size, timeout_s=timeout_s)

    @property
    def label(self) -> str:
        return str(self._target)

    async def call(self, procedure: str, params: Sequence[Any]) -> list[Row]:
        values = encode_params(params)
        if not _PROCEDURE_NAME.match(procedure):
            raise ServiceError(f"not the name of a procedure: {procedure!r}")
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                return await self._call(procedure, values)
        except TimeoutError as error:
            raise OutcomeUnknown(SERVICE, f"{self.label}: {procedure} took too long") from error

    async def ping(self) -> None:
        try:
            async with self.pool.connection() as connection:
                frozen = await self._answer(connection, FROZEN_TABLES)
        except MySqlError as error:
            raise translate(error, self.label) from error
        if frozen:
            raise ServiceUnavailable(SERVICE, f"{self.label} is frozen (manage db unfreeze)")

    async def facts(self) -> dict[str, str]:
        try:
            async with self.pool.connection() as connection:
                rows = await self._answer(connection, _FACTS)
        except MySqlError as error:
            raise translate(error, self.label) from error
        return {name: str(value) for name, value in rows[0].items()}

    async def applied(self) -> dict[str, str]:
        return await read_ledger(self._target, timeout_s=self._timeout_s)

    async def apply(self, select: Selection) -> None:
        await apply_scripts(self._target, select)

    async def freeze(self) -> None:
        await rename_tables(self._target, frozen=True)

    async def unfreeze(self) -> None:
        await rename_tables(self._target, frozen=False)

    async def close(self) -> None:
        await self.pool.close()

    async def _call(self, procedure: str, values: tuple[Any, ...]) -> list[Row]:
        deadlocks, is_unsure = 0, False
        while True:
            try:
                async with self.pool.connection() as connection:
                    return await self._answer(connection, connection.statement(procedure, values))
            except MySqlError as error:
                verdict = judge(error)
                if (
                    procedure in self._repeatable
                    and verdict is Verdict.BUSY
                    and deadlocks < _BUSY_RETRIES
                ):
                    deadlocks += 1
                elif (
                    procedure in self._repeatable
                    and verdict is Verdict.OUTCOME_UNKNOWN
                    and not is_unsure
                ):
                    is_unsure = True
                else:
                    raise _or_unknown(translate(error, self.label), is_unsure) from error
            except ServiceUnavailable as error:
                raise _or_unknown(error, is_unsure) from error
            # Random: two that deadlocked must not meet again.
            await asyncio.sleep(random.uniform(0, 0.01 * 2**deadlocks))  # noqa: S311

    async def _answer(self, connection: MySqlConnection, statement: str | bytes) -> list[Row]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await connection.run(statement)
        except TimeoutError as error:
            raise OutcomeUnknown(
                SERVICE, f"{self.label}: no answer in {self._timeout_s} s"
            ) from error


def _or_unknown(error: ServiceError, is_unsure: bool) -> ServiceError:
    """``error``, unless the outcome of an earlier attempt is unknown: then "nothing was executed"
    would be wrong."""
    if is_unsure and isinstance(error, ServiceUnavailable):
        return OutcomeUnknown(SERVICE, error.reason)
    return error
