"""A shard is added, and moved to another MySQL server, while two servers run and people chat."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis

from application.manage.__main__ import main
from tests.backends_mariadb import MariaDbServer, PreparedMariaDb, find_program
from tests.backends_redis import RedisServer, find_server
from tests.server_process import Client, ServerProcess, run_to_its_end, server_environment
from tests.waiting import until

SHARD_3 = {"shard_id": 3, "database": "chat_shard_3"}


@dataclass
class Fleet:
    """Two servers on one Redis, with all databases on ``here``; ``there`` is a MySQL server with
    nothing on it."""

    redis: RedisServer
    here: MariaDbServer
    there: MariaDbServer
    servers: list[ServerProcess]
    changes: dict[str, str]

    async def manage(self, *command: str, shard_3: Mapping[str, Any], code: int = 0) -> str:
        """Run an operator's command with ``shard_3`` in its configuration; what it said."""
        shards = [
            *json.loads(self.changes["BASE_SERVER__DATABASECONFIG__SHARDS"]),
            SHARD_3 | dict(shard_3),
        ]
        changes = self.changes | {"BASE_SERVER__DATABASECONFIG__SHARDS": json.dumps(shards)}
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
            for name, value in server_environment(self.servers[0].data_dir, changes).items():
                patch.setenv(name, value)
            assert await asyncio.to_thread(main, ["--env", "DEBUG", *command]) == code, (
                said.getvalue()
            )
        return said.getvalue()


@pytest.fixture
def fleet(prepared_mariadb: PreparedMariaDb, app_id: str) -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="e-") as folder, ExitStack() as stack:
        redis = RedisServer(find_server("redis"))
        stack.callback(redis.remove)
        redis.start()
        here, there = (MariaDbServer(copy_of=prepared_mariadb.server) for _ in range(2))
        for server in (here, there):
            stack.callback(server.remove)
            server.start()
        changes = {
            "BASE_SERVER__TEMPLATECONFIG__APPID": app_id,
            "BASE_SERVER__CACHECONFIG__PORT": str(redis.port),
            "BASE_SERVER__DATABASECONFIG__PORT": str(here.port),
            "BASE_SERVER__DATABASECONFIG__SHARDS_REFRESH_S": "0.2",
            "BASE_SERVER__DATABASECONFIG__SHARDS": json.dumps(
                [{"shard_id": n, "database": f"chat_shard_{n}"} for n in (1, 2)]
            ),
            "BASE_SERVER__CHATCONFIG__BATCH_INTERVAL_S": "0.2",
            "BASE_SERVER__CHATCONFIG__LOAD_TIMEOUT_S": "2",
        }
        servers = [
            ServerProcess(Path(folder) / str(n), env="DEBUG", changes=changes) for n in range(2)
        ]
        made = Fleet(redis, here, there, servers, changes)
        environment = server_environment(servers[0].data_dir, changes)
        applied = run_to_its_end(
            ["application.manage", "--env", "DEBUG", "db", "apply"], environment
        )
        assert applied.returncode == 0, applied.stderr
        for process in servers:
            stack.callback(process.stop)
            process.start()
        yield made


async def test_a_shard_is_added_and_moved_while_servers_run(fleet: Fleet) -> None:
    async with aiohttp.ClientSession() as http:
        early = [Client(http, fleet.servers[0].base_url) for _ in range(2)]
        for n, client in enumerate(early):
            await client.sign_in(f"early-{n}")

        await fleet.manage("db", "apply", shard_3={})
        assert "database chat_shard_3" in await fleet.manage("doctor", shard_3={})
        # The emptiest shard gets the next account; the process that has it looks for the shard at
        # once.
        player = Client(http, fleet.servers[0].base_url)
        await player.sign_in("late")
        room = (await player.ok("/api/chat/room/create", ai_persona="GPT4O"))["room"]["room_id"]
        cold = (await player.ok("/api/chat/room/create", ai_persona="GPT4O"))["room"]["room_id"]

        async def send(*texts: str) -> None:
            for text in texts:
                player.base_url = fleet.servers[len(text) % 2].base_url
                await player.ok("/api/chat/message/send", room_id=room, content=text)

        await send("one", "three")
        assert fleet.here.sql("SELECT s.shard_id FROM chat_global.account_shards s JOIN chat_global.accounts a "
                              "USING (account_db_key) WHERE a.account_id = 'late'") == [{"shard_id": 3}]  # fmt: skip
        await written(fleet.here, 2)

        # To another server. From the freeze to the new address the shard is away: what is in Redis
        # goes on.
        assert "frozen" in await fleet.manage("db", "freeze", "--shard", "3", shard_3={})
        await send("four", "fifth")
        doctor = await fleet.manage("doctor", shard_3={}, code=1)
        assert "is frozen (manage db unfreeze)" in doctor
        forget(fleet.redis, cold)
        refused = await player.post("/api/chat/messages", room_id=cold)
        assert refused["error"]["code"] == "SERVICE_DOWN"
        await asyncio.to_thread(copy, fleet.here, fleet.there, "chat_shard_3")
        moved = {"host": "127.0.0.1", "port": fleet.there.port}
        await fleet.manage("db", "apply", shard_3=moved)
        await send("six", "sixth")
        await fleet.manage("db", "unfreeze", "--shard", "3", shard_3=moved)
        await written(fleet.there, 6)
        await player.ok("/api/chat/messages", room_id=cold)
        listed = (await player.ok("/api/chat/messages", room_id=room))["messages"]
        assert [message["content"] for message in listed[::2]] == [
            "one",
            "three",
            "four",
            "fifth",
            "six",
            "sixth",
        ]
        # The old place stays frozen: a process that had slept through it all could write nothing
        # there.
        assert fleet.here.sql("SELECT COUNT(*) AS n FROM chat_shard_3.chat_messages__fenced") == [
            {"n": 4}
        ]
        await fleet.manage("doctor", shard_3=moved)
        for client in early:
            await client.ok("/api/chat/rooms")


async def written(server: MariaDbServer, questions: int) -> None:
    """Until ``server`` has so many questions in shard 3, each with its reply."""
    query = "SELECT COUNT(*) AS n FROM chat_shard_3.chat_messages WHERE sender_type = '{}' AND deleted = 0"

    async def all_there() -> bool:
        counts = [
            (await asyncio.to_thread(server.sql, query.format(who)))[0]["n"]
            for who in ("USER", "AI")
        ]
        return counts == [questions, questions]

    await until(all_there, what=f"{questions} questions with their replies in shard 3")


def forget(redis_server: RedisServer, room_id: str) -> None:
    """Let the room leave Redis, as it does when nobody looks at it for an hour."""
    with redis.Redis(port=redis_server.port, decode_responses=True) as client:
        names = [name for name in client.scan_iter(f"*:{room_id}") if client.ttl(name) >= 0]
        assert len(names) >= 3
        client.delete(*names)


def copy(source: MariaDbServer, target: MariaDbServer, database: str) -> None:
    """As the operator does it: a dump, piped into the new server."""
    login = ["--no-defaults", "--host=127.0.0.1", "--user=root"]
    dump = [find_program("mariadb-dump", "mysqldump"), *login, f"--port={source.port}", "--routines", "--hex-blob",
            "--single-transaction", "--databases", database]  # fmt: skip
    with subprocess.Popen(dump, stdout=subprocess.PIPE) as dumping:
        client = [find_program("mariadb", "mysql"), *login, f"--port={target.port}"]
        subprocess.run(client, stdin=dumping.stdout, check=True)
    assert dumping.returncode == 0
