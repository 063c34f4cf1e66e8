"""Our end of a connection of redis-py's: answers settle their calls as they come in, without a task or a stream.

redis-py connects and greets. Then a batch may have the connection for itself until its last answer; the rest
of the time the connection is redis-py's, for its pipelines with WATCH and its pub/sub.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from hiredis import Reader
from redis._parsers import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from base_server.service.redis_client.calls import Batch

Ended = Callable[[Exception | None], None]

_NOT_YET = object()


class Wire(Protocol):
    """What a batch is sent on."""

    clean: bool
    """A batch was answered on it to the end, and nothing came since: another may follow at once."""

    @property
    def open(self) -> bool: ...

    def ask(self, batch: Batch, ended: Ended) -> None:
        """Send the calls and settle each when it is answered. At the end, once: ``ended(None)``, or why the calls that
        are still in the batch will not be answered."""

    def close(self) -> None:
        """At once. What was asked is not answered, and ``ended`` is not called."""


class _NoWire:
    """Of a connection that was not connected yet."""

    clean = open = False

    def ask(self, batch: Batch, ended: Ended) -> None:
        raise RuntimeError("not connected")

    def close(self) -> None: ...


class WiredConnection(AbstractConnection):
    """A connection of redis-py's that has a wire as soon as it is open. Mixed into redis-py's classes."""

    wire: Wire = _NoWire()

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[no-untyped-call, safe-super]
        self.wire = SocketWire(self._writer.transport)  # type: ignore[union-attr]

    async def is_ready(self) -> bool:
        """It is open, and nothing has come that nobody asked for."""
        return self.is_connected and self.wire.open and not await self.can_read()

    def drop(self) -> None:
        """Close it without waiting: an answer that is still on its way reaches nobody."""
        self.wire.close()
        self._close()  # type: ignore[no-untyped-call]


class SocketWire(asyncio.Protocol):
    """Between the socket and redis-py's stream, to which goes what comes while no batch is asked: the greeting, answers
    to redis-py itself, and what nobody asked for, so that it is noticed there."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self.clean = False
        self._transport = transport
        self._stream = cast(asyncio.Protocol, transport.get_protocol())
        self._reader = Reader(
            protocolError=InvalidResponse,
            replyError=BaseParser.parse_error,
            encoding="utf-8",
            notEnoughData=_NOT_YET,
        )
        self._batch: Batch | None = None
        self._ended: Ended
        transport.set_protocol(self)

    @property
    def open(self) -> bool:
        return not self._transport.is_closing()

    def ask(self, batch: Batch, ended: Ended) -> None:
        self.clean = False
        self._batch, self._ended = batch, ended
        self._transport.writelines([call.packed for call in batch.calls])

    def close(self) -> None:
        self.clean = False
        self._batch = None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        batch = self._batch
        if batch is None:
            self.clean = False
            self._stream.data_received(data)
            return
        try:
            self._reader.feed(data)
            while batch.calls:
                if (answer := self._next()) is _NOT_YET:
                    return
                batch.hear(answer)
        except RedisError as error:
            self._end(error)
            return
        self.clean = batch.sound and not self._reader.has_data()
        self._end(None)

    def _next(self) -> Any:
        try:
            return self._reader.gets()
        except UnicodeDecodeError as error:
            return error

    def _end(self, error: Exception | None) -> None:
        if self._batch is not None:
            self._batch = None
            self._ended(error)

    # The rest is the stream's, too.

    def eof_received(self) -> bool | None:
        self.clean = False
        self._end(RedisConnectionError("closed by the server"))
        return self._stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.clean = False
        self._end(RedisConnectionError(str(exc or "closed")))
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()
