"""Server-Sent Events over HTTP: pings while idle, and back-pressure from the socket's buffer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from aiohttp import web

from base_server.service.core.instruments import Gauge
from base_server.template.base.event_stream import HEADERS, PING, ReaderLeft

OPEN_STREAMS = Gauge("streams_open", "Streams with a reader.")
PING_S = 15.0
STALLED_S = 60.0


class HttpSseResponse:
    """A reader that takes nothing for ``STALLED_S`` has left. Handlers return ``response``."""

    def __init__(self, request: web.Request) -> None:
        self.response = web.StreamResponse(headers=HEADERS)
        self._request = request
        self._timer: asyncio.TimerHandle | None = None
        self._pinging: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            OPEN_STREAMS.down()
            self._timer.cancel()
        if self._pinging is not None:
            self._pinging.cancel()

    async def open(self, on_left: Callable[[], None]) -> None:
        try:
            await self.response.prepare(self._request)
        except ConnectionError:
            raise ReaderLeft from None
        OPEN_STREAMS.up()
        self._ping_later(on_left)

    async def send(self, event: bytes) -> None:
        try:
            async with asyncio.timeout(STALLED_S):
                await self.response.write(event)
        except ConnectionError:
            raise ReaderLeft from None
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ReaderLeft from None

    def _ping_later(self, on_left: Callable[[], None]) -> None:
        # A timer instead of a sleeping task: thousands of streams only wait.
        self._timer = asyncio.get_running_loop().call_later(PING_S, self._begin_ping, on_left)

    def _begin_ping(self, on_left: Callable[[], None]) -> None:
        self._pinging = asyncio.create_task(self._ping(on_left), name="stream ping")

    async def _ping(self, on_left: Callable[[], None]) -> None:
        try:
            await self.send(PING)
        except ReaderLeft:
            on_left()
        else:
            self._ping_later(on_left)
