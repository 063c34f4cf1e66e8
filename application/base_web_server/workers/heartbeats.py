"""Heartbeats of the worker processes of one server: a folder with a small file for each process.

Any worker answers ``/readyz`` for all by reading the folder. No process is asked, so a worker that
hangs delays no response; its heartbeat gets old. A worker that cannot write its file, on a full
disk, still touches it, so it does not look hanging.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base_server.service.core.logger import Logger
from base_server.template.base.readiness import Health, ReadinessCheck

from ..observability.readiness import Phase, Readiness

HEARTBEAT_INTERVAL_S = 1.0
SILENT_S = 10.0
"""A worker whose heartbeat is older counts as failed."""


@dataclass(frozen=True)
class Heartbeat:
    """The state of process ``pid`` of worker ``worker`` (1 …), as of ``age_s`` ago."""

    worker: int
    pid: int
    age_s: float
    readiness: Readiness


class Heartbeats:
    """Of ``count`` workers, in ``folder``, which exists."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._count = count
        self._can_write = True

    def write(self, worker: int, readiness: Readiness) -> None:
        """Replace this process's heartbeat. On a full disk only its time is renewed."""
        file = self._file(worker, os.getpid())
        content = {
            "phase": readiness.phase,
            "checks": [[check.name, check.health, check.reason] for check in readiness.checks],
        }
        new_file = file.with_suffix(".new")
        try:
            new_file.write_text(json.dumps(content), encoding="utf-8")
            _stamp(new_file)
            new_file.replace(file)
            self._can_write = True
        except OSError as error:
            if self._can_write:
                Logger.error(
                    "worker board takes nothing", folder=str(self._folder), reason=str(error)
                )
            self._can_write = False
            with suppress(OSError):
                _stamp(file)

    def remove(self, worker: int, pid: int) -> None:
        """Forget a process that has ended."""
        self._file(worker, pid).unlink(missing_ok=True)

    def all(self) -> list[Heartbeat]:
        """Of all processes, by worker; in a rolling restart a worker has two for a while."""
        found = []
        for file in sorted(self._folder.glob("*.json")):
            worker, pid = file.stem.split("-")
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                age_s = time.monotonic() - file.stat().st_mtime
            except FileNotFoundError:  # removed meanwhile
                continue
            checks = [
                ReadinessCheck(name, Health(health), reason)
                for name, health, reason in content["checks"]
            ]
            readiness = Readiness(Phase(content["phase"]), checks)
            found.append(Heartbeat(int(worker), int(pid), age_s, readiness))
        return found

    def processes(self) -> dict[int, int]:
        """Worker → process id, of the workers that are up."""
        found = (self._current(heartbeats) for heartbeats in self._by_worker())
        return {heartbeat.worker: heartbeat.pid for heartbeat in found if heartbeat is not None}

    def report(self, *, verbose: bool) -> tuple[bool, dict[str, Any]]:
        """Whether the server is ready, and the body of ``/readyz``.

        Ready: at least one worker is, and none has failed. A worker that is just being started
        again listens on no socket yet, so it only degrades the server.
        """
        current = [self._current(heartbeats) for heartbeats in self._by_worker()]
        found = [heartbeat.readiness for heartbeat in current if heartbeat is not None]
        checks = [check for readiness in found for check in readiness.checks]
        missing = self._count - sum(readiness.phase is not Phase.STARTING for readiness in found)
        if missing and any(readiness.phase is Phase.READY for readiness in found):
            reason = f"{missing} of {self._count} workers are not up"
            checks.append(ReadinessCheck("workers", Health.DEGRADED, reason))
        phases = [readiness.phase for readiness in found]
        phase = next(
            (phase for phase in (Phase.READY, Phase.DRAINING) if phase in phases), Phase.STARTING
        )
        merged = Readiness(phase, _merged(checks))
        body = merged.to_json(verbose=verbose)
        body["workers"] = [
            {"worker": number, "status": "not up"}
            if heartbeat is None
            else {"worker": number, "pid": heartbeat.pid, "status": heartbeat.readiness.status}
            for number, heartbeat in enumerate(current, start=1)
        ]
        return merged.ready, body

    def _by_worker(self) -> list[list[Heartbeat]]:
        heartbeats = self.all()
        return [
            [heartbeat for heartbeat in heartbeats if heartbeat.worker == n]
            for n in range(1, self._count + 1)
        ]

    @staticmethod
    def _current(heartbeats: Sequence[Heartbeat]) -> Heartbeat | None:
        """Of a worker's processes the one that is ready, else draining, else starting."""
        order = (Phase.READY, Phase.DRAINING, Phase.STARTING)
        heartbeat = min(
            heartbeats, key=lambda heartbeat: order.index(heartbeat.readiness.phase), default=None
        )
        if heartbeat is None or heartbeat.age_s < SILENT_S:
            return heartbeat
        silence = ReadinessCheck(
            "workers",
            Health.FAILED,
            f"worker {heartbeat.worker} is silent for {heartbeat.age_s:.0f} s",
        )
        return Heartbeat(
            heartbeat.worker,
            heartbeat.pid,
            heartbeat.age_s,
            Readiness(heartbeat.readiness.phase, [silence]),
        )

    def _file(self, worker: int, pid: int) -> Path:
        return self._folder / f"{worker}-{pid}.json"


def _stamp(file: Path) -> None:
    """Set the file's time by the monotonic clock, which all processes share and nobody sets."""
    os.utime(file, (time.time(), time.monotonic()))


def _merged(checks: Sequence[ReadinessCheck]) -> list[ReadinessCheck]:
    """One finding per name: the worst, with the reason of the first that has it."""
    order = (Health.OK, Health.DEGRADED, Health.FAILED)
    worst: dict[str, ReadinessCheck] = {}
    for check in checks:
        known = worst.get(check.name)
        if known is None or order.index(check.health) > order.index(known.health):
            worst[check.name] = check
    return list(worst.values())
