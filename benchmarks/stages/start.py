"""The embedded default: how soon it answers, and what it takes while nobody asks."""

from __future__ import annotations

import sys
import time
from statistics import median

from benchmarks.bench import Bench, Row
from benchmarks.processes import family, rss_bytes, running
from tests.server_process import server_environment

_IDLE_S = 6.0


def run(bench: Bench) -> None:
    command = [sys.executable, "-m", "application.base_web_server", "--env", "LOCAL"]
    starts, own, whole = [], [], []
    for number in range(max(3, bench.rounds // 3)):
        data_dir = bench.folder / f"start{number}"
        with running(
            "start", command, server_environment(data_dir), bench.folder / "start.log"
        ) as server:
            starts.append(server.start_s)
            if number == 0:
                time.sleep(_IDLE_S)  # LangChain has been imported by then
                own.append(rss_bytes(server.pid) / 2**20)
                whole.append(sum(map(rss_bytes, family(server.pid))) / 2**20)
    bench.add(
        Row("start, embedded default, empty folder", median(starts), "s", target=2, bound="at most")
    )
    bench.add(Row("idle memory of the process", own[0], "MiB", target=120, bound="at most"))
    bench.add(Row("idle memory with its Valkey", whole[0], "MiB"))
