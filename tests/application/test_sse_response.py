"""Streams on real sockets: readers that are slow, permanently silent, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from application.base_web_server.http import sse_response
from application.base_web_server.http.sse_response import HttpSseResponse
from base_server.template.base.event_stream import ReaderLeft
from tests.waiting import until

EVENT = b"data: " + b"x" * 64_000 + b"\n\n"
EVENTS = 400
"""25 MB: more than any buffer between the two ends."""


class Source:
    """A handler that sends events as fast as they are taken, then, if it ``goes_on``, one now and
    then for ever.

    ``sent`` counts; ``left``: it noticed that nobody reads.
    """

    def __init__(self, events: int, *, goes_on: bool = False) -> None:
        self.sent = 0
        self.left = self.ended = False
        self._events = events
        self._goes_on = goes_on

    async def handle(self, request: web.Request) -> web.StreamResponse:
        async with HttpSseResponse(request) as sse:
            try:
                await sse.open(self._leave)
                for _ in range(self._events):
                    await sse.send(EVENT)
                    self.sent += 1
                while self._goes_on:
                    await asyncio.sleep(0.2)
                    await sse.send(b"data: later\n\n")
            except ReaderLeft:
                self.left = True
            finally:
                self.ended = True
            return sse.response

    def _leave(self) -> None:
        self.left = True


@asynccontextmanager
async def reading(
    source: Source, *, cancels: bool = False
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A client that has the headers and reads when the test says so."""
    app = web.Application()
    app.router.add_post("/", source.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=cancels, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with aiohttp.ClientSession(read_bufsize=2**12) as http, http.post(url) as response:
            yield response
    finally:
        await runner.cleanup()


async def _settled(source: Source) -> int:
    """How much was sent when nothing more goes out for a while."""
    before = -1
    while before != source.sent:
        before = source.sent
        await asyncio.sleep(0.2)
    return before


async def test_a_slow_reader_is_waited_for_and_gets_everything() -> None:
    source = Source(EVENTS)
    async with reading(source) as response:
        assert await _settled(source) < EVENTS / 2, "what nobody reads piles up"
        assert await response.read() == EVENT * EVENTS
    assert not source.left


async def test_a_reader_who_takes_nothing_for_too_long_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse_response, "STALLED_S", 0.3)
    source = Source(EVENTS)
    async with reading(source):
        await until(lambda: source.left)
        assert source.sent < EVENTS / 2


@pytest.mark.parametrize(
    "cancels", [False, True], ids=["handlers run on", "handlers are cancelled"]
)
async def test_a_quiet_stream_has_pings_and_a_reader_who_goes_is_noticed(
    monkeypatch: pytest.MonkeyPatch, cancels: bool
) -> None:
    monkeypatch.setattr(sse_response, "PING_S", 0.02)
    tasks = len(asyncio.all_tasks())
    source = Source(1, goes_on=True)
    async with reading(source, cancels=cancels) as response:
        await response.content.readexactly(len(EVENT))
        said = b""
        while said.count(b": ping\n\n") < 2:
            said += await response.content.readuntil(b"\n\n")
        response.close()
        await until(lambda: source.ended)
    assert source.left is not cancels
    await until(lambda: len(asyncio.all_tasks()) == tasks)
