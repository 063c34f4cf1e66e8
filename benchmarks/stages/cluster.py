"""A Redis Cluster of three beside one Redis: what a request costs the servers of Redis, and ours."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AbstractContextManager, ExitStack
from itertools import chain
from statistics import median

from benchmarks.bench import Bench, Row
from benchmarks.load import Contender
from benchmarks.population import populate
from benchmarks.processes import Child, cpu_s, running
from tests.backends_cluster import RedisCluster


def run(bench: Bench) -> None:
    with ExitStack() as stack:
        cluster = RedisCluster(masters=3, replicas=0)
        stack.callback(cluster.remove)
        cluster.start()
        nodes = json.dumps([node.address for node in cluster.masters])
        one = stack.enter_context(_server(bench, "one_redis", CACHECONFIG__PORT=bench.backends.redis.port))
        three = stack.enter_context(
            _server(bench, "cluster", CACHECONFIG__TYPE="redis_cluster", CACHECONFIG__NODES=nodes)
        )
        pids = {"one Redis": [bench.backends.redis.pid], "Redis Cluster of 3": [node.pid for node in cluster.masters]}
        for work in ("message list", "send"):
            contenders = {
                "one Redis": _contender(bench, f"{work}, one Redis", one, work),
                "Redis Cluster of 3": _contender(bench, f"{work}, Redis Cluster of 3", three, work),
            }
            redis_ms: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(bench.rounds):
                for name, contender in contenders.items():
                    before_s = sum(map(cpu_s, pids[name]))
                    measured = contender.take(bench.seconds)
                    used_s = sum(map(cpu_s, pids[name])) - before_s
                    redis_ms[name].append(used_s / (measured.per_s * bench.seconds) * 1e3)
            single, spread = (contender.result for contender in contenders.values())
            single_ms, spread_ms = (median(found) for found in redis_ms.values())
            bench.add(Row(f"{work}, one Redis by TCP", single.per_s, "req/s", single.cpu_ms))
            bench.add(
                Row(
                    f"{work}, Redis Cluster of 3: requests a second of Redis' CPU over those of one Redis",
                    spread.per_s, "req/s", spread.cpu_ms, "one Redis", single_ms / spread_ms,
                    single.cpu_ms / spread.cpu_ms, target=0.9,
                    note=f"Redis: {single_ms * 1e3:.0f} and {spread_ms * 1e3:.0f} µs of CPU a request; "
                    "below saturation each node has a third of the calls of a write",
                )
            )  # fmt: skip


def _contender(bench: Bench, name: str, server: Child, work: str) -> Contender:
    owners = asyncio.run(populate(server.url, accounts=16, rooms=4, messages=20, persona="DEMO"))
    asks = chain.from_iterable(owner.sends() if work == "send" else owner.message_lists() for owner in owners)
    return Contender(name, server, list(asks), bench.folder)


def _server(bench: Bench, name: str, **changes: object) -> AbstractContextManager[Child]:
    """A server that reaches its Redis by TCP, as one reaches a cluster; the demo answers."""
    environment = bench.backends.environment(name, LLMCONFIG__DEMO_WORD_DELAY_S=0, **changes)
    del environment["BASE_SERVER__CACHECONFIG__UNIX_SOCKET_PATH"]
    bench.backends.apply(environment)
    command = [sys.executable, "-m", "application.base_web_server", "--env", "DEBUG"]
    return running(name, command, environment, bench.folder / f"{name}.log")
