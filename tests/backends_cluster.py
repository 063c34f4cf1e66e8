"""A Redis Cluster for tests: masters and replicas in a temporary folder, on free ports, ended by
their pids.

Fixtures: ``redis_cluster`` (session) has three masters; ``moving_cluster`` (module) three masters
with a replica each, for tests that move slots or change settings, and take care of themselves;
``private_cluster`` is the same for one test that kills nodes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.redis_client.slots import tag_slot
from tests.backends_redis import find_server, free_port
from tests.waiting import PATIENCE_S

SLOTS = 16384


class ServerEnded(Exception):
    """It did not start."""


class ClusterNode:
    """One server of a cluster; ``client`` speaks to it alone."""

    def __init__(self, binary: str, folder: Path, number: int) -> None:
        self.folder = folder / str(number)
        self.folder.mkdir()
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._choose_ports()

    def _choose_ports(self) -> None:
        self.port, self._bus_port = free_port(), free_port()
        self.client = redis.Redis(
            port=self.port, decode_responses=True, protocol=2, socket_timeout=PATIENCE_S
        )

    def start_first(self) -> None:
        """:meth:`start`, on other ports if somebody took these meanwhile."""
        for _ in range(5):
            try:
                self.start()
            except ServerEnded:
                self.client.close()
                self._choose_ports()
            else:
                return
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def id(self) -> str:
        return str(self.client.execute_command("CLUSTER", "MYID"))

    def start(self) -> None:
        options = {
            "port": self.port,
            "cluster-port": self._bus_port,
            "cluster-enabled": "yes",
            "cluster-node-timeout": 1000,
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
            "repl-diskless-sync-delay": 0,
            "loglevel": "warning",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen([self._binary, *arguments], stdout=subprocess.DEVNULL)
        wait(self._answers, f"{self._binary} answers")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServerEnded(f"{self._binary} ended at once")
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class RedisCluster:
    """``masters`` share the slots evenly; ``replicas[n]`` follows ``masters[n]``."""

    def __init__(self, masters: int, replicas: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rc-"))
        binary = find_server("redis")
        self.nodes = [
            ClusterNode(binary, self._folder, number) for number in range(masters + replicas)
        ]
        self.masters, self.replicas = self.nodes[:masters], self.nodes[masters:]

    def settings(self, **changes: Any) -> CacheSettings:
        return CacheSettings.model_validate(
            {"type": "redis_cluster", "nodes": [node.address for node in self.masters]} | changes
        )

    def start(self) -> None:
        for node in self.nodes:
            node.start_first()
        first = self.masters[0]
        for number, node in enumerate(self.masters):
            begin, end = (
                number * SLOTS // len(self.masters),
                (number + 1) * SLOTS // len(self.masters) - 1,
            )
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", begin, end)
            # Else two masters may hold the same epoch until they notice, and a failover waits for
            # that.
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            node.client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, first._bus_port)
        wait(
            lambda: all(
                _info(node)["cluster_known_nodes"] == str(len(self.nodes)) for node in self.nodes
            ),
            "all meet",
        )
        for replica, master in zip(self.replicas, self.masters, strict=False):
            wait(
                lambda replica=replica, master=master: _knows(replica, master.id),
                "the replica knows its master",
            )
            replica.client.execute_command("CLUSTER", "REPLICATE", master.id)
        wait(
            lambda: all(_info(node)["cluster_state"] == "ok" for node in self.nodes),
            "the cluster is well",
        )
        for replica in self.replicas:
            wait(
                lambda replica=replica: (
                    replica.client.info("replication")["master_link_status"] == "up"
                ),
                "it follows",
            )

    def owner(self, tag: str) -> ClusterNode:
        """The master that serves a hash tag, as the first living node has it."""
        for begin, end, (_, port, *_), *_ in self._living().client.execute_command(
            "CLUSTER", "SLOTS"
        ):
            if begin <= tag_slot(tag) <= end:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody serves {tag}")

    def open_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Begin to move a slot; from here to :meth:`close_move` its keys may be on either side."""
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(
        self, slot: int, source: ClusterNode, target: ClusterNode, count: int = 10
    ) -> int:
        """Move up to ``count`` keys; returns how many were there."""
        keys = source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.client.execute_command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys
            )
        return len(keys)

    def close_move(self, slot: int, target: ClusterNode) -> None:
        for node in [target, *(node for node in self.masters if node is not target)]:
            node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move_slot(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """A whole move, as redis-cli does it."""
        self.open_move(slot, source, target)
        while self.move_keys(slot, source, target):
            pass
        self.close_move(slot, target)

    def remove(self) -> None:
        for node in self.nodes:
            node.client.close()
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _living(self) -> ClusterNode:
        return next(node for node in self.nodes if node._process is not None)


def on_a_cluster(cluster: RedisCluster, app_id: str) -> dict[str, str]:
    """LOCAL's configuration with the cluster instead of the embedded server."""
    return {
        "BASE_SERVER__TEMPLATECONFIG__APPID": app_id,
        "BASE_SERVER__CACHECONFIG__TYPE": "redis_cluster",
        "BASE_SERVER__CACHECONFIG__NODES": json.dumps([node.address for node in cluster.masters]),
    }


def wait(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)


def _info(node: ClusterNode) -> dict[str, str]:
    text = node.client.execute_command("CLUSTER INFO")
    return text if isinstance(text, dict) else dict(line.split(":") for line in text.split())


def _knows(node: ClusterNode, node_id: str) -> bool:
    return node_id in str(node.client.execute_command("CLUSTER NODES"))


def _running(masters: int, replicas: int) -> Iterator[RedisCluster]:
    cluster = RedisCluster(masters, replicas)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    yield from _running(3, 0)


@pytest.fixture(scope="module")
def moving_cluster() -> Iterator[RedisCluster]:
    yield from _running(3, 3)


@pytest.fixture
def private_cluster() -> Iterator[RedisCluster]:
    yield from _running(3, 3)
