"""``make bench``: every figure of RESULTS.md in one run, beside the limits and the peers."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from base_server.service.core.logger import configure_logging
from benchmarks.backends import running_backends
from benchmarks.bench import Bench
from benchmarks.load import wrk
from benchmarks.report import save
from tests.server_process import ROOT

STAGES = ("requests", "persistence", "streams", "growth", "scale", "cluster", "memory", "start")
_PEERS = ROOT / ".venv-bench"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make bench", description="Our figures beside limits and peers, in one run."
    )
    parser.add_argument(
        "--only", action="append", choices=STAGES, help="this stage (may be given several times)"
    )
    parser.add_argument(
        "--seconds", type=int, default=1, help="of one contender in one round (default 1)"
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="of which the median counts (default 9)"
    )
    parser.add_argument(
        "--no-peers", action="store_true", help="leave out the peers, which are installed on demand"
    )
    options = parser.parse_args()
    wrk()
    configure_logging("error")
    peers = None if options.no_peers else _peers_python()
    begun_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        running_backends(Path(folder)) as backends,
    ):
        bench = Bench(backends, peers, options.seconds, options.rounds)
        for number, stage in enumerate(options.only or STAGES, start=1):
            bench.say(f"{number}/{len(options.only or STAGES)} {stage}")
            import_module(f"benchmarks.stages.{stage}").run(bench)
    bench.say(f"done in {time.monotonic() - begun_s:.0f} s")
    save(bench.rows, peers, whole=not options.only and peers is not None)


def _peers_python() -> Path:
    """The interpreter of the peers' own environment, made at the first run."""
    python = _PEERS / "bin" / "python"
    stamp = _PEERS / ".installed"
    requirements = ROOT / "benchmarks" / "peers" / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print(f"Installing the peers into {_PEERS.name}, once ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(_PEERS)], check=True)
        pip = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
        ]
        subprocess.run([*pip, "-r", str(requirements)], check=True)
        stamp.write_text(requirements.read_text())
    return python


if __name__ == "__main__":
    main()
