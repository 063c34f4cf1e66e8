"""Two real servers on one private Redis and one private MariaDB, each reached through proxies that can break.

Start, stop and kill run in threads: the proxies and the provider live in this process's event loop, and a server that
is starting needs them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pymysql
import redis

from service.db.db_settings import DatabaseSettings
from tests.backends_mariadb import DatabaseBackend, MariaDbServer
from tests.backends_redis import RedisServer, find_server
from tests.faults.fault_proxy import FaultProxy
from tests.faults.provider import CountingProvider
from tests.faults.wire import mysql_commands, redis_commands
from tests.players import Findings, Player
from tests.server_process import ServerProcess
from tests.waiting import until

DB_USER = "chat"
"""Unlike root it may not write while the server is read-only."""
CACHE_TIMEOUT_S = 2
_SETTLE_S = 60.0


@dataclass
class FaultServer:
    """A server process and its own three ways out: Redis, global database and shard 1, shard 2."""

    process: ServerProcess
    redis: FaultProxy
    database: FaultProxy
    second_shard: FaultProxy
    up: bool = False

    @property
    def proxies(self) -> tuple[FaultProxy, FaultProxy, FaultProxy]:
        return self.redis, self.database, self.second_shard

    async def start(self) -> None:
        await asyncio.to_thread(self.process.start)
        self.up = True

    async def kill(self) -> None:
        self.up = False
        await asyncio.to_thread(self.process.kill)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP; SIGCONT at the end."""
        self.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.signal(signal.SIGCONT)


@dataclass
class FaultWorld:
    """``servers`` are two; ``redis`` and ``mariadb`` may be killed and started again at will."""

    redis: RedisServer
    mariadb: MariaDbServer
    settings: DatabaseSettings
    provider: CountingProvider
    servers: list[FaultServer]
    http: aiohttp.ClientSession
    findings: Findings = field(default_factory=Findings)

    def player(self, seed: int, number: int = 0) -> Player:
        """A player that asks any server that is up, in turn of chance."""
        chance = random.Random(seed)
        return Player(
            self.http, lambda: self.url(chance), number=number, seed=seed, findings=self.findings, persona="GPT4O"
        )

    def url(self, chance: random.Random) -> str:
        servers = [server for server in self.servers if server.up] or self.servers
        return chance.choice(servers).process.base_url

    @property
    def proxies(self) -> list[FaultProxy]:
        return [proxy for server in self.servers for proxy in server.proxies]

    def ask_redis(self, *command: Any) -> Any:
        """One command past the proxies, on a connection of its own."""
        with redis.Redis(unix_socket_path=str(self.redis.socket), decode_responses=True, socket_timeout=20) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def dump(self, key: str) -> bytes:
        """A key's whole value, for comparing."""
        with redis.Redis(unix_socket_path=str(self.redis.socket)) as client:
            return bytes(client.dump(key) or b"")  # type: ignore[arg-type]

    def waiting_events(self) -> int:
        """Events in all persistence lanes."""
        return sum(self.ask_redis("XLEN", key) for key in self.ask_redis("KEYS", "*:queue:chat_persistence:*"))

    def dead_letters(self) -> list[Any]:
        keys = self.ask_redis("KEYS", "*:queue_dead:chat_persistence:*")
        return [entry for key in keys for entry in self.ask_redis("XRANGE", key, "-", "+")]

    def open_turns(self) -> int:
        return sum(self.ask_redis("ZCARD", key) for key in self.ask_redis("KEYS", "*:turn_leases"))

    async def settled(self) -> None:
        """Wait until every reply has ended and every event is in MySQL."""

        def done() -> bool:
            try:
                return self.open_turns() == 0 and self.waiting_events() == 0
            except redis.RedisError:
                return False

        await until(done, _SETTLE_S, "every reply ended and every event written")

    def shard_rows(self, shard_id: int, query: str) -> list[dict[str, Any]]:
        """Rows of one shard database; ``query`` names its tables after FROM."""
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
        """Kill Redis and start it on an empty append-only file, or on that of :meth:`redis_files`."""
        self.redis.kill()
        folder = self.redis.folder / "appendonlydir"
        for file in folder.glob("*"):
            file.unlink()
        for name, content in (files or {}).items():
            (folder / name).write_bytes(content)
        await asyncio.to_thread(self.redis.start)

    def redis_files(self) -> dict[str, bytes]:
        """What is on the disk now."""
        return {file.name: file.read_bytes() for file in (self.redis.folder / "appendonlydir").glob("*")}

    def heal_proxies(self) -> None:
        for proxy in self.proxies:
            proxy.heal()

    async def start_all(self) -> None:
        """Everything that is not up."""
        await asyncio.gather(*(server.start() for server in self.servers if not server.up))


