"""One server process in its event loop, and its signals."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from .config.loading import ServerSettings

if TYPE_CHECKING:
    from .workers.context import WorkerContext

_STDIN = 0
_SETTLED_S = 10.0
"""After this long everything is imported, LangChain too."""


async def serve(
    settings: ServerSettings, on_ready: Callable[[str], None], worker: WorkerContext | None = None
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; a second one skips the drain. Raises
    :class:`StartError`.

    A closed terminal sends SIGHUP; under ``nohup`` it stays ignored. A worker retires when its
    standard input ends: its supervisor has started a successor, or is gone.
    """
    from .lifecycle import Server  # noqa: PLC0415 - after the configuration is known good

    server = Server(settings, worker=worker)
    stop = asyncio.Event()
    running = asyncio.current_task()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if server.is_starting and running is not None:
            running.cancel()
        elif stop.is_set():
            server.hurry()
        stop.set()

    def on_input() -> None:
        if os.read(_STDIN, 1024):
            return
        loop.remove_reader(_STDIN)
        if not stop.is_set():
            server.retire()
            on_signal()

    def ready(url: str) -> None:
        on_ready(url)
        loop.call_later(_SETTLED_S, _freeze)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, on_signal)
    if worker is not None:
        loop.add_reader(_STDIN, on_input)
    await server.run(stop, ready)


def _freeze() -> None:
    """Exclude all objects of the start from garbage collection: they live as long as the process,
    and each full collection over them blocks the event loop for 0.1 s."""
    gc.collect()
    gc.freeze()


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where it exists, on Windows on asyncio's own loop."""
    if sys.platform == "win32":
        asyncio.run(work)
    else:
        import uvloop  # noqa: PLC0415

        uvloop.run(work)
