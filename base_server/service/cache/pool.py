"""The connections to one server, as redis-py makes them, handed out and taken back without a detour."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError


class Pool(ConnectionPool):
    """At most ``max_connections``; whoever comes when all are in use waits its turn.

    The time-outs are this class's and its users', not the connections': redis-py's cost a task for each write.
    """

    def __init__(self, *, timeout_s: float, patience_s: float = 0.0, **options: Any) -> None:
        """``timeout_s``: longest wait for a turn, and for a connection to be made and greeted. ``patience_s``: how long
        to try again while a server starts (connecting executes nothing)."""
        super().__init__(socket_timeout=None, socket_connect_timeout=timeout_s, **options)
        self.timeout_s = timeout_s
        self._patience_s = patience_s
        self._turns = asyncio.Semaphore(self.max_connections)

    async def take(self) -> AbstractConnection:
        """A connected, greeted, clean connection, to be given back by :meth:`give`. Raises redis-py's errors."""
        if self._turns.locked():
            try:
                async with asyncio.timeout(self.timeout_s):
                    await self._turns.acquire()
            except TimeoutError as error:
                raise RedisConnectionError("all connections are in use") from error
        else:
            await self._turns.acquire()  # at once
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            if not connection.is_connected or await connection.can_read():
                await self._connect(connection)
        except BaseException:
            self.give(connection)
            raise
        return connection

    def give(self, connection: AbstractConnection) -> None:
        """Give back what :meth:`take` gave; the caller has closed it unless every answer was read."""
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)
        self._turns.release()

    async def drop_idle(self) -> None:
        """Close the idle connections. They leave the pool first, so nobody can take one that is closing."""
        idle, self._available_connections = self._available_connections, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def _connect(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._patience_s
        await connection.disconnect(nowait=True)  # closed by the server, or with an answer that nobody asked for
        while True:
            try:
                async with asyncio.timeout(self.timeout_s):
                    await connection.connect()  # type: ignore[no-untyped-call]
                return
            except TimeoutError as error:
                raise RedisConnectionError(f"no connection within {self.timeout_s:g} s") from error
            except RedisConnectionError:
                if loop.time() >= deadline_s:
                    raise
                await asyncio.sleep(0.02)

    # redis-py's own pipelines with WATCH, and its pub/sub, ask by these names.

    async def get_connection(self, command_name: object = None, *keys: object, **options: object) -> AbstractConnection:
        return await self.take()

    async def release(self, connection: AbstractConnection) -> None:
        self.give(connection)
