"""The server as a process on both pairs of backends: LOCAL as shipped, DEBUG on private Redis and
MariaDB."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

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

    @property
    def socket(self) -> Path:
        """Where Redis or Valkey listens."""
        raise NotImplementedError

    def shard_rows(self, shard_id: int, query: str) -> list[dict[str, Any]]:
        """Rows of one shard database, read past the server."""
        raise NotImplementedError

    def global_rows(self, query: str) -> list[dict[str, Any]]:
        raise NotImplementedError

    def change_global(self, statement: str) -> None:
        """Run one statement on the global database, past the server; it names its table after FROM
        or INTO."""
        raise NotImplementedError

    def dump_global(self) -> None:
        """Keep a copy of the global database as it is now."""
        raise NotImplementedError

    def restore_global(self) -> None:
        """Put the copy back, while the server may run or stand still."""
        raise NotImplementedError

    def ask_cache(self, *command: Any) -> Any:
        """One command to Redis or Valkey, past the server."""
        raise NotImplementedError

    def kill_cache(self) -> None:
        """SIGKILL of Redis or Valkey."""
        raise NotImplementedError

    def start_cache(self) -> None:
        """Start it again, where the server does not do it itself."""
        raise NotImplementedError


class Local(Deployment):
    """Valkey and SQLite, as ``make run`` has them."""

    @property
    def socket(self) -> Path:
        return self.data_dir / "valkey" / "valkey.sock"

    def shard_rows(self, shard_id: int, query: str) -> list[dict[str, Any]]:
        return self._rows(f"chat_shard_{shard_id}", query)

    def global_rows(self, query: str) -> list[dict[str, Any]]:
        return self._rows("chat_global", query)

    def change_global(self, statement: str) -> None:
        with closing(self._open_global()) as connection, connection:
            connection.execute(statement)

    def dump_global(self) -> None:
        with closing(self._open_global()) as live, closing(sqlite3.connect(self._dump)) as copy:
            live.backup(copy)

    def restore_global(self) -> None:
        with closing(self._open_global()) as live, closing(sqlite3.connect(self._dump)) as copy:
            copy.backup(live)

    def ask_cache(self, *command: Any) -> Any:
        with redis.Redis(unix_socket_path=str(self.data_dir / "valkey" / "valkey.sock")) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    @property
    def _dump(self) -> Path:
        return self.data_dir / "dump.sqlite3"

    def _open_global(self) -> sqlite3.Connection:
        return sqlite3.connect(self.data_dir / "db" / "chat_global.sqlite3", timeout=20)

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
    """Redis and two MariaDB shards of this test run, by environment variables over the shipped
    file."""

    def __init__(
        self,
        data_dir: Path,
        redis: RedisServer,
        mariadb: MariaDbServer,
        name: str,
        configuration: Mapping[str, str],
        workers: int,
    ) -> None:
        self.redis = redis
        self.mariadb = mariadb
        self.name = name
        changes = {
            **configuration,
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

    @property
    def socket(self) -> Path:
        return self.redis.socket

    def global_rows(self, query: str) -> list[dict[str, Any]]:
        return self.mariadb.sql(query.replace("FROM ", f"FROM {self.name}_global."))

    def change_global(self, statement: str) -> None:
        for word in ("FROM ", "INTO "):
            statement = statement.replace(word, f"{word}{self.name}_global.")
        self.mariadb.sql(statement)

    def dump_global(self) -> None:
        self.mariadb.sql(
            f"CREATE DATABASE {self.name}_dump CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )
        self._copy_tables(f"{self.name}_global", f"{self.name}_dump")

    def restore_global(self) -> None:
        self._copy_tables(f"{self.name}_dump", f"{self.name}_global")

    def _copy_tables(self, source: str, target: str) -> None:
        """As ``mariadb-dump`` piped into ``mariadb`` does it."""
        tables = "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = "
        for table in [row["name"] for row in self.mariadb.sql(f"{tables}'{source}'")]:
            self.mariadb.sql(f"DROP TABLE IF EXISTS {target}.{table}")
            self.mariadb.sql(f"CREATE TABLE {target}.{table} LIKE {source}.{table}")
            self.mariadb.sql(f"INSERT INTO {target}.{table} SELECT * FROM {source}.{table}")

    def ask_cache(self, *command: Any) -> Any:
        with redis.Redis(port=self.redis.port) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def kill_cache(self) -> None:
        self.redis.kill()

    def start_cache(self) -> None:
        self.redis.start()


@pytest.fixture
def configuration() -> dict[str, str]:
    """What a module wants otherwise for its ``deployment``, as environment variables."""
    return {}


@pytest.fixture(params=["LOCAL", "DEBUG"])
def deployment(
    request: pytest.FixtureRequest, app_id: str, configuration: dict[str, str]
) -> Iterator[Deployment]:
    """Stopped; the test starts, kills and restarts it. ``DEBUG 4`` has four workers, ``CLUSTER`` a
    Redis Cluster."""
    env, _, workers = request.param.partition(" ")
    count = int(workers or WORKERS)
    with tempfile.TemporaryDirectory(prefix="e-") as folder, ExitStack() as stack:
        data_dir = Path(folder) / "data"
        if env == "LOCAL":
            deployed: Deployment = Local("LOCAL", data_dir, configuration, count)
        elif env == "CLUSTER":
            cluster: RedisCluster = request.getfixturevalue("redis_cluster")
            deployed = Local(
                "LOCAL", data_dir, configuration | on_a_cluster(cluster, app_id), count
            )
        else:
            redis = RedisServer(find_server("redis"), *LOSES_NOTHING)
            stack.callback(redis.remove)
            redis.start()
            deployed = Debug(
                data_dir,
                redis,
                request.getfixturevalue("mariadb_server"),
                app_id,
                configuration,
                count,
            )
        yield deployed
        deployed.server.stop()
