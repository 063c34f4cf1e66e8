"""``make chaos``: faults in random order on real processes, for a while; prints what was injected and what came of it.

    python -m tests.faults.chaos [--minutes 20] [--seed N] [--players 4] [--keep FOLDER] [--only "redis killed"]

Every bout injects one fault while all players play, mends it, waits until everybody has had a success again, and then
checks everything: over HTTP from both servers, in MySQL, in Redis, at the AI provider. After a few bouts new players
with new accounts take over; at the very end all of them are checked once more. The seed decides the order of faults
and what players do; the clock decides the rest, so a seed repeats the plan, not the run. When a promise was broken,
histories, logs and the append-only file are kept in a folder that is named, and the exit code is 1.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.db.databases import apply_all
from tests.backends_mariadb import DatabaseBackend, MariaDbServer, mariadb_settings
from tests.faults.checker import check_everything
from tests.faults.faults import BETWEEN_GAMES, FAULTS, run_fault
from tests.faults.world import FaultWorld, fault_world
from tests.players import Findings, Player

_BOUTS_A_CAST = 5


@dataclass
class Tally:
    """What a run came to."""

    injected: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=dict)
    """Seconds to recovery, the longest of each fault."""
    acknowledged: int = 0

    def table(self) -> str:
        """For people, and for docs/guarantees.md."""
        longest = max(self.longest.values(), default=0.0)
        rows = [
            ("faults injected", f"{sum(self.injected.values())} of {len(self.injected)} kinds"),
            ("writes acknowledged", f"{self.acknowledged:,}"),
            *((kind, str(self.broken[kind])) for kind in Findings.KINDS),
            ("longest recovery", f"{longest:.1f} s"),
        ]
        faults = [(name, f"{times} × | longest recovery {self.longest[name]:.1f} s") for name, times in
                  sorted(self.injected.items())]  # fmt: skip
        return "\n".join(f"| {name} | {value} |" for name, value in [*rows, *faults])


async def run(
    world: FaultWorld, *, seed: int, until_s: float, players: int, faults: list[str], tally: Tally
) -> list[Player]:
    """Bouts until the monotonic clock says ``until_s`` or a promise is broken; returns all players."""
    chance = random.Random(seed)
    everybody: list[Player] = []
    cast: list[Player] = []
    plan: list[str] = []
    bout = 0
    while time.monotonic() < until_s and not world.findings.details:
        if bout % _BOUTS_A_CAST == 0:
            cast = [world.player(chance.getrandbits(32), number=len(everybody) + n) for n in range(players)]
            await asyncio.gather(*(player.sign_in() for player in cast))
            everybody += cast
        if not plan:
            # Every fault once, in an order of chance, before any comes again.
            plan = chance.sample(faults, len(faults))
        bout += 1
        name = plan.pop()
        before = sum(player.acknowledged for player in cast)
        recovered_s = await run_fault(name, world, cast, chance)
        tally.injected[name] += 1
        tally.longest[name] = max(tally.longest.get(name, 0.0), recovered_s)
        await check_everything(world, cast)
        acknowledged = sum(player.acknowledged for player in cast) - before
        tally.acknowledged += acknowledged
        _say(f"{bout:4} {name:32} {acknowledged:5} writes, all well again after {recovered_s:4.1f} s")
    if not world.findings.details:
        await check_everything(world, everybody)
    tally.broken.update(world.findings.counts)
    return everybody


async def chaos(arguments: argparse.Namespace) -> int:
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 1_000_000
    faults = arguments.only or [*FAULTS, *BETWEEN_GAMES]
    _say(
        f"chaos: seed {seed}, {arguments.minutes:g} minutes, {arguments.players} players, {len(faults)} kinds of faults"
    )
    tally = Tally()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    failed = True
    everybody: list[Player] = []
    try:
        with _mariadb() as server:
            backend = DatabaseBackend("mariadb", mariadb_settings(server), folder, server)
            await apply_all(backend.databases(), backend.settings)
            async with fault_world(backend, folder, "chaos") as world:
                until_s = time.monotonic() + arguments.minutes * 60
                try:
                    everybody = await run(
                        world, seed=seed, until_s=until_s, players=arguments.players, faults=faults, tally=tally
                    )
                    failed = bool(world.findings.details)
                finally:
                    if failed:
                        kept = arguments.keep or Path("chaos-failed") / str(seed)
                        _keep(kept, seed, world, everybody, folder)
                        _say(f"kept: {kept}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _say(tally.table())
    return int(failed)


@contextmanager
def _mariadb() -> Iterator[MariaDbServer]:
    server = MariaDbServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _keep(kept: Path, seed: int, world: FaultWorld, players: list[Player], folder: Path) -> None:
    """All that helps to find out what happened."""
    kept.mkdir(parents=True, exist_ok=True)
    findings = "\n".join([f"seed {seed}", *world.findings.details])
    (kept / "findings.txt").write_text(findings, encoding="utf-8")
    _say(findings[:4000])
    for player in players:
        (kept / f"{player.name}.history").write_text("\n".join(player.history), encoding="utf-8")
    for log in folder.glob("*.log"):
        shutil.copy(log, kept)
    shutil.copytree(world.redis.folder / "appendonlydir", kept / "appendonlydir", dirs_exist_ok=True)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command


def main() -> int:
    parser = argparse.ArgumentParser(description="Faults in random order on real processes.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--players", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="where to keep everything of a failed run")
    parser.add_argument("--only", action="append", choices=[*FAULTS, *BETWEEN_GAMES], help="this fault (repeatable)")
    # The provider's and the proxies' own view of connections that are cut on purpose.
    for name in ("asyncio", "aiohttp.server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return asyncio.run(chaos(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
