"""Two real servers on one private Redis and one private MariaDB, each reached through proxies that
can break."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pymysql

from base_server.service.db.db_settings import DatabaseSettings
from tests.backends_mariadb import DatabaseBackend, MariaDbServer
from tests.backends_redis import LOSES_NOTHING, RedisServer, find_server
from tests.faults.commands import mysql_commands, redis_commands
from tests.faults.fault_proxy import FaultProxy
from tests.faults.harness import FaultServer, ServerHarness
from tests.faults.provider import CountingProvider
from tests.server_process import ROOT, ServerProcess, run_to_its_end
from tests.waiting import PATIENCE_S

DB_USER = "chat"
"""Unlike root it may not write while the server is read-only."""
CACHE_TIMEOUT_S = 2


@dataclass
class SharedHarness(ServerHarness):
    """``redis`` and ``mariadb`` may be killed and started again at will."""

    redis: RedisServer
    mariadb: MariaDbServer
    settings: DatabaseSettings

    @property
    def socket(self) -> Path:
        return self.redis.socket

    @property
    def append_only_folder(self) -> Path:
        return self.redis.folder / "appendonlydir"

    @property
    def proxies(self) -> list[FaultProxy]:
        return [proxy for server in self.servers for proxy in server.proxies]

    def shard_rows(self, shard_id: int, query: str) -> list[dict[str, Any]]:
        shard = self.settings.shard(shard_id)
        assert shard is not None
        return self.mariadb.sql(query.replace("FROM ", f"FROM {shard.database}."))

    def global_rows(self, query: str) -> list[dict[str, Any]]:
        return self.mariadb.sql(query.replace("FROM ", f"FROM {self.settings.database}."))

    def pause_redis(self) -> None:
        os.kill(self.redis.pid, signal.SIGSTOP)

    def resume_redis(self) -> None:
        os.kill(self.redis.pid, signal.SIGCONT)

    async def replace_redis(self, files: dict[str, bytes] | None = None) -> None:
        """Kill Redis and start it on an empty append-only file, or on that of
        :meth:`redis_files`."""
        self.redis.kill()
        for file in self.append_only_folder.glob("*"):
            file.unlink()
        for name, content in (files or {}).items():
            (self.append_only_folder / name).write_bytes(content)
        await asyncio.to_thread(self.redis.start)

    def redis_files(self) -> dict[str, bytes]:
        """What is on the disk now."""
        return {file.name: file.read_bytes() for file in self.append_only_folder.glob("*")}

    def copy_database(self, name: str) -> Callable[[], None]:
        """Copy a database's rows; what is returned puts them back under running servers, as the
        promotion of a replica that is late does."""
        copy, run = f"{name}_copy", self.mariadb.sql
        run(f"CREATE DATABASE {copy}")
        query = f"SELECT TABLE_NAME AS name FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{name}'"
        tables = [row["name"] for row in run(query)]
        for table in tables:
            run(f"CREATE TABLE {copy}.{table} LIKE {name}.{table}")
            run(f"INSERT INTO {copy}.{table} SELECT * FROM {name}.{table}")

        def restore() -> None:
            run(f"CREATE DATABASE {name}_newer")
            moves = [
                f"{name}.{table} TO {name}_newer.{table}, {copy}.{table} TO {name}.{table}"
                for table in tables
            ]
            run(f"RENAME TABLE {', '.join(moves)}")
            run(f"DROP DATABASE {name}_newer")
            run(f"DROP DATABASE {copy}")

        return restore

    async def host_calls(self, *calls: list[Any]) -> list[Any]:
        """What documented calls return in a process of their own (``tests/faults/host.py``)."""
        arguments = ["tests.faults.host", json.dumps(calls)]
        ended = await asyncio.to_thread(
            run_to_its_end, arguments, self.servers[0].process.environment
        )
        assert ended.returncode == 0, ended.stderr[-2000:]
        returned: list[Any] = json.loads(ended.stdout.splitlines()[-1])
        return returned

    @contextmanager
    def refusing(self, condition: str) -> Iterator[None]:
        """Every shard refuses the messages for which this condition on NEW holds, as a trigger of
        somebody's does."""
        for shard in self.settings.shards:
            self.mariadb.sql(
                f"CREATE TRIGGER {shard.database}.refuse BEFORE INSERT ON {shard.database}.chat_messages"
                f" FOR EACH ROW IF {condition} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this'; END IF"
            )
        try:
            yield
        finally:
            for shard in self.settings.shards:
                self.mariadb.sql(f"DROP TRIGGER {shard.database}.refuse")

    def heal_proxies(self) -> None:
        for proxy in self.proxies:
            proxy.heal()


