"""``python -m application.base_web_server --env LOCAL|DEBUG|PROD [--config FILE]``."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from application.base_web_server.config import ENVIRONMENTS, ServerSettings, load_settings
from application.base_web_server.config_warnings import find_warnings
from service.core.errors import StartError
from service.core.logger import Logger, configure_logging


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; the exit code (0 stopped, 1 could not start, by argparse 2 for wrong arguments)."""
    parser = argparse.ArgumentParser(prog="python -m application.base_web_server", description="The chat server.")
    parser.add_argument("--env", choices=ENVIRONMENTS, default="LOCAL", help="which configuration (default: LOCAL)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="another configuration file")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.env, options.config)
        configure_logging(settings.netConfig.log_level)
        for warning in find_warnings(settings):
            Logger.warn("doubtful configuration", warning=warning)
        _run_loop(_serve(settings))
    except StartError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - the one line for the operator
        return 1
    except asyncio.CancelledError:
        Logger.info("start was interrupted")
    return 0


async def _serve(settings: ServerSettings) -> None:
    from application.base_web_server.lifecycle import Server  # noqa: PLC0415 - after the configuration is known good

    server = Server(settings)
    stop = asyncio.Event()
    running = asyncio.current_task()

    def on_signal() -> None:
        if server.is_starting and running is not None:
            running.cancel()
        elif stop.is_set():
            server.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await server.run(stop, _announce)


def _announce(url: str) -> None:
    print(f"Ready at {url}", flush=True)  # noqa: T201 - what the user waits for
    Logger.info("server ready", url=url, pid=os.getpid())


def _run_loop(work: Coroutine[Any, Any, None]) -> None:
    """uvloop where it exists; Windows has asyncio's own loop."""
    if sys.platform == "win32":
        asyncio.run(work)
    else:
        import uvloop  # noqa: PLC0415

        uvloop.run(work)


if __name__ == "__main__":
    sys.exit(main())
