"""The Redis user of docs/operations.md: enough for a server and the operator's commands, and what
is said of less.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.backends_redis import RedisServer, find_server, running_cache
from tests.server_process import ROOT, Client, ServerProcess, run_to_its_end, running_server
from tests.waiting import until

(COMMAND,) = re.findall(
    r"^(ACL SETUSER .*)$", (ROOT / "docs/operations.md").read_text("utf-8"), re.MULTILINE
)
ALLOWED = shlex.split(COMMAND.replace("app:PROD:", "app:LOCAL:"))


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    server = RedisServer(find_server("redis"))
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def test_a_server_needs_no_more_rights_than_the_documents_say(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    settings = {
        "BASE_SERVER__CACHECONFIG__TYPE": "redis",
        "BASE_SERVER__CACHECONFIG__PORT": str(own_redis.port),
        "BASE_SERVER__CACHECONFIG__USERNAME": "chat",
        "BASE_SERVER__CACHECONFIG__PASSWORD": "PASSWORD",
        "BASE_SERVER__CHATCONFIG__BATCH_INTERVAL_S": "0.1",
    }
    async with running_cache(own_redis.settings(), "owner") as owner:
        redis = owner.get_client()
        await redis.execute(*ALLOWED)
        with running_server(tmp_path / "data", workers=1, **settings) as server:
            async with aiohttp.ClientSession() as http:
                client = Client(http, server.base_url)
                await client.sign_in("alice")
                room = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"][
                    "room_id"
                ]
                await client.ok("/api/chat/message/send", room_id=room, content="hello")

                async def stored() -> bool:
                    messages = (await client.ok("/api/chat/messages", room_id=room))["messages"]
                    return [message["state"] for message in messages] == ["SENT", "SENT"]

                await until(stored)
                await client.ok("/api/chat/room/delete", room_id=room)
            assert "ok   signals: " in await _manage(server, "doctor")
            assert "0 dead letters" in await _manage(server, "queue", "stats")
            assert await redis.execute("ACL", "LOG") == [], "nothing was refused"
            assert "cache signals interrupted" not in server.log

            await redis.execute("ACL", "SETUSER", "chat", "resetchannels")
            found = await _manage(server, "doctor")
            assert "note signals: signals between processes do not arrive" in found
            fix = re.search(r"ACL SETUSER chat '(.*)', then ACL SAVE", found)
            assert fix is not None
            await redis.execute("ACL", "SETUSER", "chat", fix[1])
            assert "ok   signals: " in await _manage(server, "doctor")


async def _manage(server: ServerProcess, *command: str) -> str:
    ended = await asyncio.to_thread(
        run_to_its_end, ["application.manage", *command], server.environment
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
