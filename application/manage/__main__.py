"""``python -m application.manage [--env ENV] [--config FILE] COMMAND``: the operator's commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from base_server.service.core.errors import ServiceError, StartError
from base_server.service.core.logger import configure_logging

from ..base_web_server.config.environment import PREFIX
from ..base_web_server.config.loading import ENVIRONMENTS, config_file, load_settings
from . import config_commands, db_commands, dlq_commands, doctor_commands, queue_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 good, 1 not good or failed, 2 wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings(options.env, options.config)
        sys.stderr.write(
            f"Environment {options.env}: {_sources(options.config or config_file(options.env))}.\n"
        )
        code: int = options.run(settings, options)
    except (StartError, ServiceError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    return code


def _sources(file: Path) -> str:
    """Where the configuration comes from, printed first for the operator who forgot ``--env``."""
    sources = [str(file)]
    if os.environ.get("OPENAI_API_KEY"):
        sources.append("OPENAI_API_KEY")
    if count := sum(name.upper().startswith(PREFIX) for name in os.environ):
        sources.append(f"{count} {PREFIX} variable{'s' if count > 1 else ''}")
    return " and ".join(filter(None, (", ".join(sources[:-1]), sources[-1])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m application.manage", description="Commands for operators."
    )
    parser.add_argument(
        "--env", choices=ENVIRONMENTS, default="LOCAL", help="which configuration (default: LOCAL)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="another configuration file")
    groups = parser.add_subparsers(required=True, metavar="COMMAND")
    for commands in (db_commands, config_commands, queue_commands, dlq_commands, doctor_commands):
        commands.add_to(groups)
    return parser


if __name__ == "__main__":
    configure_logging("error")
    sys.exit(main())