@asynccontextmanager
async def shared_harness(
    backend: DatabaseBackend,
    folder: Path,
    app_id: str,
    *,
    servers: int = 2,
    sources: Sequence[Path] = (),
    redis_server: RedisServer | None = None,
    **changes: object,
) -> AsyncIterator[SharedHarness]:
    """``backend``: a private MariaDB, scripts applied. ``redis_server``: one that is not started,
    removed at the end. ``sources``: instead of ``servers``, one server of each of these versions,
    not started. ``changes``: further configuration, ``CHATCONFIG__WINDOW=…``."""
    assert backend.server is not None
    create_user(backend)
    async with AsyncExitStack() as stack:
        redis_server = redis_server or RedisServer(find_server("redis"), *LOSES_NOTHING)
        stack.callback(redis_server.remove)
        await asyncio.to_thread(redis_server.start)
        provider = await stack.enter_async_context(CountingProvider())
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        started = []
        proxies: list[FaultProxy] = []
        for n, source in enumerate(sources or [ROOT] * servers):
            # Versions share them: `db apply` of each registers the shards' addresses.
            if not (sources and proxies):
                proxies = [FaultProxy(redis_server.port, redis_commands)]
                proxies += [FaultProxy(backend.server.port, mysql_commands) for _ in range(2)]
                for proxy in proxies:
                    await stack.enter_async_context(proxy)
            values = _configuration(backend.settings, app_id, proxies, provider) | changes
            environment = {f"BASE_SERVER__{name}": str(value) for name, value in values.items()}
            process = ServerProcess(
                folder / f"server{n}", env="DEBUG", changes=environment, source=source
            )
            started.append(FaultServer(process, proxies))
        harness = SharedHarness(
            provider, started, http, redis_server, backend.server, backend.settings
        )
        try:
            if not sources:
                await harness.start_all()
            yield harness
        finally:
            for server in started:
                if server.up:
                    await server.kill()


def create_user(backend: DatabaseBackend) -> None:
    """A user that obeys read_only, and procedures that run as who calls them."""
    settings = backend.settings
    assert backend.server is not None
    names = [settings.database, *(shard.database for shard in settings.shards)]
    with (
        pymysql.connect(
            host="127.0.0.1", port=backend.server.port, user="root", autocommit=True
        ) as client,
        client.cursor() as cursor,
    ):
        cursor.execute(f"CREATE USER IF NOT EXISTS {DB_USER}@'%'")
        for name in names:
            cursor.execute(f"GRANT ALL ON {name}.* TO {DB_USER}@'%'")
            cursor.execute(
                "SELECT ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s",
                (name,),
            )
            for (procedure,) in list(cursor.fetchall()):
                cursor.execute(f"ALTER PROCEDURE {name}.{procedure} SQL SECURITY INVOKER")


def _configuration(
    settings: DatabaseSettings, app_id: str, proxies: list[FaultProxy], provider: CountingProvider
) -> dict[str, object]:
    shards = [
        {"shard_id": shard.shard_id, "database": shard.database, "port": proxy.port}
        for shard, proxy in zip(settings.shards, proxies[1:], strict=True)
    ]
    return {
        "TEMPLATECONFIG__APPID": app_id,
        "CACHECONFIG__PORT": proxies[0].port,
        "CACHECONFIG__TIMEOUT_S": CACHE_TIMEOUT_S,
        "CACHECONFIG__BULK_TIMEOUT_S": 2 * CACHE_TIMEOUT_S,
        "DATABASECONFIG__PORT": proxies[1].port,
        "DATABASECONFIG__USER": DB_USER,
        "DATABASECONFIG__TIMEOUT_S": 2,
        "DATABASECONFIG__DATABASE": settings.database,
        "DATABASECONFIG__SHARDS": json.dumps(shards),
        # Small and quick, so that a short run sees trimming, loading, taking over and giving up.
        "CHATCONFIG__WINDOW": 20,
        "CHATCONFIG__BATCH_INTERVAL_S": 0.3,
        "CHATCONFIG__LOCK_TTL_S": 3,
        "CHATCONFIG__LOCK_TIMEOUT_S": 1,
        "CHATCONFIG__LOAD_TIMEOUT_S": 8,
        "CHATCONFIG__REPLY_LEASE_S": 2,
        "CHATCONFIG__REPLY_DEADLINE_S": 100,
        "CHATCONFIG__SWEEP_INTERVAL_S": 0.5,
        "LLMCONFIG__PROVIDERS__OPENAI__BASE_URL": provider.base_url,
        "LLMCONFIG__PROVIDERS__OPENAI__API_KEY": "of-the-test",
        "LLMCONFIG__PROVIDERS__OPENAI__FIRST_TOKEN_TIMEOUT_S": 15,
        "LLMCONFIG__PROVIDERS__OPENAI__IDLE_TIMEOUT_S": 3,
    }
