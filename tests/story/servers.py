"""What a story runs on: two servers of one installation, and what may happen to them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import redis

from application.base_web_server.config.loading import ServerSettings
from application.base_web_server.lifecycle import Server
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_type import TemplateType
from base_server.template.chat.chat_template_impl import ChatTemplateImpl
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import NO_LIMITS, llm_settings
from tests.faults.embedded_harness import EmbeddedHarness
from tests.faults.shared_harness import SharedHarness
from tests.openai_stub import OpenAIStub
from tests.waiting import until

Files = Mapping[str, bytes]


class StoryServers(Protocol):
    """``urls``: two ways in (the same one twice where there is one server)."""

    http: aiohttp.ClientSession
    persona: str

    @property
    def provider(self) -> OpenAIStub: ...
    @property
    def urls(self) -> Sequence[str]: ...
    @property
    def socket(self) -> Path: ...
    async def restart_server(self, index: int) -> None: ...
    async def write(self) -> None:
        """Have everything that waits written to the databases."""

    def redis_files(self) -> Files:
        """The append-only files as they are now."""

    async def restart_redis(self, files: Files | None) -> None:
        """Kill Redis and start it: on what it has, or on these files ({} for none)."""

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Rows of the shards."""


def ask_redis(servers: StoryServers, *command: Any) -> Any:
    """One command past the servers, on a connection of its own."""
    with redis.Redis(
        unix_socket_path=str(servers.socket), decode_responses=True, socket_timeout=20
    ) as client:
        return client.execute_command(*command)


class InProcess:
    """Two whole servers in this process's loop: a restart takes them down in order and makes new
    ones."""

    persona = "TALK"

    def __init__(
        self,
        http: aiohttp.ClientSession,
        provider: OpenAIStub,
        cache: RedisServer,
        database: DatabaseBackend,
        settings: ServerSettings,
    ) -> None:
        self.http = http
        self.provider: OpenAIStub = provider
        self.urls = ["", ""]
        self._cache = cache
        self._database = database
        self._settings = settings
        self._running: dict[int, tuple[TemplateContext, asyncio.Event, asyncio.Future[Any]]] = {}

    @property
    def socket(self) -> Path:
        return self._cache.socket

    async def start(self, index: int) -> None:
        context, stop = TemplateContext(), asyncio.Event()
        ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        running: asyncio.Future[Any] = asyncio.create_task(
            Server(self._settings, context).run(stop, ready.set_result)
        )
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        self.urls[index] = (await running) if running.done() else (await ready)
        self._running[index] = context, stop, running

    async def stop(self, index: int) -> None:
        _, stop, running = self._running.pop(index)
        stop.set()
        await running

    async def restart_server(self, index: int) -> None:
        await self.stop(index)
        await self.start(index)

    async def write(self) -> None:
        context, *_ = self._running[0]
        template = context.get_template(TemplateType.CHAT)
        assert isinstance(template, ChatTemplateImpl)
        consumer = template.parts.consumer

        async def empty() -> bool:
            await consumer.write_waiting()
            return waiting_events(self) == 0

        await until(empty, what="everything is written")
        await until(lambda: not consumer.draining, what="the drains end")

    def redis_files(self) -> Files:
        return {
            file.name: file.read_bytes()
            for file in (self._cache.folder / "appendonlydir").glob("*")
        }

    async def restart_redis(self, files: Files | None) -> None:
        await asyncio.to_thread(self._cache.kill)
        if files is not None:
            _replace(self._cache.folder / "appendonlydir", files)
        await asyncio.to_thread(self._cache.start)

    def rows(self, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for shard in self._database.settings.shards:
            if self._database.server is not None:
                found += self._database.server.sql(
                    query.replace("FROM ", f"FROM {shard.database}.")
                )
                continue
            file = self._database.data_dir / "db" / f"{shard.database}.sqlite3"
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                found += [dict(row) for row in connection.execute(query)]
        return found


class Processes:
    """Servers as processes of their own, each killed and started again."""

    persona = "GPT4O"

    def __init__(self, harness: SharedHarness | EmbeddedHarness) -> None:
        self.http = harness.http
        self.provider: OpenAIStub = harness.provider
        self._harness = harness

    @property
    def urls(self) -> Sequence[str]:
        return [self._harness.servers[index].process.base_url for index in (0, -1)]

    @property
    def socket(self) -> Path:
        return self._harness.socket

    async def restart_server(self, index: int) -> None:
        server = self._harness.servers[-index]
        await server.kill()
        await server.start()

    async def write(self) -> None:
        await self._harness.settled()

    def redis_files(self) -> Files:
        return {file.name: file.read_bytes() for file in self._harness.append_only_folder.glob("*")}

    async def restart_redis(self, files: Files | None) -> None:
        harness = self._harness
        if isinstance(harness, SharedHarness):
            await asyncio.to_thread(harness.redis.kill)
            if files is not None:
                _replace(harness.append_only_folder, files)
            await asyncio.to_thread(harness.redis.start)
            return
        # The embedded one has a supervisor, which must not be faster than the files.
        (server,) = harness.servers
        await server.kill()
        harness.deployed.kill_cache()
        if files is not None:
            _replace(harness.append_only_folder, files)
        await server.start()

    def rows(self, query: str) -> list[dict[str, Any]]:
        return [
            row
            for shard_id in self._harness.shard_ids
            for row in self._harness.shard_rows(shard_id, query)
        ]


def waiting_events(servers: StoryServers) -> int:
    keys = ask_redis(servers, "KEYS", "*}:queue:chat_persistence:*")
    return sum(ask_redis(servers, "XLEN", key) for key in keys)


def _replace(folder: Path, files: Files) -> None:
    for file in folder.glob("*"):
        file.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


@asynccontextmanager
async def in_process(
    cache: RedisServer, database: DatabaseBackend, app_id: str, folder: Path, **chat: Any
) -> AsyncIterator[InProcess]:
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(OpenAIStub())
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        )
        settings = ServerSettings.model_validate(
            {
                "templateConfig": {
                    "appId": app_id,
                    "env": "LOCAL" if database.server is None else "DEBUG",
                    "data_dir": database.data_dir if database.server is None else folder,
                },
                "netConfig": {
                    "port": 0,
                    "signups_per_address": 10**6,
                    "login_attempts_per_account": 10**6,
                    "login_attempts_per_address": 10**6,
                },
                "cacheConfig": cache.settings().model_dump(),
                "databaseConfig": database.settings.model_dump(),
                "llmConfig": llm_settings(provider).model_dump(),
                # What is written is written when the story says so, and when a load needs it.
                "chatConfig": {"batch_interval_s": 3600, "batch_size": 1000} | NO_LIMITS | chat,
            }
        )
        servers = InProcess(http, provider, cache, database, settings)
        for index in (0, 1):
            await servers.start(index)
            stack.push_async_callback(servers.stop, index)
        yield servers
