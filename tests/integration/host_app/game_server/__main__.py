"""``python -m game_server --data-dir FOLDER [--port N] [--market-protocol N]``."""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

from aiohttp import web

from base_server.service.core.errors import StartError
from base_server.service.core.logger import configure_logging
from game_server.app import build_game


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m game_server")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--market-protocol", type=int, default=8001)
    options = parser.parse_args()
    configure_logging("info")
    try:
        app = build_game(options.data_dir, options.market_protocol)
        with socket.create_server(("127.0.0.1", options.port)) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            # aiohttp prints once everything has started.
            web.run_app(
                app,
                sock=listener,
                print=lambda _: print(f"Ready at {address}", flush=True),  # noqa: T201
            )
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
