"""A TCP proxy before Redis or MySQL that knows commands, so that a fault can be put between any two
steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self

from tests.faults.commands import Command, Splitter

Action = Literal["hold", "hold answer", "cut", "cut answer", "half close", "swallow"]
"""hold: the command waits in the proxy. hold answer: it was executed, its answer waits. cut: the
connection is cut before it. cut answer: it went through, then the connection is cut. half close: it
went through, the server's side of the connection is closed without an answer. swallow: it, and all
that follows on this connection, is dropped in silence.
"""


@dataclass(eq=False)
class Trap:
    """Springs at the ``at``-th command that ``wanted`` wants (0: never, it only counts), once."""

    action: Action
    wanted: Callable[[Command], bool]
    at: int = 1
    seen: list[str] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """The command is held, or the answer has come, or the deed is done."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: bool = False
    """What was held goes nowhere: its client is dead."""

    def disarm(self) -> None:
        """It springs no more, and what it holds goes on."""
        self.at = 0
        self.released.set()

    def springs(self, command: Command) -> bool:
        if not command.name or not self.wanted(command):
            return False
        self.seen.append(command.name)
        return len(self.seen) == self.at


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dead: bool = False
    """Swallows everything, both ways."""
    muted: bool = False
    """Swallows answers."""
    sprung: Trap | None = None
    """What happens to the next answer."""

    def close(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class FaultProxy:
    """``async with``; listens on ``port`` and passes bytes to ``target_port``, both on this
    machine.

    ``delay_s``: before each command. ``refusing``: new connections are cut at once. ``silent``:
    commands vanish, and the connections that sent them never answer again. ``mute``: commands are
    executed, and their answers vanish.
    """

    def __init__(self, target_port: int, split: Splitter) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.refusing = False
        self.silent = False
        self.mute = False
        self._target_port = target_port
        self._split = split
        self._traps: list[Trap] = []
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def trap(self, action: Action, wanted: Callable[[Command], bool], at: int = 1) -> Trap:
        trap = Trap(action, wanted, at)
        self._traps.append(trap)
        return trap

    def remove(self, trap: Trap) -> None:
        """What it holds goes on."""
        self._traps.remove(trap)
        trap.released.set()

    def drop_all(self) -> None:
        """As :meth:`remove` of every trap, for a client that was killed: what is held never gets
        anywhere."""
        for trap in list(self._traps):
            trap.dropped = True
            self.remove(trap)

    def cut_all(self) -> None:
        """Cut every connection that is open now."""
        for connection in list(self._connections):
            connection.close()

    def heal(self) -> None:
        """No faults any more. Connections that swallowed something are cut."""
        self.delay_s, self.refusing, self.silent, self.mute = 0.0, False, False, False
        for trap in list(self._traps):
            self.remove(trap)
        for connection in [
            connection for connection in self._connections if connection.dead or connection.muted
        ]:
            connection.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if self.refusing:
                writer.transport.abort()
                return
            server_reader, server_writer = await asyncio.open_connection(
                "127.0.0.1", self._target_port
            )
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, server_writer)
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._commands(reader, connection)),
            asyncio.create_task(self._answers(server_reader, connection)),
        ]
        try:
            # Whichever side closes first, the other is told at once.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            connection.close()
            self._connections.discard(connection)

    async def _commands(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        async for command in self._split(reader):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            connection.dead = connection.dead or (self.silent and bool(command.name))
            if connection.dead:
                continue
            trap = next((trap for trap in list(self._traps) if trap.springs(command)), None)
            if trap is not None and not await self._spring(trap, connection):
                return
            if not connection.dead:
                connection.server.write(command.raw)
                await _flushed(connection.server)

    async def _spring(self, trap: Trap, connection: _Connection) -> bool:
        """Before the command is sent; false: the connection ends here."""
        match trap.action:
            case "hold":
                trap.reached.set()
                await trap.released.wait()
                return not trap.dropped
            case "cut":
                trap.reached.set()
                return False
            case "swallow":
                connection.dead = True
                trap.reached.set()
            case _:
                connection.sprung = trap
        return True

    async def _answers(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        while True:
            try:
                data = await reader.read(65536)
            except ConnectionError:
                return
            if not data:
                return
            if (trap := connection.sprung) is not None:
                connection.sprung = None
                trap.reached.set()
                if trap.action == "cut answer":
                    return
                if trap.action == "half close":
                    connection.client.write_eof()
                    connection.dead = True
                else:
                    await trap.released.wait()
            connection.muted = connection.muted or self.mute
            if not connection.dead and not connection.muted:
                connection.client.write(data)
                await _flushed(connection.client)


async def _flushed(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.drain()
    except ConnectionError:
        return
