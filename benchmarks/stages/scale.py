"""Two processes beside one: what a request costs must not rise with their number."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from itertools import chain

from benchmarks.bench import Bench, Row
from benchmarks.load import Contender
from benchmarks.ours import shipped_server
from benchmarks.population import populate
from benchmarks.processes import cpu_s


def run(bench: Bench) -> None:
    with ExitStack() as stack:
        contenders = []
        for workers in (1, 2):
            server = stack.enter_context(
                shipped_server(bench, f"workers{workers}", "--workers", str(workers))
            )
            owners = asyncio.run(
                populate(server.url, accounts=16, rooms=4, messages=20, persona="DEMO")
            )
            lists = chain.from_iterable(owner.message_lists() for owner in owners)
            contenders.append(
                Contender(f"message list, {workers} process(es)", server, list(lists), bench.folder)
            )
        before_s = cpu_s(bench.backends.redis.pid)
        found = bench.contest(contenders)
        redis_s = cpu_s(bench.backends.redis.pid) - before_s
    one, two = (found[contender.name] for contender in contenders)
    bench.add(Row("message list, 1 process", one.per_s, "req/s", one.cpu_ms))
    bench.add(
        Row(
            "message list, 2 processes: CPU a request over that of 1", two.per_s, "req/s", two.cpu_ms, "1 process",
            two.cpu_ms / one.cpu_ms, target=1.1, bound="at most", note=f"Redis took {redis_s:.1f} s of CPU in all",
        )
    )  # fmt: skip
