"""A slow wire: passes bytes on after a random while, so that callers leave at every moment of an
exchange."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress


class DelayProxy:
    """Listens on ``port`` of 127.0.0.1 and passes everything to ``target`` (a port, or a socket
    file), in order.

    Each piece, in both directions, waits up to ``longest_s`` first.
    """

    def __init__(self, target: int | str, *, longest_s: float = 0.003, seed: int = 1) -> None:
        self._target = target
        self._longest_s = longest_s
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> DelayProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for _ in range(10):
            await asyncio.sleep(0)  # what was accepted just now gets its task
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = [writer]
        ways: list[asyncio.Task[None]] = []
        try:
            server_reader, server_writer = await self._connect()
            ends.append(server_writer)
            ways = [
                asyncio.create_task(self._pass(reader, server_writer)),
                asyncio.create_task(self._pass(server_reader, writer)),
            ]
            # Whichever side ends first ends the other.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except (asyncio.CancelledError, OSError):
            pass  # the end of the test, or of the server, which is no error of the wire
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in ends:
                end.transport.abort()
            await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await asyncio.sleep(self._random.uniform(0, self._longest_s))
                writer.write(data)
