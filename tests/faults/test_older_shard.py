"""A shard database that comes back older (cases/faults.md U12): noticed, said, and written again
from Redis."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.backends_mariadb import MariaDbServer, PreparedMariaDb
from tests.faults.harness import ServerHarness
from tests.faults.shared_harness import SharedHarness, shared_harness
from tests.faults.test_lost_redis import listed, new_room, ok, said, stored
from tests.load_clients import Player
from tests.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]
SEND = "/api/chat/message/send"
TABLES = ("chat_rooms", "chat_messages", "stream_marks")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness(prepared_mariadb: PreparedMariaDb) -> AsyncIterator[SharedHarness]:
    with (
        tempfile.TemporaryDirectory(prefix="o-") as folder,
        prepared_mariadb.running_copy() as backend,
    ):
        async with shared_harness(
            backend, Path(folder), "older", servers=1, CHATCONFIG__MARK_CHECK_INTERVAL_S=0.5
        ) as harness:
            yield harness


def dump(harness: SharedHarness) -> None:
    for shard in harness.settings.shards:
        for table in TABLES:
            harness.mariadb.sql(f"DROP TABLE IF EXISTS {shard.database}.dump_{table}")
            harness.mariadb.sql(
                f"CREATE TABLE {shard.database}.dump_{table} AS SELECT * FROM {shard.database}.{table}"
            )


def put_back(harness: SharedHarness) -> None:
    """The dump, while the servers run."""
    for shard in harness.settings.shards:
        for table in TABLES:
            harness.mariadb.sql(f"DELETE FROM {shard.database}.{table}")
            harness.mariadb.sql(
                f"INSERT INTO {shard.database}.{table} SELECT * FROM {shard.database}.dump_{table}"
            )
            harness.mariadb.sql(f"DROP TABLE {shard.database}.dump_{table}")


async def signed_in(harness: ServerHarness) -> Player:
    player = harness.player(2, number=8)
    await player.sign_in()
    return player


async def complaint(harness: ServerHarness) -> str:
    async with harness.http.get(f"{harness.servers[0].process.base_url}/readyz?verbose") as answer:
        assert answer.status == 200
        checks = (await answer.json())["checks"]
    return next((check["reason"] for check in checks if check["name"] == "chat_older_shards"), "")


async def has_no_complaint(harness: ServerHarness) -> bool:
    return not await complaint(harness)


def everything(harness: ServerHarness, room_ids: list[str]) -> list[Any]:
    """The rows of these rooms that clients can see."""
    rooms = " OR ".join(f"room_id = '{room_id}'" for room_id in room_ids)
    queries = (
        "SELECT room_id, title, ai_persona, last_seq, message_count, deleted"
        f" FROM chat_rooms WHERE {rooms} ORDER BY room_id",
        "SELECT room_id, seq, message_id, sender_type, content, parent_message_id, metadata, created_at,"
        f" client_message_id, body_hash FROM chat_messages WHERE ({rooms}) AND deleted = 0 ORDER BY room_id, seq",
        f"SELECT message_id FROM chat_messages WHERE ({rooms}) AND deleted = 1 ORDER BY message_id",
    )
    return [
        [row for shard in harness.shard_ids for row in harness.shard_rows(shard, query)]
        for query in queries
    ]


async def live_through(harness: ServerHarness, player: Player) -> tuple[list[str], str, str]:
    """Rooms with messages: old ones, one that will be renamed, one to be deleted; and a message to
    be deleted."""
    rooms = [await new_room(player) for _ in range(3)]
    first = ""
    for room_id in rooms:
        sent = await ok(player, SEND, room_id=room_id, content=said())
        first = first or sent["user_message"]["message_id"]
    await harness.settled()
    return rooms, rooms[2], first


async def go_on(
    harness: ServerHarness, player: Player, rooms: list[str], gone: str, first: str
) -> list[str]:
    """What the dump does not have: sends, a new room, a title, deletes of a message and of a
    room."""
    for n in range(3):
        await ok(player, SEND, room_id=rooms[0], content=said(), client_message_id=f"id-{n}")
    last = await ok(player, SEND, room_id=rooms[1], content=said())
    await ok(
        player,
        "/api/chat/message/delete",
        room_id=rooms[1],
        message_id=last["message"]["message_id"],
    )
    await ok(player, "/api/chat/message/delete", room_id=rooms[0], message_id=first)
    await ok(player, "/api/chat/room/update", room_id=rooms[1], new_title="renamed")
    await ok(player, "/api/chat/room/delete", room_id=gone)
    made = await new_room(player)
    await ok(player, SEND, room_id=made, content=said())
    await harness.settled()
    return [*rooms, made]


def visible(everything: list[Any]) -> list[Any]:
    """Without the texts of what was deleted, and what belongs to a deleted room."""
    rooms, messages, _ = everything
    gone = {room["room_id"] for room in rooms if room["deleted"]}
    return [
        [room for room in rooms if room["room_id"] not in gone],
        [message for message in messages if message["room_id"] not in gone],
        gone,
    ]


async def test_rows_are_written_again_while_servers_run(harness: SharedHarness) -> None:
    player = await signed_in(harness)
    rooms, gone, first = await live_through(harness, player)
    dump(harness)
    rooms = await go_on(harness, player, rooms, gone, first)
    before, page = visible(everything(harness, rooms)), await listed(player, rooms[0])
    put_back(harness)
    assert visible(everything(harness, rooms)) != before
    await until(
        lambda: visible(everything(harness, rooms)) == before, 60, "the rows are there again"
    )
    assert "a shard database came back older" in harness.servers[0].process.log
    async with harness.http.get(f"{harness.servers[0].process.base_url}/metrics") as answer:
        assert "chat_shard_older_total 0" not in await answer.text()
    await until(lambda: has_no_complaint(harness), 30, "the alarm ends")
    # Everything goes on, behind no hole.
    sent = await ok(player, SEND, room_id=rooms[0], content=said())
    assert sent["user_message"]["seq"] == page[-1]["seq"] + 1
    await harness.settled()
    # The same from MySQL alone.
    whole = await listed(player, rooms[0])
    harness.ask_redis("FLUSHALL")
    assert await listed(player, rooms[0]) == whole
    assert [message["seq"] for message in whole] == [seq for seq, _, _ in stored(harness, rooms[0])]
    titles = {
        room["room_id"]: room["title"]
        for room in (await ok(player, "/api/chat/rooms", limit=100))["rooms"]
    }
    assert titles[rooms[1]] == "renamed"
    assert gone not in titles
    assert rooms[3] in titles


async def test_batch_after_the_dump_finds_it(harness: SharedHarness) -> None:
    """A send between the dump's return and the check leaves no hole: its batch finds it."""
    player = await signed_in(harness)
    room_id = await new_room(player)
    await ok(player, SEND, room_id=room_id, content=said())
    await harness.settled()
    dump(harness)
    for _ in range(3):
        await ok(player, SEND, room_id=room_id, content=said())
    await harness.settled()
    with harness.servers[0].paused():
        put_back(harness)
    await ok(player, SEND, room_id=room_id, content=said())
    await until(
        lambda: [seq for seq, _, _ in stored(harness, room_id)] == list(range(1, 11)), 60, "no hole"
    )


