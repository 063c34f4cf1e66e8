"""A stream of events as an HTTP response: pings while nothing happens, never more buffered than a socket's worth."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

from aiohttp import web

from service.core.instruments import Gauge
from template.base.event_stream import HEADERS, PING, ReaderLeft

OPEN_STREAMS = Gauge("streams_open", "Streams that somebody reads.")
PING_S = 15.0
STALLED_S = 60.0


class StreamOutlet:
    """A reader who takes nothing for ``STALLED_S`` seconds has left. ``response`` is what the handler returns."""

    def __init__(self, request: web.Request) -> None:
        self.response = web.StreamResponse(headers=HEADERS)
        self._request = request
        self._pinging: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pinging is not None:
            OPEN_STREAMS.down()
            self._pinging.cancel()

    async def open(self) -> None:
        try:
            await self.response.prepare(self._request)
        except ConnectionError:
            raise ReaderLeft from None
        OPEN_STREAMS.up()
        self._pinging = asyncio.create_task(self._ping(), name="stream pings")

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

    async def _ping(self) -> None:
        with suppress(ReaderLeft):  # whoever sends the next event sees it too
            while True:
                await asyncio.sleep(PING_S)
                await self.send(PING)
