"""A part of the embedded default's data folder is put back to an earlier time (cases/faults.md U11,
U12)."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.embedded_harness import EmbeddedHarness, embedded_harness
from tests.faults.test_lost_redis import listed, new_room, ok, said, stored
from tests.load_clients import Player
from tests.waiting import until

SEND = "/api/chat/message/send"


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedHarness]:
    with tempfile.TemporaryDirectory(prefix="f-") as folder:
        async with embedded_harness(
            Path(folder), NETCONFIG__QUIET_S=0, NETCONFIG__DRAIN_TIMEOUT_S=1
        ) as harness:
            yield harness


async def signed_in(harness: EmbeddedHarness, seed: int) -> Player:
    player = harness.player(seed, number=seed)
    await player.sign_in()
    return player


async def stop(harness: EmbeddedHarness) -> None:
    (server,) = harness.servers
    await harness.settled()
    server.up = False
    await asyncio.to_thread(server.process.stop)


async def start(harness: EmbeddedHarness, *load_clients: Player) -> None:
    await harness.start_all()
    for player in load_clients:
        player.client.base_url = harness.servers[0].process.base_url


async def test_older_databases_are_written_again(embedded: EmbeddedHarness) -> None:
    """cases/faults.md U11, U12: yesterday's SQLite files beside today's Valkey."""
    harness, folder = embedded, embedded.deployed.data_dir / "db"
    player = await signed_in(harness, 1)
    room_id = await new_room(player)
    await ok(player, SEND, room_id=room_id, content=said())
    await harness.settled()
    copies = {file: folder / f"{file.name}.copy" for file in folder.glob("*.sqlite3")}
    for file, copy in copies.items():
        with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(copy)) as yesterday:
            live.backup(yesterday)

    await ok(player, SEND, room_id=room_id, content=said())
    await ok(player, "/api/chat/room/update", room_id=room_id, new_title="renamed")
    made = await new_room(player)
    await ok(player, SEND, room_id=made, content=said())
    stranger = await signed_in(harness, 2)
    secret = await new_room(stranger)
    await ok(stranger, SEND, room_id=secret, content=said())
    await stop(harness)
    before = [stored(harness, each) for each in (room_id, made)]
    for file, copy in copies.items():
        for left in folder.glob(f"{file.name}-*"):  # of a write-ahead log
            left.unlink()
        copy.replace(file)

    await start(harness, player, stranger)
    await until(
        lambda: [stored(harness, each) for each in (room_id, made)] == before,
        60,
        "all rows are there again",
    )
    log = harness.servers[0].process.log
    assert "a shard database came back older" in log
    assert "the global database came back older" in log
    harness.ask_redis("FLUSHALL")
    await player.sign_in()
    rooms = (await ok(player, "/api/chat/rooms", limit=100))["rooms"]
    assert {room["room_id"]: room["title"] for room in rooms}[room_id] == "renamed"
    assert {room["room_id"] for room in rooms} == {room_id, made}
    # The account that the older database does not know: its session has ended, and its name gets
    # empty rooms.
    assert (await stranger.client.post("/api/chat/rooms"))["errorCode"] == 10000
    await stranger.sign_in()
    assert (await ok(stranger, "/api/chat/rooms"))["rooms"] == []


async def test_older_valkey_takes_nothing_back(embedded: EmbeddedHarness) -> None:
    """cases/faults.md U3, U12: yesterday's Valkey beside today's SQLite files."""
    harness, folder = embedded, embedded.append_only_folder
    player = await signed_in(harness, 1)
    room_id, gone = await new_room(player), await new_room(player)
    first = await ok(player, SEND, room_id=room_id, content=said())
    await harness.settled()
    shutil.copytree(folder, folder.with_name("yesterday"))

    await ok(player, SEND, room_id=room_id, content=said())
    await ok(
        player,
        "/api/chat/message/delete",
        room_id=room_id,
        message_id=first["message"]["message_id"],
    )
    await ok(player, "/api/chat/room/delete", room_id=gone)
    before = await listed(player, room_id)
    leaver = await signed_in(harness, 2)
    await ok(leaver, "/api/account/logout")
    await stop(harness)
    rows = stored(harness, room_id)
    shutil.rmtree(folder)
    folder.with_name("yesterday").rename(folder)

    await start(harness, player, leaver)
    assert await listed(player, room_id) == [message | {"state": "SENT"} for message in before]
    assert [room["room_id"] for room in (await ok(player, "/api/chat/rooms"))["rooms"]] == [room_id]
    assert (await leaver.client.post("/api/chat/rooms"))["errorCode"] == 10000
    sent = await ok(player, SEND, room_id=room_id, content=said())
    assert sent["user_message"]["seq"] == before[-1]["seq"] + 1
    await harness.settled()
    assert stored(harness, room_id)[: len(rows)] == rows
