"""The load: wrk with prepared requests, and the CPU time that it cost the servers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.processes import Child

CONNECTIONS = 32
_SCRIPT = Path(__file__).with_name("players.lua")


@dataclass(frozen=True)
class Ask:
    """One prepared request; ``token`` '' sends none."""

    path: str
    token: str
    fields: dict[str, object]

    def line(self) -> str:
        return f"{self.path}\t{self.token}\t{json.dumps(self.fields)}\n"


@dataclass(frozen=True)
class Measured:
    """Of one run: requests a second, CPU milliseconds of the server per request, latencies, and how
    many requests were answered."""

    per_s: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    requests: float


class Contender:
    """A server with the requests that it is asked. ``take`` measures it for a while; ``result`` is
    the median."""

    def __init__(self, name: str, server: Child, asks: Sequence[Ask], folder: Path) -> None:
        self.name = name
        self.runs: list[Measured] = []
        self._server = server
        self._file = folder / f"{name.replace(' ', '-').replace('/', '-')}.requests"
        self._file.write_text("".join(ask.line() for ask in asks), encoding="utf-8")

    def take(self, seconds: float, *, keep: bool = True) -> Measured:
        before_s = self._server.cpu_s()
        output = subprocess.run(
            [wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "20s", "-s", str(_SCRIPT),
             self._server.url, "--", str(self._file)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        said = json.loads(output.strip().splitlines()[-1])
        if said["refused"] or said["broken"]:
            raise SystemExit(
                f"{self.name}: {said['refused']} requests refused, {said['broken']} broken"
            )
        measured = Measured(
            per_s=said["requests"] / said["duration_us"] * 1e6,
            cpu_ms=(self._server.cpu_s() - before_s) / max(1, said["requests"]) * 1e3,
            p50_ms=said["p50_us"] / 1e3,
            p99_ms=said["p99_us"] / 1e3,
            requests=said["requests"],
        )
        if keep:
            self.runs.append(measured)
        return measured

    @property
    def result(self) -> Measured:
        """The median of each figure."""
        columns = [asdict(run) for run in self.runs]
        return Measured(**{key: median(column[key] for column in columns) for key in columns[0]})


def wrk() -> str:
    """The load generator, or the end with the way to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("wrk is not on PATH (Debian: apt-get install wrk).")
    return found
