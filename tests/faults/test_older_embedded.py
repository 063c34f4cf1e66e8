"""A part of the embedded default's data folder is put back to an earlier time (cases/faults.md U11, U12)."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.embedded_world import EmbeddedWorld, embedded_world
from tests.faults.test_lost_redis import listed, new_room, ok, said, stored
from tests.players import Player
from tests.waiting import until

SEND = "/api/chat/message/send"


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedWorld]:
    with tempfile.TemporaryDirectory(prefix="f-") as folder:
        async with embedded_world(
            Path(folder), NETCONFIG__QUIET_S=0, NETCONFIG__DRAIN_TIMEOUT_S=1
        ) as world:
            yield world


async def signed_in(world: EmbeddedWorld, seed: int) -> Player:
    player = world.player(seed, number=seed)
    await player.sign_in()
    return player


async def stop(world: EmbeddedWorld) -> None:
    (server,) = world.servers
    await world.settled()
    server.up = False
    await asyncio.to_thread(server.process.stop)


async def start(world: EmbeddedWorld, *players: Player) -> None:
    await world.start_all()
    for player in players:
        player.client.base_url = world.servers[0].process.base_url


async def test_older_databases_are_written_again(embedded: EmbeddedWorld) -> None:
    """cases/faults.md U11, U12: yesterday's SQLite files beside today's Valkey."""
    world, folder = embedded, embedded.deployed.data_dir / "db"
    player = await signed_in(world, 1)
    room_id = await new_room(player)
    await ok(player, SEND, room_id=room_id, content=said())
    await world.settled()
    copies = {file: folder / f"{file.name}.copy" for file in folder.glob("*.sqlite3")}
    for file, copy in copies.items():
        with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(copy)) as yesterday:
            live.backup(yesterday)

    await ok(player, SEND, room_id=room_id, content=said())
    await ok(player, "/api/chat/room/update", room_id=room_id, new_title="renamed")
    made = await new_room(player)
    await ok(player, SEND, room_id=made, content=said())
    stranger = await signed_in(world, 2)
    secret = await new_room(stranger)
    await ok(stranger, SEND, room_id=secret, content=said())
    await stop(world)
    before = [stored(world, each) for each in (room_id, made)]
    for file, copy in copies.items():
        for left in folder.glob(f"{file.name}-*"):  # of a write-ahead log
            left.unlink()
        copy.replace(file)

    await start(world, player, stranger)
    await until(
        lambda: [stored(world, each) for each in (room_id, made)] == before,
        60,
        "all rows are there again",
    )
    log = world.servers[0].process.log
    assert "a shard database came back older" in log
    assert "the global database came back older" in log
    world.ask_redis("FLUSHALL")
    await player.sign_in()
    rooms = (await ok(player, "/api/chat/rooms", limit=100))["rooms"]
    assert {room["room_id"]: room["title"] for room in rooms}[room_id] == "renamed"
    assert {room["room_id"] for room in rooms} == {room_id, made}
    # The account that the older database does not know: its session has ended, and its name gets empty rooms.
    assert (await stranger.client.post("/api/chat/rooms"))["errorCode"] == 10000
    await stranger.sign_in()
    assert (await ok(stranger, "/api/chat/rooms"))["rooms"] == []


async def test_older_valkey_takes_nothing_back(embedded: EmbeddedWorld) -> None:
    """cases/faults.md U3, U12: yesterday's Valkey beside today's SQLite files."""
    world, folder = embedded, embedded.append_only_folder
    player = await signed_in(world, 1)
    room_id, gone = await new_room(player), await new_room(player)
    first = await ok(player, SEND, room_id=room_id, content=said())
    await world.settled()
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
    leaver = await signed_in(world, 2)
    await ok(leaver, "/api/account/logout")
    await stop(world)
    rows = stored(world, room_id)
    shutil.rmtree(folder)
    folder.with_name("yesterday").rename(folder)

    await start(world, player, leaver)
    assert await listed(player, room_id) == [message | {"state": "SENT"} for message in before]
    assert [room["room_id"] for room in (await ok(player, "/api/chat/rooms"))["rooms"]] == [room_id]
    assert (await leaver.client.post("/api/chat/rooms"))["errorCode"] == 10000
    sent = await ok(player, SEND, room_id=room_id, content=said())
    assert sent["user_message"]["seq"] == before[-1]["seq"] + 1
    await world.settled()
    assert stored(world, room_id)[: len(rows)] == rows
