"""A Redis Cluster beside one Redis: what a request costs the servers of Redis, and ours.

Three nodes share the machine's cores with each other and with all the rest, and find their caches
cold; a node that has the same work for itself as the one Redis tells what the cluster itself costs.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
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
        redis = bench.backends.redis
        one = stack.enter_context(_server(bench, "one_redis", CACHECONFIG__PORT=redis.port))
        three, nodes = _on_a_cluster(bench, stack, 3)
        alone, node = _on_a_cluster(bench, stack, 1)
        for work in ("message list", "send"):
            single = _Measured(bench, f"{work}, one Redis by TCP", one, work, [redis.pid])
            spread = _Measured(
                bench, f"{work}, Redis Cluster of 3 on this machine", three, work, nodes
            )
            lonely = _Measured(bench, f"{work}, one node of a Redis Cluster", alone, work, node)
            for _ in range(bench.rounds):
                for measured in (single, spread, lonely):
                    measured.take()
            bench.add(single.row())
            bench.add(spread.row(single, target=0.9))
            bench.add(lonely.row(single))


class _Measured:
    """One work under load, with what it costs the servers of Redis."""

    def __init__(
        self, bench: Bench, name: str, server: Child, work: str, nodes: Sequence[int]
    ) -> None:
        owners = asyncio.run(
            populate(server.url, accounts=16, rooms=4, messages=20, persona="DEMO")
        )
        asks = chain.from_iterable(
            owner.sends() if work == "send" else owner.message_lists() for owner in owners
        )
        self._contender = Contender(name, server, list(asks), bench.folder)
        self._seconds = bench.seconds
        self._nodes = nodes
        self._redis_ms: list[float] = []

    def take(self) -> None:
        before_s = sum(map(cpu_s, self._nodes))
        measured = self._contender.take(self._seconds)
        used_s = sum(map(cpu_s, self._nodes)) - before_s
        self._redis_ms.append(used_s / (measured.per_s * self._seconds) * 1e3)

    @property
    def redis_ms(self) -> float:
        """Of all nodes, for a request."""
        return median(self._redis_ms)

    def row(self, single: _Measured | None = None, target: float | None = None) -> Row:
        """Beside ``single``: requests a second of Redis' CPU, over those of that one."""
        found, note = (
            self._contender.result,
            f"Redis: {self.redis_ms * 1e3:.0f} µs of CPU a request",
        )
        if single is None:
            return Row(self._contender.name, found.per_s, "req/s", found.cpu_ms, note=note)
        return Row(
            self._contender.name, found.per_s, "req/s", found.cpu_ms, "one Redis", single.redis_ms / self.redis_ms,
            single._contender.result.cpu_ms / found.cpu_ms, target=target, note=note,
        )  # fmt: skip


def _on_a_cluster(bench: Bench, stack: ExitStack, masters: int) -> tuple[Child, list[int]]:
    """A server on a cluster of its own, and the process ids of the nodes."""
    cluster = RedisCluster(masters=masters, replicas=0)
    stack.callback(cluster.remove)
    cluster.start()
    nodes = json.dumps([node.address for node in cluster.masters])
    changes = {"CACHECONFIG__TYPE": "redis_cluster", "CACHECONFIG__NODES": nodes}
    server = stack.enter_context(_server(bench, f"cluster_of_{masters}", **changes))
    return server, [node.pid for node in cluster.masters]


def _server(bench: Bench, name: str, **changes: object) -> AbstractContextManager[Child]:
    """A server that reaches its Redis by TCP, as one reaches a cluster; the demo answers."""
    environment = bench.backends.environment(name, LLMCONFIG__DEMO_WORD_DELAY_S=0, **changes)
    del environment["BASE_SERVER__CACHECONFIG__UNIX_SOCKET_PATH"]
    bench.backends.apply(environment)
    command = [sys.executable, "-m", "application.base_web_server", "--env", "DEBUG"]
    return running(name, command, environment, bench.folder / f"{name}.log")
