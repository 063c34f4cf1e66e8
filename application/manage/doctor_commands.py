"""``doctor``: checks everything that the server needs, with a fix for each finding."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from ..base_web_server.config.loading import ServerSettings
from .checks import check_database, check_redis
from .finding import Finding, Level
from .machine_checks import check_descriptors, check_folder, check_ports
from .settings_checks import check_ai, check_settings

_MARKS = {Level.GOOD: "ok  ", Level.DOUBTFUL: "note", Level.BAD: "BAD "}


def add_to(groups: Any) -> None:
    """Add the command ``doctor`` to argparse's ``groups``."""
    doctor = groups.add_parser(
        "doctor",
        help="check configuration, keys, ports, disk, Redis, databases, clocks and queues",
    )
    doctor.add_argument("--json", action="store_true", help="the findings for programs")
    doctor.set_defaults(run=_doctor)


def _doctor(settings: ServerSettings, options: argparse.Namespace) -> int:
    findings = asyncio.run(_examine(settings))
    bad = sum(finding.level is Level.BAD for finding in findings)
    sys.stdout.write(_as_json(findings, bad) if options.json else _as_text(findings, bad))
    return 1 if bad else 0


async def _examine(settings: ServerSettings) -> list[Finding]:
    findings = [*check_settings(settings), *await check_ai(settings)]
    findings += [
        *await check_ports(settings.netConfig),
        *check_folder(settings),
        *check_descriptors(),
    ]
    # The databases first: an embedded Redis is started only for its own checks.
    findings += await check_database(settings)
    findings += await check_redis(settings)
    return findings


def _as_text(findings: Sequence[Finding], bad: int) -> str:
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]} {finding.what}: {finding.text}\n")
        if finding.fix:
            lines.append(f"     fix: {finding.fix}\n")
    lines.append(f"{bad} bad findings.\n" if bad else "Nothing bad was found.\n")
    return "".join(lines)


def _as_json(findings: Sequence[Finding], bad: int) -> str:
    """``{"bad": 0, "findings": [{"what", "level", "text", "mend"}]}``; ``mend`` is the fix."""
    listed = [
        {
            "what": finding.what,
            "level": finding.level.name.lower(),
            "text": finding.text,
            "mend": finding.fix,
        }
        for finding in findings
    ]
    return json.dumps({"bad": bad, "findings": listed}, indent=2, ensure_ascii=False) + "\n"
