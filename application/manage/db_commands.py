"""``db``: the scripts of db_scripts in the configured databases, and freezing a shard that is
moved."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from base_server.service.core.errors import ServiceUnavailable, StartError
from base_server.service.db.databases import Databases, apply_all, read_all_status, set_frozen
from base_server.service.db.schema import ScriptState
from base_server.service.service_container import SCRIPTS_FOLDER
from base_server.template.chat.persistence.older_shards import OlderShard

from ..base_web_server.config.loading import ServerSettings
from .fixes import database_fix
from .operating import operating

T = TypeVar("T")
Run = Callable[[ServerSettings, argparse.Namespace], int]


def add_to(groups: Any) -> None:
    """Add the command group ``db`` to argparse's ``groups``."""
    commands = groups.add_parser("db", help="database scripts").add_subparsers(
        required=True, metavar="COMMAND"
    )
    apply = commands.add_parser(
        "apply", help="create missing databases, update all, register the shards"
    )
    apply.add_argument(
        "--downgrade",
        action="store_true",
        help="replace procedures of a newer version by this version's; refused without the flag",
    )
    apply.set_defaults(run=_apply)
    status = commands.add_parser(
        "status", help="list what is not applied; exit code 1 if anything is not"
    )
    status.set_defaults(run=_status)
    for name, run, text in (
        (
            "freeze",
            _freeze,
            "let nobody read or write a MySQL shard, so that it can be copied; "
            "what happens waits in Redis",
        ),
        ("unfreeze", _unfreeze, "give a frozen shard, or its copy, back to the servers"),
        (
            "acknowledge",
            _acknowledge,
            "end the alarm of a shard that came back older, once you know what it lost",
        ),
    ):
        _add_for_shard(commands, name, run, help=text)
    # The names of 0.1, without a help text: they are not listed.
    for old, new, run in (("fence", "freeze", _freeze), ("unfence", "unfreeze", _unfreeze)):
        _add_for_shard(commands, old, partial(_renamed, old, new, run))


def _add_for_shard(commands: Any, name: str, run: Run, **more: str) -> None:
    command = commands.add_parser(name, **more)
    command.add_argument(
        "--shard", type=int, required=True, metavar="ID", help="its shard_id in databaseConfig"
    )
    command.set_defaults(run=run)


def _renamed(
    old: str, new: str, run: Run, settings: ServerSettings, options: argparse.Namespace
) -> int:
    sys.stderr.write(f"db {old} is now db {new}; the old name goes with the next version\n")
    return run(settings, options)


def _run(settings: ServerSettings, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns. Raises StartError with the fix for a database that cannot be used."""
    try:
        return asyncio.run(work)
    except ServiceUnavailable as outage:
        fix = database_fix(outage.reason, settings.databaseConfig.type, settings.templateConfig.env)
        raise StartError(f"{outage}: {fix}") from outage


def _apply(settings: ServerSettings, options: argparse.Namespace) -> int:
    command = f"python -m application.manage --env {settings.templateConfig.env} db apply"
    work = apply_all(
        _databases(settings), settings.databaseConfig, command=command, downgrade=options.downgrade
    )
    for done in _run(settings, work):
        result = f"applied {len(done.names)} scripts" if done.names else "was current"
        sys.stdout.write(f"{done.label}: {result}\n")
        sys.stdout.writelines(f"  {name}\n" for name in done.names)
    return 0


def _status(settings: ServerSettings, _: argparse.Namespace) -> int:
    statuses = _run(settings, read_all_status(_databases(settings), settings.databaseConfig))
    for status in statuses:
        newer = f" ({status.newer_version})" if status.newer_version else ""
        sys.stdout.write(
            f"{status.label}: {'current' if status.is_current else 'NOT current'}{newer}\n"
        )
        sys.stdout.writelines(
            f"  {state:<8} {name}\n"
            for name, state in status.states.items()
            if state is not ScriptState.APPLIED
        )
    return 0 if all(status.is_current for status in statuses) else 1


def _freeze(settings: ServerSettings, options: argparse.Namespace) -> int:
    label = _run(
        settings,
        set_frozen(_databases(settings), settings.databaseConfig, options.shard, frozen=True),
    )
    sys.stdout.write(f"{label}: frozen, nothing reads or writes there\n")
    return 0


def _unfreeze(settings: ServerSettings, options: argparse.Namespace) -> int:
    label = _run(
        settings,
        set_frozen(_databases(settings), settings.databaseConfig, options.shard, frozen=False),
    )
    sys.stdout.write(f"{label}: open\n")
    return 0


def _acknowledge(settings: ServerSettings, options: argparse.Namespace) -> int:
    async def acknowledge() -> list[OlderShard]:
        async with operating(settings) as tools:
            return await tools.older_shards.acknowledge(options.shard)

    found = asyncio.run(acknowledge())
    sys.stdout.writelines(f"acknowledged: {each}\n" for each in found)
    if not found:
        sys.stdout.write(f"shard {options.shard}: there is nothing to acknowledge\n")
    return 0


def _databases(settings: ServerSettings) -> Databases:
    data_dir = settings.templateConfig.data_dir.absolute()
    return Databases(settings.databaseConfig, data_dir=data_dir, scripts_dir=SCRIPTS_FOLDER)
