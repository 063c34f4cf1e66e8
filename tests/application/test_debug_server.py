"""The server on Redis and MariaDB: an old schema stops it, a database away degrades it, Redis away
fails it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer, find_server
from tests.server_process import Client, ServerProcess, run_to_its_end, server_environment
from tests.waiting import until


@pytest.fixture
def redis_on_a_port() -> Iterator[RedisServer]:
    server = RedisServer(find_server("redis"))
    server.start()
    yield server
    server.remove()


@pytest.fixture
def changes(redis_on_a_port: RedisServer, private_mariadb: DatabaseBackend) -> dict[str, str]:
    assert private_mariadb.server is not None
    shards = [
        {"shard_id": 1, "database": "old_schema_1"},
        {"shard_id": 2, "database": "old_schema_2"},
    ]
    return {
        "BASE_SERVER__CACHECONFIG__PORT": str(redis_on_a_port.port),
        "BASE_SERVER__DATABASECONFIG__PORT": str(private_mariadb.server.port),
        "BASE_SERVER__DATABASECONFIG__DATABASE": "old_schema_global",
        "BASE_SERVER__DATABASECONFIG__SHARDS": json.dumps(shards),
    }


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def readyz(http: aiohttp.ClientSession, server: ServerProcess) -> tuple[int, dict[str, Any]]:
    async with http.get(server.base_url + "/readyz") as answer:
        return answer.status, await answer.json()


async def test_from_an_old_schema_to_outages(
    tmp_path: Path,
    changes: dict[str, str],
    redis_on_a_port: RedisServer,
    private_mariadb: DatabaseBackend,
    http: aiohttp.ClientSession,
) -> None:
    environment = server_environment(tmp_path / "data", changes)
    refused = run_to_its_end(["application.base_web_server", "--env", "DEBUG"], environment)
    assert refused.returncode == 1
    fix = "application.manage --env DEBUG db apply"
    assert f"python -m {fix}" in refused.stderr.splitlines()[-1]
    assert run_to_its_end(fix.split(), environment).returncode == 0

    server = ServerProcess(tmp_path / "data", env="DEBUG", changes=changes)
    try:
        server.start()
        client = Client(http, server.base_url)
        await client.sign_in("alice")
        room = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]

        assert private_mariadb.server is not None
        private_mariadb.server.kill()
        await until(
            lambda: _says(http, server, 200, "degraded", "database:shard1"), what="degraded"
        )
        await client.ok("/api/chat/message/send", room_id=room, content="the database is away")
        private_mariadb.server.start()
        await until(lambda: _says(http, server, 200, "degraded", None), what="whole again")

        redis_on_a_port.kill()
        await until(lambda: _says(http, server, 503, "failed", "redis"), what="failed")
        assert (await client.post("/api/chat/rooms"))["errorCode"] == 5003
        redis_on_a_port.start()
        await until(lambda: _says(http, server, 200, "failed", None), what="ready again")
        listed = await client.ok("/api/chat/messages", room_id=room)
        assert listed["messages"][0]["content"] == "the database is away"
    finally:
        server.stop()


async def _says(
    http: aiohttp.ClientSession, server: ServerProcess, status: int, kind: str, name: str | None
) -> bool:
    """Whether /readyz has ``status`` and ``name`` in its list ``kind`` (None: an empty list)."""
    answered, body = await readyz(http, server)
    return answered == status and (name in body[kind] if name else not body[kind])
