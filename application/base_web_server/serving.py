"""One server process in its event loop, and what its signals mean."""

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
"""So long after the start everything is imported, LangChain too."""


async def serve(
    settings: ServerSettings, on_ready: Callable[[str], None], worker: WorkerContext | None = None
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; a second one does not wait for what runs. During the start one is enough.

    SIGHUP is what a closed terminal sends; under ``nohup`` it stays ignored.
    A worker retires when its standard input ends: its supervisor has put another in its place, or is gone.
    Raises :class:`StartError`.
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
    """What was imported and made by now lives as long as the process: the collector need not walk through it again and
    again, a tenth of a second each time."""
    gc.collect()
    gc.freeze()


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """uvloop where it exists; Windows has asyncio's own loop."""
    if sys.platform == "win32":
        asyncio.run(work)
    else:
        import uvloop  # noqa: PLC0415

        uvloop.run(work)
