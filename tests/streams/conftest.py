"""Servers as processes, one on the embedded pair or two on Redis and MariaDB, and a provider that
the test scripts."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer, free_port
from tests.event_client import Event, streaming
from tests.openai_stub import OpenAIStub
from tests.server_process import WORKERS, Client, ServerProcess

PERSONA = "TALK"


def server_settings(provider_port: int, **chat: Any) -> dict[str, str]:
    """One persona, answered by a stub on that port; ``chat``: changes to chatConfig."""
    provider = {
        "base_url": f"http://127.0.0.1:{provider_port}/v1",
        "api_key": "key",
        "max_retries": 0,
    }
    return {
        "BASE_SERVER__LLMCONFIG__PERSONAS": json.dumps(
            {PERSONA: {"provider": "openai", "model": "stub"}}
        ),
        "BASE_SERVER__LLMCONFIG__DEFAULT_PERSONA": PERSONA,
        "BASE_SERVER__LLMCONFIG__PROVIDERS": json.dumps({"openai": provider}),
        "BASE_SERVER__LLMCONFIG__MAX_CONCURRENT_REQUESTS": "1000",
        "BASE_SERVER__NETCONFIG__DRAIN_TIMEOUT_S": "1",
        **{f"BASE_SERVER__CHATCONFIG__{name.upper()}": str(value) for name, value in chat.items()},
    }


def shared_settings(redis: RedisServer, database: DatabaseBackend, app_id: str) -> dict[str, str]:
    """Redis and MariaDB of this test run, whose scripts are applied."""
    shards = [
        {"shard_id": shard.shard_id, "database": shard.database}
        for shard in database.settings.shards
    ]
    return {
        "BASE_SERVER__TEMPLATECONFIG__APPID": app_id,
        "BASE_SERVER__CACHECONFIG__PORT": str(redis.port),
        "BASE_SERVER__DATABASECONFIG__PORT": str(database.settings.port),
        "BASE_SERVER__DATABASECONFIG__DATABASE": database.settings.database,
        "BASE_SERVER__DATABASECONFIG__SHARDS": json.dumps(shards),
    }


@dataclass
class Servers:
    """``all``: one, or two that share everything; ``here`` and ``elsewhere`` are the same one when
    it is alone.

    ``account_id`` signs up once (hashing takes its time); ``token`` is that of its session."""

    all: list[ServerProcess]
    provider_port: int
    account_id: str = field(default_factory=lambda: f"player{uuid.uuid4().hex[:10]}")
    token: str | None = None

    @property
    def here(self) -> str:
        return self.all[0].base_url

    @property
    def elsewhere(self) -> str:
        return self.all[-1].base_url


def start_servers(
    stack: ExitStack,
    redis: RedisServer,
    database: DatabaseBackend,
    count: int,
    *,
    workers: int = WORKERS,
    **chat: Any,
) -> Servers:
    """``count`` servers over one Redis and MariaDB, each of so many workers."""
    port = free_port()
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="s-"))
    changes = server_settings(port, **chat) | shared_settings(
        redis, database, f"t{uuid.uuid4().hex[:12]}"
    )
    servers = [
        ServerProcess(Path(folder) / f"{n}", env="DEBUG", changes=changes, workers=workers)
        for n in range(count)
    ]
    for server in servers:
        stack.callback(server.stop)
        server.start()
    return Servers(servers, port)


@pytest.fixture(scope="module", params=["LOCAL", "DEBUG"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with ExitStack() as stack:
        if request.param == "DEBUG":
            redis, database = (
                request.getfixturevalue("redis_server"),
                request.getfixturevalue("shared_mariadb"),
            )
            yield start_servers(stack, redis, database, 2)
            return
        port = free_port()
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="s-"))
        server = ServerProcess(Path(folder) / "data", changes=server_settings(port))
        stack.callback(server.stop)
        server.start()
        yield Servers([server], port)


@pytest.fixture
async def provider(servers: Servers) -> AsyncIterator[OpenAIStub]:
    async with OpenAIStub(servers.provider_port) as stub:
        yield stub


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Player:
    """An account with a room, at home on one server and welcome on the others."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str) -> None:
        self.http = http
        self.client = Client(http, base_url)
        self.room_id = ""

    async def enter(self, servers: Servers) -> None:
        """Log in, if that is still to be done, and make a room."""
        if servers.token is None:
            await self.client.sign_in(servers.account_id)
            servers.token = self.client.token
        self.client.token = servers.token
        room = await self.client.ok("/api/chat/room/create", ai_persona=PERSONA)
        self.room_id = room["room"]["room_id"]

    def at(self, base_url: str) -> Client:
        """The same account at another server."""
        client = Client(self.http, base_url)
        client.token = self.client.token
        return client

    def stream(
        self, content: str, base_url: str | None = None, **fields: Any
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        url = f"{base_url or self.client.base_url}/api/chat/message/stream"
        return streaming(
            self.http, url, self.client.token, room_id=self.room_id, content=content, **fields
        )

    def resume(
        self, message_id: str, offset: int | None, base_url: str | None = None, **fields: Any
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        url = f"{base_url or self.client.base_url}/api/chat/message/resume"
        place = {} if offset is None else {"last_event_id": offset}
        body = {"room_id": self.room_id, "message_id": message_id} | place | fields
        return streaming(self.http, url, self.client.token, **body)

    async def messages(self, base_url: str | None = None) -> list[dict[str, Any]]:
        page = await self.at(base_url or self.client.base_url).ok(
            "/api/chat/messages", room_id=self.room_id
        )
        return list(page["messages"])


@pytest.fixture
async def player(servers: Servers, http: aiohttp.ClientSession) -> Player:
    made = Player(http, servers.here)
    await made.enter(servers)
    return made