async def test_what_nobody_has_is_said_by_room(harness: SharedHarness) -> None:
    player = await signed_in(harness)
    room_id = await new_room(player)
    await harness.settled()
    dump(harness)
    for _ in range(14):  # beyond the window of 20
        await ok(player, SEND, room_id=room_id, content=said())
    await harness.settled()
    await until(
        lambda: int(harness.ask_redis("HGET", *floor_of(harness, room_id))) > 8,
        30,
        "the window was trimmed",
    )
    put_back(harness)
    await until(
        lambda: [seq for seq, _, _ in stored(harness, room_id)] == list(range(9, 29)),
        60,
        "the window is back",
    )
    said_so = await complaint(harness)
    assert f"room {room_id} lacks messages 1 to 8" in said_so
    async with harness.http.get(f"{harness.servers[0].process.base_url}/metrics") as answer:
        assert 'base_server_degraded{check="chat_older_shards"} 1.0' in await answer.text()
    doctor = await asyncio.to_thread(_manage, harness, "doctor")
    assert f"room {room_id} lacks messages 1 to 8" in doctor
    shard_id = said_so.removeprefix("shard ").partition(",")[0]
    await asyncio.to_thread(_manage, harness, "db", "acknowledge", "--shard", shard_id)
    await until(lambda: has_no_complaint(harness), 30, "the alarm ends")


