"""``python -m application.base_web_server --env LOCAL|DEBUG|PROD``: runs the server."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from base_server.service.core.errors import StartError
from base_server.service.core.logger import Logger, configure_logging

from .config.loading import ENVIRONMENTS, load_settings
from .config.net_settings import check_app_name
from .config.warnings import find_warnings
from .serving import run_loop, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server. Exit codes: 0 stopped, 1 could not start or gave up, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m application.base_web_server", description="The chat server."
    )
    parser.add_argument(
        "--env", choices=ENVIRONMENTS, default="LOCAL", help="which configuration (default: LOCAL)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="another configuration file")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on the port (default: netConfig.workers)",
    )
    parser.add_argument(
        "--app",
        type=_app_name,
        metavar="MODULE:FUNCTION",
        help="registers a host's own templates in each process (default: netConfig.app)",
    )
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        settings = load_settings(options.env, options.config, app=options.app)
        configure_logging(settings.netConfig.log_level)
        for warning in find_warnings(settings):
            Logger.warn("doubtful configuration", warning=str(warning))
        workers = options.workers or settings.netConfig.workers
        if workers == 1:
            run_loop(serve(settings, _announce))
        else:
            from .workers.group import run_workers  # noqa: PLC0415 - needs POSIX

            asyncio.run(run_workers(settings, options.config, options.app, workers, _announce))
    except StartError as error:
        # One line on stderr, for the operator.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 1
    except asyncio.CancelledError:
        Logger.info("start was interrupted")
    return 0


def _app_name(text: str) -> str:
    try:
        return check_app_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _announce(url: str) -> None:
    print(f"Ready at {url}", flush=True)  # noqa: T201 - what the user waits for
    Logger.info("server ready", url=url, pid=os.getpid())


if __name__ == "__main__":
    sys.exit(main())
