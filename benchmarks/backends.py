"""A private Redis and a private MariaDB for one run, durable as production is, and our
configuration on them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.backends_mariadb import MariaDbServer
from tests.backends_redis import RedisServer, find_server
from tests.server_process import ROOT, server_environment

SHARDS = (1, 2)


@dataclass(frozen=True)
class Backends:
    """``folder``: for logs and request files."""

    redis: RedisServer
    mariadb: MariaDbServer
    folder: Path

    def environment(self, name: str, **changes: object) -> dict[str, str]:
        """Of a server of ours whose databases and keys are called ``name``; ``changes``:
        ``CHATCONFIG__WINDOW=…``."""
        shards = [{"shard_id": number, "database": f"{name}_shard_{number}"} for number in SHARDS]
        values = {
            "TEMPLATECONFIG__APPID": name,
            "CACHECONFIG__UNIX_SOCKET_PATH": self.redis.socket,
            "DATABASECONFIG__PORT": self.mariadb.port,
            "DATABASECONFIG__DATABASE": f"{name}_global",
            "DATABASECONFIG__SHARDS": json.dumps(shards),
            "NETCONFIG__LOG_LEVEL": "warn",
            "QUEUECONFIG__MAX_BACKLOG": 10_000_000,
            "LLMCONFIG__PROVIDERS__OPENAI__API_KEY": "of-the-benchmark",
            "LLMCONFIG__MAX_CONCURRENT_REQUESTS": 10_000,
            "LLMCONFIG__MAX_WAITING_REQUESTS": 10_000,
        } | changes
        return server_environment(
            self.folder / name, {f"BASE_SERVER__{key}": str(value) for key, value in values.items()}
        )

    def apply(
        self, environment: dict[str, str], python: str = sys.executable, folder: Path = ROOT
    ) -> None:
        """Create that server's databases, as the tree in ``folder`` has them."""
        command = [python, "-m", "application.manage", "--env", "DEBUG", "db", "apply"]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


@contextmanager
def running_backends(folder: Path) -> Iterator[Backends]:
    redis, mariadb = (
        RedisServer(find_server("redis")),
        MariaDbServer(memory_mb=512, max_connections=300),
    )
    try:
        redis.start()
        mariadb.start()
        yield Backends(redis, mariadb, folder)
    finally:
        mariadb.remove()
        redis.remove()
