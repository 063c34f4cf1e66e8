"""A wire on TCP that loses answers and cuts streams, as a mobile network does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

_DELTA = b"event: reply.delta"


@dataclass
class CuttingProxy:
    """The first ``lost_answers`` requests for a stream are carried out and not answered; after that
    the next ``cuts`` connections are cut behind their second delta. ``base_url`` is where clients
    go."""

    target: str
    lost_answers: int = 0
    cuts: int = 0
    streams: int = 0
    base_url: str = ""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        url = urlsplit(self.target)
        server_reader, server_writer = await asyncio.open_connection(url.hostname, url.port)
        seen = bytearray()
        up = asyncio.create_task(_pass_on(reader, server_writer, seen.extend))
        try:
            await self._answers(server_reader, writer, seen)
        except ConnectionError:
            pass
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            writer.close()
            server_writer.close()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytearray
    ) -> None:
        deltas = 0
        while data := await reader.read(65536):
            is_stream = b"/message/stream" in asked or b"/message/resume" in asked
            if is_stream and self.lost_answers:
                self.lost_answers -= 1
                return
            writer.write(data)
            await writer.drain()
            self.streams += data.startswith(b"HTTP/1.1 200") and is_stream
            deltas += data.count(_DELTA)
            if deltas >= 2 and self.cuts:
                self.cuts -= 1
                return


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[bytes], None]
) -> None:
    while data := await reader.read(65536):
        note(data)
        writer.write(data)
