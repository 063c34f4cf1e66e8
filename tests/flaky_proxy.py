"""A wire between a client and a server that a test can cut at an exact moment."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from pathlib import Path


class FlakyProxy:
    """Listens on ``socket`` (a file) and passes bytes to and from ``target``.

    ``lose_next_answer()``: the next bytes of the server are dropped and the connection is cut,
    after the server has executed what was asked; ``lose_answers(True, False, True)``: the first and
    the third. ``silent``: answers are dropped. ``doom_connections()``: those that are open now are
    cut when the next request comes, before the server sees it, as by a router that forgot them.
    ``target`` may be set again: for the connections to come, as when an address moves.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._folder = tempfile.TemporaryDirectory(prefix="p-")
        self.socket = Path(self._folder.name) / "s"
        self._losses: deque[bool] = deque()
        self._doomed: set[asyncio.StreamReader] = set()
        self._open: set[asyncio.StreamReader] = set()
        self.silent = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FlakyProxy:
        self._server = await asyncio.start_unix_server(self._serve, str(self.socket))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._folder.cleanup()

    def lose_next_answer(self, times: int = 1) -> None:
        self.lose_answers(*[True] * times)

    def lose_answers(self, *losses: bool) -> None:
        self._losses = deque(losses)

    def doom_connections(self) -> None:
        self._doomed |= self._open

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(reader)
        server_reader, server_writer = await asyncio.open_unix_connection(str(self.target))
        up = asyncio.create_task(self._requests(reader, server_writer))
        try:
            await self._answers(server_reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._open.discard(reader)
            for each in (writer, server_writer):
                each.close()
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if reader in self._doomed:
                break
            writer.write(data)
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._losses and self._losses.popleft():
                return
            if not self.silent:
                writer.write(data)
