"""The operator's commands for queues and dead letters, and the doctor: beside a running server and
without one.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import structlog

from application.base_web_server.config.loading import load_settings
from application.manage.__main__ import main
from application.manage.operating import operating
from base_server.service.core.logger import configure_logging
from base_server.template.chat.domain.events import QUEUE_NAME
from tests.backends_cluster import RedisCluster, on_a_cluster
from tests.server_process import Client, ServerProcess
from tests.waiting import until

CONTENT = "nobody but show prints this"


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the server and the commands find their data."""
    monkeypatch.setenv("BASE_SERVER__TEMPLATECONFIG__DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BASE_SERVER__NETCONFIG__PORT", "0")
    return tmp_path / "data"


@pytest.fixture
def server(data_dir: Path) -> Iterator[ServerProcess]:
    running = ServerProcess(data_dir, changes={"BASE_SERVER__CHATCONFIG__BATCH_INTERVAL_S": "0.1"})
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        client = Client(http, server.base_url)
        await client.sign_in("alice")
        yield client


class Terminal:
    """Runs the commands in this process, each in a loop and a thread of its own; :meth:`run` gives
    their output.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def run(self, *command: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert await asyncio.to_thread(main, command) == code
        return self._capsys.readouterr().out


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Iterator[Terminal]:
    configure_logging("error", io.StringIO())
    yield Terminal(capsys)
    configure_logging("debug")
    structlog.reset_defaults()


def refuse(data_dir: Path, room_id: str, content: str) -> sqlite3.Connection:
    """Have the room's shard refuse a message; dropping its trigger ``refuse`` ends that."""
    for file in (data_dir / "db").glob("chat_shard_*.sqlite3"):
        database = sqlite3.connect(file, timeout=10)
        if database.execute("SELECT 1 FROM chat_rooms WHERE room_id = ?", (room_id,)).fetchone():
            database.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON chat_messages"
                f" WHEN NEW.content = '{content}' BEGIN SELECT RAISE(ABORT, 'not here'); END"
            )
            database.commit()
            return database
        database.close()
    raise AssertionError("no shard has the room")


async def test_a_refused_room_is_listed_shown_replayed_and_dropped(
    server: ServerProcess, client: Client, data_dir: Path, terminal: Terminal
) -> None:
    room = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]
    await client.ok("/api/chat/message/send", room_id=room, content="first")

    async def first_is_saved() -> bool:
        return f"{QUEUE_NAME}: 0 waiting" in await terminal.run("queue", "stats")

    await until(first_is_saved)
    database = refuse(data_dir, room, CONTENT)
    await client.ok("/api/chat/message/send", room_id=room, content=CONTENT)

    async def refused() -> str:
        return await terminal.run("dlq", "list", "--room", room) if await _has(terminal, 2) else ""

    await until(refused)
    listed = await refused()
    assert CONTENT not in listed
    lines = listed.splitlines()
    assert lines[-1] == "2 dead letters."
    assert f" CHAT_MESSAGE_SAVE room={room} " in lines[0]
    assert "refused by the database" in lines[0]
    assert "waits behind" in lines[1]
    name = lines[0].split()[0]
    shown = json.loads(await terminal.run("dlq", "show", "--id", name))
    assert CONTENT in shown["fields"]["payload"]
    degraded = await _readyz(server)
    assert "chat_dead_letters" in degraded["degraded"]
    assert "2 dead letters" in await terminal.run("doctor")

    database.execute("DROP TRIGGER refuse")
    database.commit()
    assert "Replayed 2 dead letters" in await terminal.run("dlq", "replay", "--room", room)
    seqs = "SELECT seq FROM chat_messages WHERE room_id = ? ORDER BY seq"
    await until(lambda: [row[0] for row in database.execute(seqs, (room,))] == [1, 2, 3, 4])
    database.close()
    assert await terminal.run("dlq", "list") == "0 dead letters.\n"


async def test_what_is_no_event_is_replayed_in_vain_and_dropped_with_yes(
    server: ServerProcess, data_dir: Path, terminal: Terminal
) -> None:
    async with operating(load_settings("LOCAL")) as tools:
        tools.queue.declare(QUEUE_NAME, streams=["1", "2"], route=lambda _: (3, "1"))
        for n in range(2):
            await tools.queue.send_message(QUEUE_NAME, {"n": n, "text": CONTENT}, "CHAT_NONSENSE")
    await until(lambda: _has(terminal, 2))
    name = (await terminal.run("dlq", "list", "--queue", QUEUE_NAME)).split()[0]
    assert name.startswith(f"{QUEUE_NAME}/3/1/")
    assert "Replayed 1 dead letters" in await terminal.run("dlq", "replay", "--id", name)
    await until(lambda: _has(terminal, 2))
    assert await terminal.run("dlq", "show", "--id", name, code=1) == ""
    assert "add --yes" in await terminal.run("dlq", "drop", "--all", code=1)
    assert await _dead(terminal) == 2
    assert "Dropped 2 dead letters" in await terminal.run("dlq", "drop", "--all", "--yes")
    # And on the data of a stopped server.
    server.stop()
    assert f"{QUEUE_NAME}: 0 waiting" in await terminal.run("queue", "stats")
    assert await terminal.run("dlq", "list") == "0 dead letters.\n"
    assert "started for this command" in await terminal.run("doctor")


async def test_the_commands_look_at_every_master_of_a_cluster(
    data_dir: Path,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    redis_cluster: RedisCluster,
    app_id: str,
) -> None:
    for name, value in on_a_cluster(redis_cluster, app_id).items():
        monkeypatch.setenv(name, value)
    found = await terminal.run("doctor")
    for node in redis_cluster.masters:
        assert f"redis {node.address}: its clock" in found
        assert re.search(rf"redis {node.address}: \d+ MiB used", found)
    assert "16, all of this Redis run" in found
    assert "takes its slots away" in found
    assert await terminal.run("queue", "stats") == "There are no queues yet.\n"
    assert await terminal.run("dlq", "list") == "0 dead letters.\n"


async def test_the_doctor_names_the_mend_and_fails(
    data_dir: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("BASE_SERVER__NETCONFIG__PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("BASE_SERVER__CACHECONFIG__TYPE", "redis")
        monkeypatch.setenv("BASE_SERVER__CACHECONFIG__PORT", "1")
        monkeypatch.setenv("BASE_SERVER__DATABASECONFIG__TYPE", "mysql")
        monkeypatch.setenv("BASE_SERVER__DATABASECONFIG__PORT", "1")
        monkeypatch.setenv("BASE_SERVER__DATABASECONFIG__PASSWORD", "geheim")
        said = await terminal.run("doctor", code=1)
    assert "BASE_SERVER__NETCONFIG__PORT" in said
    assert "BAD  database:shard1: cannot be used" in said
    assert "BAD  redis: Redis at 127.0.0.1:1 cannot be used" in said
    assert said.endswith("5 bad findings.\n")
    assert "geheim" not in said


async def _dead(terminal: Terminal) -> int:
    return int((await terminal.run("dlq", "list")).splitlines()[-1].split()[0])


async def _has(terminal: Terminal, count: int) -> bool:
    return await _dead(terminal) == count


async def _readyz(server: ServerProcess) -> dict[str, list[str]]:
    async with aiohttp.ClientSession() as http, http.get(server.base_url + "/readyz") as answer:
        body: dict[str, list[str]] = await answer.json()
        return body
