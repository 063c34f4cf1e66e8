"""What the worker processes of one server say of themselves: a folder of small files, one for each process.

Any worker answers for all: it reads the board. Nobody is asked, so a worker that hangs delays no answer; it is seen
by its silence. A worker that cannot write, on a disk that is full, is not silent: its file's time goes on.
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

POST_INTERVAL_S = 1.0
SILENT_S = 10.0
"""A worker that has posted nothing for so long counts as failed."""


@dataclass(frozen=True)
class Posting:
    """What process ``pid``, one of worker ``worker`` (1 …), said ``age_s`` ago."""

    worker: int
    pid: int
    age_s: float
    readiness: Readiness


class WorkerBoard:
    """The board of ``count`` workers in ``folder``, which exists."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._count = count
        self._takes = True

    def post(self, worker: int, readiness: Readiness) -> None:
        """Say it for this process, in place of what it said before; where the board takes nothing, that stands."""
        file = self._file(worker, os.getpid())
        content = {
            "phase": readiness.phase,
            "checks": [[check.name, check.health, check.reason] for check in readiness.checks],
        }
        draft = file.with_suffix(".new")
        try:
            draft.write_text(json.dumps(content), encoding="utf-8")
            _stamp(draft)
            draft.replace(file)
            self._takes = True
        except OSError as error:
            if self._takes:
                Logger.error(
                    "worker board takes nothing", folder=str(self._folder), reason=str(error)
                )
            self._takes = False
            with suppress(OSError):
                _stamp(file)

    def remove(self, worker: int, pid: int) -> None:
        """A process that has ended says nothing any more."""
        self._file(worker, pid).unlink(missing_ok=True)

    def postings(self) -> list[Posting]:
        """Of all processes, by worker; in a rolling restart one worker has two for a while."""
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
            found.append(Posting(int(worker), int(pid), age_s, readiness))
        return found

    def processes(self) -> dict[int, int]:
        """Of each worker that is up, the process that speaks for it."""
        speakers = (self._speaker(postings) for postings in self._by_worker())
        return {posting.worker: posting.pid for posting in speakers if posting is not None}

    def report(self, *, verbose: bool) -> tuple[bool, dict[str, Any]]:
        """Whether the server is ready, and the body of ``/readyz``.

        Ready: at least one worker is, and none has failed. A worker that is just being started again has no open
        door, so it only degrades the server.
        """
        speaking = [self._speaker(postings) for postings in self._by_worker()]
        found = [posting.readiness for posting in speaking if posting is not None]
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
            if posting is None
            else {"worker": number, "pid": posting.pid, "status": posting.readiness.status}
            for number, posting in enumerate(speaking, start=1)
        ]
        return merged.ready, body

    def _by_worker(self) -> list[list[Posting]]:
        postings = self.postings()
        return [
            [posting for posting in postings if posting.worker == n]
            for n in range(1, self._count + 1)
        ]

    @staticmethod
    def _speaker(postings: Sequence[Posting]) -> Posting | None:
        """Who speaks for a worker: the process that is ready, else one that drains, else one that starts."""
        order = (Phase.READY, Phase.DRAINING, Phase.STARTING)
        posting = min(
            postings, key=lambda posting: order.index(posting.readiness.phase), default=None
        )
        if posting is None or posting.age_s < SILENT_S:
            return posting
        silence = ReadinessCheck(
            "workers", Health.FAILED, f"worker {posting.worker} is silent for {posting.age_s:.0f} s"
        )
        return Posting(
            posting.worker,
            posting.pid,
            posting.age_s,
            Readiness(posting.readiness.phase, [silence]),
        )

    def _file(self, worker: int, pid: int) -> Path:
        return self._folder / f"{worker}-{pid}.json"


def _stamp(file: Path) -> None:
    """Its time is the machine's monotonic clock: comparable between processes, and nobody sets it."""
    os.utime(file, (time.time(), time.monotonic()))


def _merged(checks: Sequence[ReadinessCheck]) -> list[ReadinessCheck]:
    """One finding a name: the worst, with the reason of the first who found it."""
    order = (Health.OK, Health.DEGRADED, Health.FAILED)
    worst: dict[str, ReadinessCheck] = {}
    for check in checks:
        known = worst.get(check.name)
        if known is None or order.index(check.health) > order.index(known.health):
            worst[check.name] = check
    return list(worst.values())
