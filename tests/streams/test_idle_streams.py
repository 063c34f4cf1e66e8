"""What a stream takes while nothing happens in it. ``make bench`` has the figure of 5,000; here are
some hundreds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.backends_redis import free_port
from tests.openai_stub import OpenAIStub, Reply
from tests.server_process import ServerProcess
from tests.streams.conftest import Player, Servers, server_settings

FIRST, STREAMS = 50, 300
MOST_KIB = 40
"""Each; about 20 is usual, and so few streams make the figure coarse."""


@pytest.fixture
def servers() -> Iterator[Servers]:
    """One process, whose memory is looked at."""
    with ExitStack() as stack:
        port = free_port()
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="s-"))
        server = ServerProcess(
            Path(folder) / "data", changes=server_settings(port), workers=1, is_fresh=True
        )
        stack.callback(server.stop)
        server.start()
        yield Servers([server], port)


def rss_kib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
async def test_an_idle_stream_takes_some_kibibytes(servers: Servers, provider: OpenAIStub) -> None:
    provider.script(Reply(["one word "], hang=True))
    async with AsyncExitStack() as streams:
        http = await streams.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        player = Player(http, servers.here)
        await player.enter(servers)
        reply_id = (await anext(await streams.enter_async_context(player.stream("and?")))).data[
            "message_id"
        ]

        async def read_along(count: int) -> None:
            for _ in range(count):
                events = await streams.enter_async_context(player.resume(reply_id, None))
                assert (await anext(events)).data["text"] == "one word "

        await read_along(FIRST)  # what is made once
        before_kib = rss_kib(servers.all[0].pid)
        await read_along(STREAMS)
        assert (rss_kib(servers.all[0].pid) - before_kib) / STREAMS < MOST_KIB
