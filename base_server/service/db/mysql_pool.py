"""A pool of connections to one database. A connection on which anything failed is never used
again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from pymysql.err import Error as MySqlError

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.db.database import SERVICE
from base_server.service.db.mysql_connection import MySqlConnection, MySqlTarget
from base_server.service.db.mysql_errors import describe

_PING_AFTER_IDLE_S = 30.0


class MySqlPool:
    """At most ``size`` connections, opened when needed; the one used last is used first."""

    def __init__(self, target: MySqlTarget, *, size: int, timeout_s: float) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[MySqlConnection, float]] = []
        self._in_use = 0
        self._closed = False

    @property
    def idle(self) -> int:
        """Connections that wait for work."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """Connections that are at work."""
        return self._in_use

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[MySqlConnection]:
        """A connection for one call; raises ``ServiceUnavailable`` when there is none within the
        time-out."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise ServiceUnavailable(
                SERVICE, f"{self._target}: all connections are busy"
            ) from error
        try:
            connection = await self._take()
            self._in_use += 1
            try:
                yield connection
            except BaseException:
                connection.discard()
                raise
            finally:
                self._in_use -= 1
            if self._closed:
                connection.discard()
            else:
                self._idle.append((connection, monotonic()))
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        self._closed = True
        while self._idle:
            await self._idle.pop()[0].say_goodbye()

    async def _take(self) -> MySqlConnection:
        try:
            async with asyncio.timeout(self._timeout_s):
                while self._idle:
                    connection, since_s = self._idle.pop()
                    if await self._still_works(connection, since_s):
                        return connection
                    connection.discard()
                return await MySqlConnection.open(
                    self._target,
                    lock_wait_s=max(1, int(self._timeout_s / 2)),
                    statement_s=self._timeout_s,
                )
        except TimeoutError as error:
            raise ServiceUnavailable(SERVICE, f"{self._target}: does not answer") from error
        except MySqlError as error:
            raise ServiceUnavailable(SERVICE, f"{self._target}: {describe(error)}") from error

    async def _still_works(self, connection: MySqlConnection, since_s: float) -> bool:
        if connection.is_stale:
            return False
        if monotonic() - since_s > _PING_AFTER_IDLE_S:
            try:
                await connection.ping()
            except MySqlError:
                return False
            except asyncio.CancelledError:
                connection.discard()
                raise
        return True
