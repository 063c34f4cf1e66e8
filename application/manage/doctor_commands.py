"""``doctor``: looks at everything that the server needs, and says for each finding what mends it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from application.base_web_server.config import ServerSettings
from application.manage.checks import Finding, Level, check_database, check_folder, check_ports, check_redis

_MARKS = {Level.GOOD: "ok  ", Level.DOUBTFUL: "note", Level.BAD: "BAD "}


def add_to(groups: Any) -> None:
    """Add the command ``doctor`` to argparse's ``groups``."""
    doctor = groups.add_parser(
        "doctor", help="ports, folder, Redis, databases, clocks, queues: what is wrong and what mends it"
    )
    doctor.set_defaults(run=_doctor)


def _doctor(settings: ServerSettings, _: argparse.Namespace) -> int:
    findings = asyncio.run(_examine(settings))
    for finding in findings:
        sys.stdout.write(f"{_MARKS[finding.level]} {finding.what}: {finding.text}\n")
        if finding.mend:
            sys.stdout.write(f"     mend: {finding.mend}\n")
    bad = sum(finding.level is Level.BAD for finding in findings)
    sys.stdout.write(f"{bad} bad findings.\n" if bad else "Nothing bad was found.\n")
    return 1 if bad else 0


async def _examine(settings: ServerSettings) -> list[Finding]:
    findings = [*await check_ports(settings.netConfig), *check_folder(settings)]
    # The databases before Redis: an embedded Redis is started only for as long as it is looked at.
    findings += await check_database(settings)
    findings += await check_redis(settings)
    return findings
