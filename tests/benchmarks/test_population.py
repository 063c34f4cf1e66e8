"""What is measured is there: as many rooms and messages as asked for, seeded or sent, and nothing
that waits."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from base_server.service.db.db_settings import DatabaseSettings
from benchmarks.load import Ask
from benchmarks.population import TEXT, populate, quiet
from benchmarks.processes import running
from benchmarks.seed import ROWS
from benchmarks.seed import run as seed
from tests.server_process import Client, ServerProcess, running_server
from tests.waiting import PATIENCE_S


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with running_server(tmp_path / "data") as running:
        yield running


async def asked(http: aiohttp.ClientSession, url: str, ask: Ask) -> dict[str, Any]:
    return await _client(http, url, ask.token).ok(ask.path, **ask.fields)


async def test_players_have_the_rooms_and_messages_that_are_asked_for(
    server: ServerProcess,
) -> None:
    owners = await populate(server.base_url, accounts=2, rooms=3, messages=44, talking=slice(1, 2))
    assert len(TEXT) == 40
    async with aiohttp.ClientSession() as http:
        for owner in owners:
            rooms = await asked(http, server.base_url, owner.room_list())
            assert {room["room_id"] for room in rooms["rooms"]} == set(owner.room_ids)
            assert len(owner.room_ids) == 3
            lists = [await asked(http, server.base_url, ask) for ask in owner.message_lists()]
            assert [len(each["messages"]) for each in lists] == [0, 20, 0]
            client = _client(http, server.base_url, owner.token)
            whole = (await client.ok("/api/chat/messages", room_id=owner.room_ids[1]))["messages"]
            assert [message["sender_type"] for message in whole] == ["USER", "AI"] * 22
            (send,) = owner.sends(slice(2, None))
            assert send.fields == {"room_id": owner.room_ids[2], "content": TEXT}
            await asked(http, server.base_url, send)
    assert len({owner.token for owner in owners}) == 2


async def test_a_seeded_room_is_read_as_if_it_had_been_written(tmp_path: Path) -> None:
    data, messages = tmp_path / "data", 2 * ROWS + 52
    async with aiohttp.ClientSession() as http:
        with running_server(data) as server:
            client = Client(http, server.base_url)
            await client.sign_in("seeded")
        room_id = await seed(
            DatabaseSettings(timeout_s=PATIENCE_S),
            data,
            16,
            "seeded",
            rooms=ROWS + 1,
            messages=messages,
        )
        with running_server(data) as server:
            client = _client(http, server.base_url, client.token)
            rooms = await client.ok("/api/chat/rooms", limit=1)
            pages = [
                (await client.ok("/api/chat/messages", room_id=room_id, page=page, limit=50))[
                    "messages"
                ]
                for page in range(messages // 50 + 1, 0, -1)
            ]
    assert rooms["total_count"] == ROWS + 1
    (room,) = rooms["rooms"]
    assert room["title"] == "Room 1"
    told = [message for page in pages for message in page]
    assert [message["seq"] for message in told] == list(range(1, messages + 1))
    assert {message["sender_type"] for message in told[::2]} == {"USER"}
    assert {message["sender_type"] for message in told[1::2]} == {"AI"}
    parents = [message["parent_message_id"] for message in told[1::2]]
    assert parents == [question["message_id"] for question in told[:-1:2]]
    times = [datetime.fromisoformat(message["timestamp"]) for message in told]
    assert {later - sooner for sooner, later in pairwise(times)} == {timedelta(seconds=1)}
    assert timedelta(0) < datetime.now(UTC) - times[-1] < timedelta(minutes=2)


async def test_quiet_waits_until_a_scrape_says_that_nothing_waits() -> None:
    line = 'base_server_queue_waiting{queue="chat_persistence"}'
    other = 'base_server_queue_waiting{queue="other"} 0.0\n'
    scrapes = [other, f"{line} 3.0\n{other}", f"{other}{line} 0.0\n", f"{line} 9.0\n"]

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=scrapes.pop(0))

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    async with TestServer(app) as server, asyncio.timeout(PATIENCE_S):
        await quiet(str(server.make_url("")))
    assert len(scrapes) == 1


def test_the_time_of_a_server_is_that_of_its_children_too(tmp_path: Path) -> None:
    burner = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    server = f"""
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {burner!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("Ready at http://x", flush=True)
signal.pause()
"""
    with running("server", [sys.executable, "-c", server], os.environ, tmp_path / "log") as child:
        assert 0.5 <= child.cpu_s() < 1
        assert child.url == "http://x"


def _client(http: aiohttp.ClientSession, url: str, token: str | None) -> Client:
    client = Client(http, url)
    client.token = token
    return client
