"""One connection to Redis: a transport, hiredis' parser, and no task.

redis-py's connections read through a stream and a task per call. Here a batch has the connection
for itself until its last reply; replies complete their calls as the bytes arrive.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

from hiredis import Reader, pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from base_server.service.redis_client.calls import Batch, Command, Effect, RedisCall
from base_server.service.redis_client.errors import error_reply

OnEnd = Callable[[Exception | None], None]

_NOT_YET = object()
"""The parser's result while a reply is incomplete (``None`` is a reply)."""
_RETRY_S = 0.02


class RedisConnection(asyncio.Protocol):
    """Made by :meth:`Connector.connect`.

    ``clean``: every reply was read, and nothing came that nobody asked for. Only then may a batch
    be sent: a reply left over on a connection would go to the next caller (the ChatGPT leak of
    March 2023).
    """

    def __init__(self) -> None:
        self.clean = False
        self._transport: asyncio.WriteTransport
        self._reader = Reader(
            protocolError=InvalidResponse,
            replyError=error_reply,
            encoding="utf-8",
            notEnoughData=_NOT_YET,
        )
        self._batch: Batch | None = None
        self._on_end: OnEnd
        self._on_push: Callable[[Any], None] | None = None

    def send(self, batch: Batch, on_end: OnEnd) -> None:
        """Send the calls, complete each with its replies, then call ``on_end`` once: with ``None``,
        or with the reason why the calls that are still in the batch get no reply."""
        self.clean = False
        self._batch, self._on_end = batch, on_end
        self._transport.writelines([call.packed for call in batch.calls])

    async def ask(self, *commands: Command) -> list[Any]:
        """Send commands before the connection is used for calls; returns their replies.

        An error reply stands in its place. Raises redis-py's ConnectionError. If it is cancelled,
        the connection has to be closed.
        """
        if not commands:
            return []
        call = RedisCall(commands, Effect.ONCE, RedisCall.complete)
        batch = Batch()
        batch.add(call)
        self.send(batch, lambda error: None if error is None else call.complete(error))
        return await call.replies

    def listen(self, on_push: Callable[[Any], None]) -> None:
        """From now on the connection carries pub/sub messages: call ``on_push`` with each, and with
        the error that ends the connection. Commands go out by :meth:`write`."""
        self.clean = False
        self._on_push = on_push

    def write(self, *command: Any) -> None:
        """Send a command to a connection that listens; its reply goes to ``on_push``."""
        if not self._transport.is_closing():  # else ``on_push`` gets the reason soon
            self._transport.write(pack_command(command))

    def close(self) -> None:
        """Close at once. Calls in flight are not completed, and ``on_end`` is not called."""
        self.clean = False
        self._batch = self._on_push = None
        self._transport.abort()

    # The rest is called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self.clean = True

    def data_received(self, data: bytes) -> None:
        batch = self._batch
        if batch is None:
            self._on_unsolicited(data)
            return
        try:
            self._reader.feed(data)
            while batch.calls:
                if (reply := self._next_reply()) is _NOT_YET:
                    return
                batch.on_reply(reply)
        except RedisError as error:  # not RESP, or a reply that ends the connection
            self._end(error)
            return
        # More than was asked for: the connection is out of step, its next reply would be another's.
        self.clean = batch.reusable and not self._reader.has_data()
        self._end(None)

    def eof_received(self) -> bool | None:
        self._lost(RedisConnectionError("closed by the server"))
        return None  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(RedisConnectionError(str(exc or "closed")))

    def _on_unsolicited(self, data: bytes) -> None:
        """A pub/sub message, or else the end: no reply belongs here while no batch is in flight."""
        if self._on_push is None:
            self.close()
            return
        try:
            self._reader.feed(data)
            while (message := self._next_reply()) is not _NOT_YET:
                self._on_push(message)
        except RedisError as error:
            self._lost(error)

    def _next_reply(self) -> Any:
        try:
            return self._reader.gets()
        except UnicodeDecodeError as error:  # this reply is not UTF-8, those behind it may be
            return error

    def _lost(self, error: RedisError) -> None:
        self.clean = False
        self._end(error)
        if self._on_push is not None:
            on_push, self._on_push = self._on_push, None
            on_push(error)

    def _end(self, error: Exception | None) -> None:
        # First forget the batch: `on_end` gives the connection back, and the next may be sent.
        if self._batch is not None:
            self._batch = None
            self._on_end(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """How to reach one server, and what a new connection goes through before it is used."""

    host: str = "127.0.0.1"
    port: int = 6379
    unix_socket_path: str | None = None
    """If set, instead of host and port."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_ca_file: str | None = None
    """Certificates to trust instead of the system's."""
    timeout_s: float = 5.0
    """Longest time for a connection to be made and prepared."""
    patience_s: float = 0.0
    """How long to try again while a server starts (connecting executes nothing)."""
    on_connect: Callable[[RedisConnection], Awaitable[None]] | None = None
    """Runs on every new connection; a connection on which it fails is closed and never used."""

    async def connect(self) -> RedisConnection:
        """A connection that is logged in and prepared. Raises redis-py's ConnectionError."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.patience_s
        while True:
            try:
                async with asyncio.timeout(self.timeout_s):
                    return await self._connect_and_prepare()
            except TimeoutError as error:
                raise RedisConnectionError(f"no connection within {self.timeout_s:g} s") from error
            except (RedisConnectionError, OSError) as error:
                if loop.time() >= deadline_s:
                    if isinstance(error, RedisConnectionError):
                        raise
                    raise RedisConnectionError(str(error)) from error
                await asyncio.sleep(_RETRY_S)

    async def _connect_and_prepare(self) -> RedisConnection:
        connection = await self._open()
        try:
            if self.username is not None or self.password is not None:
                user = () if self.username is None else (self.username,)
                await _expect_ok(connection, ("AUTH", *user, self.password or ""))
            if self.db:
                await _expect_ok(connection, ("SELECT", self.db))
            if self.on_connect is not None:
                await self.on_connect(connection)
            if not connection.clean:
                raise RedisConnectionError("the server sent what nobody asked for")
        except BaseException:  # a cancelled one too: half prepared it must not be used
            connection.close()
            raise
        return connection

    async def _open(self) -> RedisConnection:
        loop = asyncio.get_running_loop()
        if self.unix_socket_path is not None:
            path = self.unix_socket_path
            _, connection = await loop.create_unix_connection(RedisConnection, path)
            return connection
        context = ssl.create_default_context(cafile=self.tls_ca_file) if self.tls else None
        transport, connection = await loop.create_connection(
            RedisConnection, self.host, self.port, ssl=context
        )
        # A host that vanished without a word is noticed while its connections are idle.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection


async def _expect_ok(connection: RedisConnection, command: Command) -> None:
    (reply,) = await connection.ask(command)
    if isinstance(reply, Exception):
        raise reply
