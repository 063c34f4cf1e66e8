"""One MySQL or MariaDB connection: how it is opened, used and given up. The only user of
aiomysql."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Any

import aiomysql
from pymysql.constants import FIELD_TYPE, SERVER_STATUS
from pymysql.converters import decoders

from base_server.service.core.errors import DataRefused
from base_server.service.db.values import Row, decode_time

_TOO_LARGE = 1153  # MySQL's number for a statement over max_allowed_packet
_DECODERS = {**decoders, FIELD_TYPE.DATETIME: decode_time, FIELD_TYPE.TIMESTAMP: decode_time}
_SESSION = (
    "SET NAMES utf8mb4 COLLATE utf8mb4_bin, time_zone = '+00:00', "
    "sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,"
    "NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION'"
)


@dataclass(frozen=True)
class MySqlTarget:
    """Where a database is, and the login. ``database`` None: the server itself."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str | None
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"database {self.database} on {self.host}:{self.port}"


class _QuietCursor(aiomysql.DictCursor):  # type: ignore[misc] # aiomysql has no types
    """Strict mode raises what matters; warnings would cost a round trip and print data to
    stderr."""

    async def _show_warnings(self, conn: object) -> None:
        return None


class MySqlConnection:
    """An open connection, for one user at a time. After an error it must be discarded."""

    def __init__(self, raw: Any, max_packet_bytes: int) -> None:
        self._raw = raw
        self._max_packet_bytes = max_packet_bytes

    @classmethod
    async def open(
        cls, target: MySqlTarget, *, lock_wait_s: int, statement_s: float | None
    ) -> MySqlConnection:
        """Connect with strict mode, UTC, utf8mb4 and autocommit.

        ``statement_s`` bounds each statement on the server (MariaDB; MySQL has that for SELECT
        only).
        """
        raw = await aiomysql.connect(
            host=target.host, port=target.port, user=target.user, password=target.password,
            db=target.database, charset="utf8mb4", autocommit=True, ssl=target.tls,
            conv=_DECODERS, cursorclass=_QuietCursor,
            init_command=f"{_SESSION}, innodb_lock_wait_timeout = {lock_wait_s}",
        )  # fmt: skip
        connection = cls(raw, 0)
        try:
            if statement_s is not None:
                await connection.run(
                    f"SET max_statement_time = {statement_s}"
                    if "MariaDB" in raw.get_server_info()
                    else f"SET max_execution_time = {round(statement_s * 1000)}"
                )
            rows = await connection.run("SELECT @@max_allowed_packet AS bytes")
            connection._max_packet_bytes = rows[0]["bytes"]
        except BaseException:
            connection.discard()
            raise
        return connection

    @property
    def is_stale(self) -> bool:
        """Whether the server has closed it since (a look at what has arrived, no round trip)."""
        reader = self._raw._reader
        return (
            reader is None
            or reader.eof_received
            or reader.at_eof()
            or reader.exception() is not None
        )

    def statement(self, procedure: str, params: tuple[Any, ...]) -> bytes:
        """``CALL procedure(…)`` with escaped literals; one larger than the server takes is refused
        here."""
        call = b"CALL `%s`(%s)" % (
            procedure.encode(),
            b", ".join(self._literal(param) for param in params),
        )
        if len(call) >= self._max_packet_bytes:
            raise DataRefused(
                _TOO_LARGE,
                f"{procedure}: larger than max_allowed_packet ({self._max_packet_bytes})",
            )
        return call

    def _literal(self, param: Any) -> bytes:
        if (
            isinstance(param, str)
            and not self._raw.server_status & SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES
        ):
            # PyMySQL's own way takes 4 ms for 100 KB of Korean, this one 0.1; both are safe in
            # UTF-8
            return b"'%s'" % param.encode().replace(b"\\", b"\\\\").replace(b"'", b"''")
        return str(self._raw.escape(param)).encode()

    async def run(self, statement: str | bytes) -> list[Row]:
        """Send one statement and read all its result sets; the rows of the last one."""
        rows: list[Row] = []
        async with self._raw.cursor() as cursor:
            await cursor.execute(statement)
            more = True
            while more:
                if cursor.description is not None:
                    rows = list(await cursor.fetchall())
                more = await cursor.nextset()
        return rows

    async def ping(self) -> None:
        await self._raw.ping(reconnect=False)

    def discard(self) -> None:
        """Drop the connection at once, whatever is under way on it."""
        if (writer := self._raw._writer) is not None:
            writer.transport.abort()
        self._raw.close()

    async def say_goodbye(self) -> None:
        """Close an idle connection so that the server does not count it as aborted."""
        writer = self._raw._writer
        try:
            async with asyncio.timeout(1):
                await self._raw.ensure_closed()
                await writer.wait_closed()  # over TLS the server's own goodbye comes first
        except (OSError, TimeoutError):
            writer.transport.abort()
