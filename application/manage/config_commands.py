"""``config check`` and ``config print``: the configuration as the server reads it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from base_server.template.base.template_context import TemplateContext

from ..base_web_server.config.loading import ServerSettings, config_file, describe
from ..base_web_server.config.warnings import find_warnings


def add_to(groups: Any) -> None:
    """Add the command group ``config`` to argparse's ``groups``."""
    commands = groups.add_parser("config", help="configuration").add_subparsers(
        required=True, metavar="COMMAND"
    )
    check = commands.add_parser(
        "check", help="read it as the server does, print warnings; exit code 1 if it is wrong"
    )
    check.set_defaults(run=_check)
    show = commands.add_parser("print", help="print the effective configuration, secrets hidden")
    show.set_defaults(run=_print)


def _check(settings: ServerSettings, options: argparse.Namespace) -> int:
    if settings.netConfig.workers > 1:
        from ..base_web_server.workers.group import refuse_workers  # noqa: PLC0415 - needs POSIX

        refuse_workers(settings)
    # The Server's constructor finds the other errors; `print` does without these imports.
    from ..base_web_server.lifecycle import Server  # noqa: PLC0415

    asyncio.run(Server(settings, TemplateContext()).check())
    for warning in find_warnings(settings):
        sys.stdout.write(f"warning: {warning}.\n")
    file = options.config or config_file(options.env)
    sys.stdout.write(f"The configuration of {options.env}, {file}, is good.\n")
    return 0


def _print(settings: ServerSettings, _: argparse.Namespace) -> int:
    sys.stdout.write(json.dumps(describe(settings), indent=2, ensure_ascii=False) + "\n")
    return 0
