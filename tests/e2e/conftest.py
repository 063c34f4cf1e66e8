"""The server as a process on both pairs of backends: LOCAL as shipped, DEBUG on private Redis and MariaDB."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.backends_cluster import RedisCluster, on_a_cluster
from tests.backends_mariadb import MariaDbServer
from tests.backends_redis import LOSES_NOTHING, RedisServer, find_server
from tests.server_process import ROOT, WORKERS, ServerProcess, server_environment


class Deployment:
    """A server with its backends: ``env`` is LOCAL or DEBUG."""

    def __init__(self, env: str, data_dir: Path, changes: dict[str, str], workers: int) -> None:
        self.env = env
        self.data_dir = data_dir
        self.server = ServerProcess(data_dir, env=env, changes=changes, workers=workers)

    def shard_rows(self, shard_id: int, query: str) -> list[dict[str, Any]]:
        """Rows of one shard database, read past the server."""
        raise NotImplementedError

    def global_rows(self, query: str) -> list[dict[str, Any]]:
        raise NotImplementedError

    def kill_cache(self) -> None:
        """SIGKILL of Redis or Valkey."""
        raise NotImplementedError

    def start_cache(self) -> None:
        """Start it again, where the server does not do it itself."""
        raise NotImplementedError


class Local(Deployment):
    """Valkey and SQLite, as ``make run`` has them."""

    def shard_rows(self, shard_id: int, query: str) -> list[dict[str, Any]]:
        return self._rows(f"chat_shard_{shard_id}", query)

    def global_rows(self, query: str) -> list[dict[str, Any]]:
        return self._rows("chat_global", query)

    def kill_cache(self) -> None:
        mine = str(self.data_dir / "valkey").encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mine in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)

    def start_cache(self) -> None:
        """The server's own supervisor does."""

    def _rows(self, name: str, query: str) -> list[dict[str, Any]]:
        file = self.data_dir / "db" / f"{name}.sqlite3"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]


class Debug(Deployment):
    """Redis and two MariaDB shards of this test run, by environment variables over the shipped file."""

    def __init__(self, data_dir: Path, redis: RedisServer, mariadb: MariaDbServer, name: str, workers: int) -> None:
        self.redis = redis
        self.mariadb = mariadb
        self.name = name
        changes = {
            "BASE_SERVER__TEMPLATECONFIG__APPID": name,
            # A process that died is found out in 2 s instead of 10, for the test's sake.
            "BASE_SERVER__CHATCONFIG__REPLY_LEASE_S": "2",
            "BASE_SERVER__CACHECONFIG__PORT": str(redis.port),
            "BASE_SERVER__DATABASECONFIG__PORT": str(mariadb.port),
            "BASE_SERVER__DATABASECONFIG__DATABASE": f"{name}_global",
            "BASE_SERVER__DATABASECONFIG__SHARDS": (
                f'[{{"shard_id": 1, "database": "{name}_shard_1"}}, {{"shard_id": 2, "database": "{name}_shard_2"}}]'
            ),
        }
        super().__init__("DEBUG", data_dir, changes, workers)
        environment = server_environment(data_dir, changes)
        subprocess.run(
            [sys.executable, "-m", "application.manage", "--env", "DEBUG", "db", "apply"],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )

    def shard_rows(self, shard_id: int, query: str) -> list[dict[str, Any]]:
        return self.mariadb.sql(query.replace("FROM ", f"FROM {self.name}_shard_{shard_id}."))

    def global_rows(self, query: str) -> list[dict[str, Any]]:
        return self.mariadb.sql(query.replace("FROM ", f"FROM {self.name}_global."))

    def kill_cache(self) -> None:
        self.redis.kill()

    def start_cache(self) -> None:
        self.redis.start()


@pytest.fixture(params=["LOCAL", "DEBUG"])
def deployment(request: pytest.FixtureRequest, app_id: str) -> Iterator[Deployment]:
    """Stopped; the test starts, kills and restarts it. ``DEBUG 4`` has four workers, ``CLUSTER`` a Redis Cluster."""
    env, _, workers = request.param.partition(" ")
    count = int(workers or WORKERS)
    with tempfile.TemporaryDirectory(prefix="e-") as folder, ExitStack() as stack:
        data_dir = Path(folder) / "data"
        if env == "LOCAL":
            deployed: Deployment = Local("LOCAL", data_dir, {}, count)
        elif env == "CLUSTER":
            cluster: RedisCluster = request.getfixturevalue("redis_cluster")
            deployed = Local("LOCAL", data_dir, on_a_cluster(cluster, app_id), count)
        else:
            redis = RedisServer(find_server("redis"), *LOSES_NOTHING)
            stack.callback(redis.remove)
            redis.start()
            deployed = Debug(data_dir, redis, request.getfixturevalue("mariadb_server"), app_id, count)
        yield deployed
        deployed.server.stop()
