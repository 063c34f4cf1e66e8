"""What the stages of a benchmark share: the backends, the time they have, and the rows that they
find."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.backends import Backends
from benchmarks.load import Contender, Measured


@dataclass(frozen=True)
class Row:
    """One line of the results.

    ``against``: what ``ratio`` is measured by in the same run; ``cpu_ratio`` is the same of the
    servers' CPU time per request, which a busy machine disturbs less. ``bound`` says how ``judged``
    (the ratio, where there is one, else the figure) must lie to ``target``; a row without a target
    is a limit, a peer or for orientation.
    """

    work: str
    figure: float
    unit: str
    cpu_ms: float | None = None
    against: str = ""
    ratio: float | None = None
    cpu_ratio: float | None = None
    target: float | None = None
    bound: Literal["at least", "at most"] = "at least"
    note: str = ""

    @property
    def judged(self) -> float:
        return self.figure if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return (
            self.judged >= self.target if self.bound == "at least" else self.judged <= self.target
        )


@dataclass
class Bench:
    """One run. ``seconds`` is what one contender has in one round."""

    backends: Backends
    peers_python: Path | None
    seconds: float
    rounds: int
    rows: list[Row] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.backends.folder

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        ratio = "" if row.ratio is None else f"  {row.ratio:.2f} of {row.against}"
        ratio += "" if row.cpu_ratio is None else f" ({row.cpu_ratio:.2f} by CPU time)"
        met = (
            ""
            if row.met is None
            else f"  {'met' if row.met else 'NOT MET'} ({row.bound} {row.target:g})"
        )
        self.say(f"  {row.work}: {row.figure:,.4g} {row.unit}{ratio}{met}")

    def contest(self, contenders: Sequence[Contender]) -> dict[str, Measured]:
        """Each in turn, several times over, so that a busy moment of the machine meets all of
        them."""
        for contender in contenders:
            contender.take(min(1.0, self.seconds), keep=False)
        for number in range(1, self.rounds + 1):
            for contender in contenders:
                measured = contender.take(self.seconds)
                self.say(
                    f"  round {number}/{self.rounds}  {contender.name:36} {measured.per_s:9,.0f} req/s"
                    f"  {measured.cpu_ms:6.3f} ms CPU  p50 {measured.p50_ms:7.2f} ms  p99 {measured.p99_ms:7.2f} ms"
                )
        return {contender.name: contender.result for contender in contenders}
