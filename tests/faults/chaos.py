"""``make chaos``: faults in random order on real processes, for a while; prints what was injected
and what came of it.

    python -m tests.faults.chaos [--minutes 20] [--seed N] [--players 4] [--keep FOLDER] [--only
    "redis killed"]

Every bout injects one fault while all players play, fixes it, waits until everybody has had a
success again, and then checks everything: over HTTP from both servers, in MySQL, in Redis, at the
AI provider. After a few bouts new players with new accounts take over; at the very end all of them
are checked once more. The seed decides the order of faults and what players do; the clock decides
the rest, so a seed repeats the plan, not the run. When a promise was broken, histories, logs and
the append-only file are kept in a folder that is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from base_server.service.db.databases import apply_all
from tests.backends_mariadb import DatabaseBackend, MariaDbServer, mariadb_settings
from tests.faults.checker import check_everything
from tests.faults.embedded_harness import EMBEDDED_FAULTS, embedded_harness, run_embedded_fault
from tests.faults.harness import ServerHarness
from tests.faults.losses import SHARED_FAULTS, run_fault
from tests.faults.shared_harness import shared_harness
from tests.load_clients import Findings, Player

_BOUTS_A_CAST = 5
_SHARE = 0.8
"""Of the time, for the two servers on Redis and MariaDB; the rest for the embedded default."""
_PREFIX = "embedded: "
SHARED = list(SHARED_FAULTS)
EMBEDDED = [_PREFIX + name for name in EMBEDDED_FAULTS]


@dataclass
class Tally:
    """What a run came to."""

    injected: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=dict)
    """Seconds to recovery, the longest of each fault."""
    acknowledged: int = 0
    questions: int = 0
    """That the provider was asked."""
    excused: int = 0
    """Not asked, because their server was killed between the mark and the request."""

    def table(self) -> str:
        """For people, and for docs/evidence.md."""
        longest = max(self.longest.values(), default=0.0)
        rows = [
            ("faults injected", f"{sum(self.injected.values())} of {len(self.injected)} kinds"),
            ("writes acknowledged", f"{self.acknowledged:,}"),
            ("questions asked", f"{self.questions:,}"),
            ("cut between mark and request by a kill", str(self.excused)),
            *((kind, str(self.broken[kind])) for kind in Findings.KINDS),
            ("longest recovery", f"{longest:.1f} s"),
        ]
        faults = [(name, f"{times} × | longest recovery {self.longest[name]:.1f} s") for name, times in
                  sorted(self.injected.items())]  # fmt: skip
        return "\n".join(f"| {name} | {value} |" for name, value in [*rows, *faults])


@dataclass
class Run:
    """Bouts in one harness. ``inject`` puts a fault of ``faults`` into it and returns the seconds
    to recovery."""

    harness: ServerHarness
    faults: list[str]
    inject: Callable[[str, list[Player], random.Random], Awaitable[float]]
    chance: random.Random
    tally: Tally
    everybody: list[Player] = field(default_factory=list)

    async def until(self, end_s: float, load_clients: int) -> None:
        """Bout after bout until the monotonic clock says ``end_s`` or a promise is broken."""
        cast: list[Player] = []
        plan: list[str] = []
        bout = 0
        while time.monotonic() < end_s and not self.harness.findings.details:
            if bout % _BOUTS_A_CAST == 0:
                cast = await self._new_cast(load_clients)
            # Every fault once, in an order of chance, before any comes again.
            plan = plan or self.chance.sample(self.faults, len(self.faults))
            bout += 1
            await self._bout(bout, plan.pop(), cast)
        for first in range(0, len(self.everybody), load_clients):
            if not self.harness.findings.details:
                await check_everything(self.harness, self.everybody[first : first + load_clients])
        self.tally.broken.update(self.harness.findings.counts)
        self.tally.questions += len(self.harness.provider.asked)
        self.tally.excused += len(self.harness.excused)

    async def _new_cast(self, load_clients: int) -> list[Player]:
        first = len(self.everybody)
        cast = [
            self.harness.player(self.chance.getrandbits(32), number=first + n)
            for n in range(load_clients)
        ]
        await asyncio.gather(*(player.sign_in() for player in cast))
        self.everybody += cast
        return cast

    async def _bout(self, bout: int, name: str, cast: list[Player]) -> None:
        before = sum(player.acknowledged for player in cast)
        with self.harness.provider.speaking(self.chance):
            recovered_s = await self.inject(name, cast, self.chance)
        tally = self.tally
        tally.injected[name] += 1
        tally.longest[name] = max(tally.longest.get(name, 0.0), recovered_s)
        await check_everything(self.harness, cast)
        self.everybody += self.harness.guests
        self.harness.guests.clear()
        acknowledged = sum(player.acknowledged for player in cast) - before
        tally.acknowledged += acknowledged
        _say(
            f"{bout:4} {name:34} {acknowledged:5} writes, all well again after {recovered_s:4.1f} s"
        )


async def chaos(arguments: argparse.Namespace) -> int:
    """The exit code: 1 when a promise was broken."""
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 1_000_000
    _say(f"chaos: seed {seed}, {arguments.minutes:g} minutes, {arguments.players} players")
    tally = Tally()
    whole_s = arguments.minutes * 60
    only = arguments.only or [*SHARED, *EMBEDDED]
    failed = False
    for opened, faults, share in ((_shared, SHARED, _SHARE), (_embedded, EMBEDDED, 1 - _SHARE)):
        chosen = [name for name in faults if name in only]
        if not chosen or failed:
            continue
        folder = Path(tempfile.mkdtemp(prefix="c-"))
        try:
            async with opened(folder) as (harness, inject):
                run = Run(harness, chosen, inject, random.Random(seed), tally)
                end_s = time.monotonic() + whole_s * (share if len(only) > len(chosen) else 1)
                failed = True
                try:
                    await run.until(end_s, arguments.players)
                    failed = bool(harness.findings.details)
                finally:
                    if failed:
                        _keep(arguments.keep or Path("chaos-failed") / str(seed), seed, run, folder)
        except pytest.skip.Exception as missing:
            _say(f"left out: {missing}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    _say(tally.table())
    return int(failed)


Opened = tuple[ServerHarness, Callable[[str, list[Player], random.Random], Awaitable[float]]]


@asynccontextmanager
async def _shared(folder: Path) -> AsyncIterator[Opened]:
    with _mariadb() as server:
        backend = DatabaseBackend("mariadb", mariadb_settings(server), folder, server)
        await apply_all(backend.databases(), backend.settings)
        async with shared_harness(backend, folder, "chaos") as harness:
            yield (
                harness,
                lambda name, load_clients, chance: run_fault(name, harness, load_clients, chance),
            )


@asynccontextmanager
async def _embedded(folder: Path) -> AsyncIterator[Opened]:
    async with embedded_harness(folder) as harness:
        yield (
            harness,
            lambda name, load_clients, chance: run_embedded_fault(
                name.removeprefix(_PREFIX), harness, load_clients, chance
            ),
        )


@contextmanager
def _mariadb() -> Iterator[MariaDbServer]:
    server = MariaDbServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _keep(kept: Path, seed: int, run: Run, folder: Path) -> None:
    """All that helps to find out what happened."""
    harness = run.harness
    kept.mkdir(parents=True, exist_ok=True)
    findings = "\n".join([f"seed {seed}", *harness.findings.details])
    (kept / "findings.txt").write_text(findings, encoding="utf-8")
    _say(findings[:4000])
    for player in run.everybody:
        (kept / f"{player.name}.history").write_text("\n".join(player.history), encoding="utf-8")
    for log in folder.glob("*.log"):
        shutil.copy(log, kept)
    _say(f"kept: {kept}")
    shutil.copytree(harness.append_only_folder, kept / "appendonlydir", dirs_exist_ok=True)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command


def main() -> int:
    parser = argparse.ArgumentParser(description="Faults in random order on real processes.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--players", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="where to keep everything of a failed run")
    parser.add_argument(
        "--only", action="append", choices=[*SHARED, *EMBEDDED], help="this fault (repeatable)"
    )
    # The provider's and the proxies' own view of connections that are cut on purpose.
    for name in ("asyncio", "aiohttp.server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return asyncio.run(chaos(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
