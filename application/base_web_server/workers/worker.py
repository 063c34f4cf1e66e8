"""``python -m ….workers.worker ARGUMENTS``: a worker process, started by a supervisor only."""

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
from .arguments import READY, WorkerArguments
from .context import WorkerContext
from .heartbeats import Heartbeats


def main(argument: str) -> int:
    """Serve; the exit code (0 stopped, 1 could not start)."""
    arguments = WorkerArguments.read(argument)
    try:
        settings = load_settings(
            arguments.env, Path(arguments.config) if arguments.config else None, app=arguments.app
        )
        configure_logging(settings.netConfig.log_level)
        sockets = {
            key: [socket.socket(fileno=number) for number in arguments.sockets[key]]
            for key in arguments.sockets
        }
        heartbeats = Heartbeats(Path(arguments.heartbeats), arguments.count)
        worker = WorkerContext(arguments.number, sockets, heartbeats)

        def announce(url: str) -> None:
            print(f"{READY}{url}", flush=True)  # noqa: T201 - what the supervisor waits for
            Logger.info("worker ready", worker=arguments.number, pid=os.getpid())

        run_loop(serve(_on_shared_cache(settings, arguments.cache_socket), announce, worker))
    except StartError as error:
        # One line on stderr, for the operator.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 1
    except asyncio.CancelledError:
        Logger.info("start was interrupted", worker=arguments.number)
    return 0


def _on_shared_cache(settings: ServerSettings, cache_socket: str | None) -> ServerSettings:
    """The embedded Valkey belongs to the supervisor: it is reached, not started."""
    cache = settings.cacheConfig.model_copy(update={"unix_socket_path": cache_socket})
    return settings.model_copy(update={"cacheConfig": cache}) if cache_socket else settings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
