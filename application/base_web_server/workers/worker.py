"""``python -m application.base_web_server.workers.worker ORDER``: started by a supervisor only."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from base_server.service.core.errors import StartError
from base_server.service.core.logger import Logger, configure_logging

from ..config.loading import ServerSettings, load_settings
from ..serving import run_loop, serve
from .arguments import READY, WorkerOrder
from .context import WorkerSeat
from .heartbeats import WorkerBoard


def main(argument: str) -> int:
    """Serve as ordered; the exit code (0 stopped, 1 could not start)."""
    order = WorkerOrder.read(argument)
    try:
        settings = load_settings(
            order.env, Path(order.config) if order.config else None, app=order.app
        )
        configure_logging(settings.netConfig.log_level)
        sockets = {
            key: [socket.socket(fileno=number) for number in order.sockets[key]]
            for key in order.sockets
        }
        seat = WorkerSeat(order.number, sockets, WorkerBoard(Path(order.board), order.count))

        def announce(url: str) -> None:
            print(f"{READY}{url}", flush=True)  # noqa: T201 - what the supervisor waits for
            Logger.info("worker ready", worker=order.number, pid=os.getpid())

        run_loop(serve(_on_shared_cache(settings, order.cache_socket), announce, seat))
    except StartError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - the one line for the operator
        return 1
    except asyncio.CancelledError:
        Logger.info("start was interrupted", worker=order.number)
    return 0


def _on_shared_cache(settings: ServerSettings, cache_socket: str | None) -> ServerSettings:
    """The embedded Valkey belongs to the supervisor: it is reached, not started."""
    cache = settings.cacheConfig.model_copy(update={"unix_socket_path": cache_socket})
    return settings.model_copy(update={"cacheConfig": cache}) if cache_socket else settings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
