"""``queue stats``: the backlog of every queue in Redis."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from ..base_web_server.config.loading import ServerSettings
from .operating import operating


def add_to(groups: Any) -> None:
    """Add the command group ``queue`` to argparse's ``groups``."""
    commands = groups.add_parser("queue", help="queues").add_subparsers(
        required=True, metavar="COMMAND"
    )
    stats = commands.add_parser(
        "stats", help="one line per queue: waiting entries, age of the oldest, dead letters"
    )
    stats.set_defaults(run=_stats)


def _stats(settings: ServerSettings, _: argparse.Namespace) -> int:
    stats = asyncio.run(_read(settings))
    if not stats:
        sys.stdout.write("There are no queues yet.\n")
    for name, numbers in stats.items():
        sys.stdout.write(
            f"{name}: {numbers['waiting']} waiting, the oldest for"
            f" {numbers['oldest_age_s']:.0f} s, {numbers['dead']} dead letters\n"
        )
    return 0


async def _read(settings: ServerSettings) -> dict[str, dict[str, Any]]:
    async with operating(settings) as tools:
        await tools.queue.discover()
        return await tools.queue.stats()