def floor_of(harness: SharedHarness, room_id: str) -> tuple[str, str]:
    (key,) = harness.ask_redis("KEYS", f"*:room_rec:{room_id}")
    return key, "floor"


def _manage(harness: SharedHarness, *words: str) -> str:
    from tests.server_process import run_to_its_end  # noqa: PLC0415

    return run_to_its_end(
        ["application.manage", "--env", "DEBUG", *words], harness.servers[0].process.environment
    ).stdout


_BINLOG = ("--log-bin=b", "--binlog-format=ROW", "--sync-binlog=1", "--log-slave-updates")
_REPLICA = ("--read-only=ON",)


async def test_late_replica_is_completed_from_redis(
    prepared_mariadb: PreparedMariaDb, tmp_path: Path
) -> None:
    """The primary dies, and a replica that lacks its last batches is promoted."""
    with prepared_mariadb.running_copy() as backend:
        primary, replica = backend.server, MariaDbServer(copy_of=prepared_mariadb.server)
        assert primary is not None
        try:
            primary.stop()
            await asyncio.to_thread(primary.start, *_BINLOG, "--server-id=1")
            await asyncio.to_thread(replica.start, *_BINLOG, "--server-id=2", *_REPLICA)
            replica.sql(
                f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port}, MASTER_USER='root',"
                " MASTER_LOG_FILE='b.000001', MASTER_LOG_POS=4"
            )
            replica.sql("START SLAVE")
            await until(
                lambda: replica.sql("SHOW SLAVE STATUS")[0]["Slave_IO_Running"] == "Yes",
                30,
                "it replicates",
            )
            async with shared_harness(
                backend, tmp_path, "failover", servers=1, CHATCONFIG__MARK_CHECK_INTERVAL_S=0.5
            ) as harness:
                player = await signed_in(harness)
                room_id = await new_room(player)
                await ok(player, SEND, room_id=room_id, content=said())
                await harness.settled()
                await until(lambda: _is_applied(primary, replica), 30, "it has this")
                replica.sql("STOP SLAVE IO_THREAD")
                texts = [said() for _ in range(8)]
                for text in texts:
                    await ok(player, SEND, room_id=room_id, content=text)
                await harness.settled()
                before = await listed(player, room_id)
                primary.kill()
                await until(lambda: _has_applied_all(replica), 30, "what came is applied")
                for command in ("STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF"):
                    replica.sql(command)
                harness.mariadb = replica
                for proxy in harness.servers[0].databases:
                    proxy._target_port = replica.port
                    proxy.cut_all()
                await ok(player, SEND, room_id=room_id, content=said())
                await until(
                    lambda: len(stored(harness, room_id)) == len(before) + 2,
                    60,
                    "everything is in the replica",
                )
                after = await listed(player, room_id)
                assert after[: len(before)] == [message | {"state": "SENT"} for message in before]
                rows = [
                    (message["seq"], message["message_id"], message["content"]) for message in after
                ]
                assert rows == stored(harness, room_id)
                assert "a shard database came back older" in harness.servers[0].process.log
        finally:
            replica.remove()


def _is_applied(primary: MariaDbServer, replica: MariaDbServer) -> bool:
    (master,), (slave,) = primary.sql("SHOW MASTER STATUS"), replica.sql("SHOW SLAVE STATUS")
    return bool(slave["Exec_Master_Log_Pos"] == master["Position"])


def _has_applied_all(replica: MariaDbServer) -> bool:
    (slave,) = replica.sql("SHOW SLAVE STATUS")
    return bool(slave["Exec_Master_Log_Pos"] == slave["Read_Master_Log_Pos"])
