"""The connections to one server, handed out to one batch at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from redis.exceptions import ConnectionError as RedisConnectionError

from base_server.service.redis_client.connection import RedisConnection


class ConnectionPool:
    """At most ``max_connections``; when all are in use, the longest waiter gets the next one."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[RedisConnection]],
        *,
        max_connections: int,
        timeout_s: float,
    ) -> None:
        """``timeout_s``: longest wait for a connection while all are in use."""
        self.max_connections = max_connections
        self.timeout_s = timeout_s
        self.in_use = 0
        self.idle: list[RedisConnection] = []
        """The one used last comes last and is used next: the others may be closed by the server."""
        self._connect = connect
        self._waiters: deque[asyncio.Future[RedisConnection | None]] = deque()

    def take_idle(self) -> RedisConnection | None:
        """A connection on which a batch can be sent at once, without a task; else ``None``."""
        if not self.idle or not self.idle[-1].clean:
            return None
        self.in_use += 1
        return self.idle.pop()

    async def take(self) -> RedisConnection:
        """A clean connection, to be returned by :meth:`give`. Raises redis-py's errors."""
        connection = None
        if self.in_use < self.max_connections:
            self.in_use += 1
        else:
            connection = await self._wait()
        try:
            # Also one that was handed over may have been closed by the server meanwhile.
            while (connection is None or not connection.clean) and self.idle:
                connection = self.idle.pop()
            if connection is None or not connection.clean:
                connection = await self._connect()
        except BaseException:
            self.give(None)
            raise
        return connection

    def give(self, connection: RedisConnection | None) -> None:
        """Return what :meth:`take` gave, or ``None`` for a connection that could not be made.

        It is closed unless every reply was read: a late reply must not reach the next caller.
        """
        if connection is not None and not connection.clean:
            connection.close()
            connection = None
        while self._waiters:
            if not (waiter := self._waiters.popleft()).done():
                waiter.set_result(connection)  # the place in the pool goes with it
                return
        self.in_use -= 1
        if connection is not None:
            self.idle.append(connection)

    def close_idle(self) -> None:
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.close()

    async def _wait(self) -> RedisConnection | None:
        waiter: asyncio.Future[RedisConnection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await waiter
        except BaseException as error:
            # Race: the connection came in the very loop iteration in which the wait was given up.
            if waiter.done() and not waiter.cancelled():
                self.give(waiter.result())
            if isinstance(error, TimeoutError):
                raise RedisConnectionError("all connections are in use") from error
            raise