@asynccontextmanager
async def fault_world(
    backend: DatabaseBackend, folder: Path, app_id: str, *, servers: int = 2, **changes: object
) -> AsyncIterator[FaultWorld]:
    """``backend``: a private MariaDB, scripts applied. ``changes``: further configuration, ``CHATCONFIG__WINDOW=…``."""
    assert backend.server is not None
    create_user(backend)
    async with AsyncExitStack() as stack:
        redis_server = RedisServer(find_server("redis"), "--appendfsync", "always")
        stack.callback(redis_server.remove)
        await asyncio.to_thread(redis_server.start)
        provider = await stack.enter_async_context(CountingProvider())
        timeout = aiohttp.ClientTimeout(total=15)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        started = []
        for n in range(servers):
            proxies = [FaultProxy(redis_server.port, redis_commands)]
            proxies += [FaultProxy(backend.server.port, mysql_commands) for _ in range(2)]
            for proxy in proxies:
                await stack.enter_async_context(proxy)
            values = _configuration(backend.settings, app_id, proxies, provider) | changes
            environment = {f"BASE_SERVER__{name}": str(value) for name, value in values.items()}
            process = ServerProcess(folder / f"server{n}", env="DEBUG", changes=environment)
            started.append(FaultServer(process, proxies[0], proxies[1], proxies[2]))
        world = FaultWorld(redis_server, backend.server, backend.settings, provider, started, http)
        try:
            await world.start_all()
            yield world
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
        pymysql.connect(host="127.0.0.1", port=backend.server.port, user="root", autocommit=True) as client,
        client.cursor() as cursor,
    ):
        cursor.execute(f"CREATE USER IF NOT EXISTS {DB_USER}@'%'")
        for name in names:
            cursor.execute(f"GRANT ALL ON {name}.* TO {DB_USER}@'%'")
            cursor.execute("SELECT ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = %s", (name,))
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
        "CHATCONFIG__REPLY_DEADLINE_S": 12,
        "CHATCONFIG__SWEEP_INTERVAL_S": 0.5,
        "LLMCONFIG__PROVIDERS__OPENAI__BASE_URL": provider.base_url,
        "LLMCONFIG__PROVIDERS__OPENAI__API_KEY": "of-the-test",
        "LLMCONFIG__PROVIDERS__OPENAI__FIRST_TOKEN_TIMEOUT_S": 3,
        "LLMCONFIG__PROVIDERS__OPENAI__IDLE_TIMEOUT_S": 3,
    }


async def play_during(
    players: list[Player], deed: Callable[[], Any], findings: Findings, *, within_s: float = 60.0
) -> float:
    """Have all play while ``deed`` breaks and mends; returns how long after it the last of them had a success."""
    stop = asyncio.Event()
    playing = [asyncio.create_task(player.play(stop)) for player in players]
    try:
        await deed()
        mended_s = time.monotonic()
        waiting = set(players)
        while waiting and time.monotonic() < mended_s + within_s:
            await asyncio.sleep(0.01)
            waiting -= {player for player in waiting if player.last_success_s > mended_s}
        for player in waiting:
            findings.add("unexpected", f"{player.name}: no success within {within_s:g} s; {player.history[-1]}")
        return time.monotonic() - mended_s
    finally:
        stop.set()
        await asyncio.gather(*playing)
