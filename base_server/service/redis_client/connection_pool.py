"""The connections to one server, as redis-py makes them, handed out and taken back without a detour."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

from base_server.service.redis_client.connection import WiredConnection


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
        self._available_connections: list[WiredConnection] = []  # type: ignore[assignment]
        self._in_use_connections: set[WiredConnection] = set()  # type: ignore[assignment] # redis-py's weak set is slow
        self._turns: deque[asyncio.Future[WiredConnection]] = deque()

    def take_clean(self) -> WiredConnection | None:
        """A connection on which a batch can go out at once, to be given back by :meth:`give`; ``None`` if there is none
        and :meth:`take` has to look for one."""
        idle = self._available_connections
        if not idle or not idle[-1].wire.clean:
            return None
        connection = idle.pop()
        self._in_use_connections.add(connection)
        return connection

    async def take(self) -> WiredConnection:
        """A connected, greeted, clean connection, to be given back by :meth:`give`. Raises redis-py's errors."""
        connection: WiredConnection
        if len(self._in_use_connections) < self.max_connections:
            connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        else:
            connection = await self._turn()
        try:
            if not await connection.is_ready():
                await self._connect(connection)
        except BaseException:
            self.give(connection)
            raise
        return connection

    def give(self, connection: WiredConnection) -> None:
        """Give back what :meth:`take` gave, to who waits the longest if somebody does; the caller has closed it
        unless every answer was read."""
        while self._turns:
            if not (turn := self._turns.popleft()).done():
                turn.set_result(connection)
                return
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)

    def drop_idle(self) -> None:
        """Close the idle connections."""
        idle, self._available_connections = self._available_connections, []
        for connection in idle:
            connection.drop()

    async def _turn(self) -> WiredConnection:
        turn: asyncio.Future[WiredConnection] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came just as the waiting ended
                self.give(turn.result())
            if isinstance(error, TimeoutError):
                raise RedisConnectionError("all connections are in use") from error
            raise

    async def _connect(self, connection: WiredConnection) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._patience_s
        connection.drop()  # closed by the server, or with an answer that nobody asked for
        while True:
            try:
                async with asyncio.timeout(self.timeout_s):
                    await connection.connect()  # type: ignore[no-untyped-call]
                if not await connection.is_ready():
                    connection.drop()
                    raise RedisConnectionError("the server says what nobody asked for")
                return
            except TimeoutError as error:
                raise RedisConnectionError(f"no connection within {self.timeout_s:g} s") from error
            except RedisConnectionError:
                if loop.time() >= deadline_s:
                    raise
                await asyncio.sleep(0.02)

    # redis-py's own pipelines with WATCH, and its pub/sub, ask by these names.

    async def get_connection(
        self, command_name: object = None, *keys: object, **options: object
    ) -> WiredConnection:
        return await self.take()

    async def release(self, connection: WiredConnection) -> None:  # type: ignore[override]
        self.give(connection)
