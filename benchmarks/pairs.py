"""What a change costs: CPU time of a list and a send, of two trees in turns, on the same Redis and
MariaDB.

``python -m benchmarks.pairs --before FOLDER --pairs 12 --seconds 20``: FOLDER is a checkout of the
tree before, with a ``.venv`` of its own (``make install`` there). Each pair measures both trees,
one right after the other, first the one, then the other; the median of the pairs' ratios is the
result. ``--before .`` shows what the method itself moves. Of a send the time includes all that
comes after it, until its rows are in MariaDB.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median

from base_server.service.core.logger import configure_logging
from benchmarks.backends import Backends, running_backends
from benchmarks.load import Contender, wrk
from benchmarks.population import populate, quiet
from benchmarks.processes import Child, cpu_s, running
from tests.server_process import ROOT

WORKS = ("list", "send")


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU a request."""

    server: float
    redis: float
    mariadb: float

    @property
    def all(self) -> float:
        return self.server + self.redis + self.mariadb


class Side:
    """One of the two trees: its server, and what it is asked."""

    def __init__(
        self, name: str, tree: Path, backends: Backends, ai: str, stack: ExitStack
    ) -> None:
        python = str(tree / ".venv" / "bin" / "python")
        environment = backends.environment(name)
        backends.apply(environment, python, tree)
        command = [python, "-m", "benchmarks.subjects.ours", ai]
        self._backends = backends
        self.server: Child = stack.enter_context(
            running(name, command, environment, backends.folder / f"{name}.log", tree)
        )
        owners = asyncio.run(
            populate(self.server.url, accounts=16, rooms=20, messages=20, talking=slice(4))
        )
        lists = chain.from_iterable(owner.message_lists(slice(4)) for owner in owners)
        sends = chain.from_iterable(owner.sends(slice(4, 8)) for owner in owners)
        self._works = {
            "list": Contender(f"{name} list", self.server, list(lists), backends.folder),
            "send": Contender(f"{name} send", self.server, list(sends), backends.folder),
        }
        self.settle()

    def settle(self) -> None:
        asyncio.run(quiet(self.server.url))

    def take(self, work: str, seconds: float) -> Cost:
        pids = self.server.pid, self._backends.redis.pid, self._backends.mariadb.pid
        before = [cpu_s(pid) for pid in pids]
        requests = self._works[work].take(seconds).requests
        self.settle()
        return Cost(
            *(
                (cpu_s(pid) - begun) / requests * 1e6
                for pid, begun in zip(pids, before, strict=True)
            )
        )


def compare(work: str, before: Side, after: Side, pairs: int, seconds: float) -> float:
    """The median ratio of ``pairs``, after over before; prints each of them."""
    ratios, costs = [], []
    for number in range(pairs):
        order = (before, after) if number % 2 == 0 else (after, before)
        found = {side: side.take(work, seconds) for side in order}
        costs.append((found[before], found[after]))
        ratios.append(found[after].all / found[before].all)
        print(
            f"  {work} {number + 1:2}: {found[before].all:7.0f} {found[after].all:7.0f} µs  {ratios[-1]:.3f}",
            flush=True,
        )
    for part in ("server", "redis", "mariadb", "all"):
        old, new = (median(getattr(pair[side], part) for pair in costs) for side in (0, 1))
        print(f"  {work}, {part:7}: {old:7.0f} {new:7.0f} µs  {new / old:.3f}", flush=True)
    print(
        f"{work}: {median(ratios):.3f} (median of {pairs}; {min(ratios):.3f} to {max(ratios):.3f})",
        flush=True,
    )
    return median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pairs", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--before", type=Path, required=True, metavar="FOLDER", help="a checkout of the tree before"
    )
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one tree in one pair")
    parser.add_argument(
        "--only", action="append", choices=WORKS, help="this work (may be given several times)"
    )
    parser.add_argument(
        "--ai",
        choices=("stub", "langchain"),
        default="stub",
        help="what answers (subjects/ours.py)",
    )
    options = parser.parse_args()
    wrk()
    configure_logging("error")
    with (
        tempfile.TemporaryDirectory(prefix="pairs-") as folder,
        running_backends(Path(folder)) as backends,
        ExitStack() as stack,
    ):
        before = Side("before", options.before.resolve(), backends, options.ai, stack)
        after = Side("after", ROOT, backends, options.ai, stack)
        for work in options.only or WORKS:
            for side in (before, after):
                side.take(work, min(3.0, options.seconds))
            compare(work, before, after, options.pairs, options.seconds)


if __name__ == "__main__":
    main()
