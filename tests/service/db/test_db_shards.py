"""Shards that are added, moved and frozen while a service runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from base_server.service.core.errors import ServiceError, ServiceUnavailable
from base_server.service.db.database_service import DatabaseService
from base_server.service.db.databases import Databases, apply_all, report_all, set_frozen
from base_server.service.db.db_settings import DatabaseSettings
from tests.backends_mariadb import SCRIPTS_DIR, DatabaseBackend, mariadb_settings, running_database
from tests.database_rows import Room
from tests.waiting import until


def with_shards(backend: DatabaseBackend, *shards: dict[str, object]) -> DatabaseSettings:
    return DatabaseSettings.model_validate(backend.settings.model_dump() | {"shards": shards})


async def apply(backend: DatabaseBackend, settings: DatabaseSettings) -> None:
    await apply_all(
        Databases(settings, data_dir=backend.data_dir, scripts_dir=SCRIPTS_DIR), settings
    )


async def test_added_shard_is_used_and_unknown_one_looked_up_once_a_second(
    fresh_database_backend: DatabaseBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An added shard is taken up and an unknown one is looked for once a second."""
    backend = fresh_database_backend
    first, second = (shard.model_dump() for shard in backend.settings.shards)
    await apply(backend, with_shards(backend, first))
    async with running_database(backend, shards=[first]) as database:
        assert database.shard_ids == [1]
        await apply(backend, with_shards(backend, first, second))
        await database.follow_shards()
        assert database.shard_ids == [1, 2]
        assert await database.call_shard_procedure(2, "fp_chat_rooms_get", (1,)) == []
        looks = 0
        refresh = database.refresh_shards

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await refresh()

        monkeypatch.setattr(database, "refresh_shards", counted)
        now_s = time.monotonic()
        database.clock = lambda: now_s
        with pytest.raises(ServiceUnavailable, match="no shard 8"):
            await database.require_shard(8)
        looks = 0
        for _ in range(20):
            with pytest.raises(ServiceUnavailable, match=r"no shard 9; known are \[1, 2\]"):
                await database.require_shard(9)
        assert looks == 0
        now_s += 1.5
        with pytest.raises(ServiceUnavailable, match="no shard 9"):
            await database.call_shard_procedure(9, "fp_chat_rooms_get", (1,))
        assert looks == 1


async def test_a_moved_shard_is_called_at_its_new_place(mariadb_backend: DatabaseBackend) -> None:
    server = mariadb_backend.server
    assert server is not None
    await apply(mariadb_backend, mariadb_backend.settings)
    other = mariadb_settings(server)
    first, second = (shard.model_dump() for shard in mariadb_backend.settings.shards)
    # As an address of its own, though the host is the same: what counts is that it is registered.
    moved = second | {
        "database": other.shards[1].database,
        "host": "127.0.0.1",
        "port": server.port,
    }
    async with running_database(mariadb_backend, port=server.port) as database:
        room = Room(database)
        room.call = lambda name, *params: database.call_shard_procedure(2, name, params)  # type: ignore[method-assign]
        await room.create()
        await apply(mariadb_backend, with_shards(mariadb_backend, first, moved))
        assert (await room.get())["room_id"] == room.room_id
        await database.follow_shards()
        assert await room.call("fp_chat_room_get", room.room_id) == []
        places = {
            row["shard_id"]: row for row in await database.call_global_procedure("fp_shards_get")
        }
        assert (places[1]["host"], places[2]["host"], places[2]["port"]) == (
            None,
            "127.0.0.1",
            server.port,
        )
        # Other databases are called as before, and an outage of the global one changes nothing.
        assert await database.call_shard_procedure(1, "fp_chat_rooms_get", (1,)) == []


@pytest.fixture
async def frozen(mariadb_backend: DatabaseBackend) -> AsyncIterator[DatabaseService]:
    """Shard 1 is frozen, with a room and a message in it."""
    await apply(mariadb_backend, mariadb_backend.settings)
    async with running_database(mariadb_backend) as database:
        room = Room(database)
        await room.create()
        await room.save(1)
        await set_frozen(mariadb_backend.databases(), mariadb_backend.settings, 1, frozen=True)
        yield database


async def test_a_fenced_shard_serves_nobody_and_loses_nothing(
    frozen: DatabaseService, mariadb_backend: DatabaseBackend
) -> None:
    room = Room(frozen)
    for call in (room.create, lambda: room.save(1), lambda: room.delete(1), room.window):
        with pytest.raises(ServiceUnavailable):
            await call()
    with pytest.raises(ServiceUnavailable, match="is frozen"):
        await frozen.ping_shard(1)
    await frozen.ping_shard(2)
    databases, settings = mariadb_backend.databases(), mariadb_backend.settings
    reports = await report_all(databases, settings, 16)
    assert ["is frozen" in report.outage for report in reports] == [False, True, False]
    await set_frozen(databases, settings, 1, frozen=True)  # said twice
    for _ in range(2):
        await set_frozen(databases, settings, 1, frozen=False)
    await frozen.ping_shard(1)
    await room.create()
    rows = mariadb_backend.server.sql(f"SELECT * FROM {settings.shards[0].database}.chat_messages")  # type: ignore[union-attr]
    assert len(rows) == 1


async def test_when_the_fence_stands_no_write_is_under_way(
    mariadb_backend: DatabaseBackend,
) -> None:
    await apply(mariadb_backend, mariadb_backend.settings)
    server, shard = mariadb_backend.server, mariadb_backend.settings.shards[0].database
    assert server is not None
    async with running_database(mariadb_backend) as database:
        room, written = Room(database), 0

        async def write() -> None:
            nonlocal written
            while True:
                await room.save(written + 1)
                written += 1

        writing = asyncio.create_task(write())
        await until(lambda: written > 20)
        await set_frozen(mariadb_backend.databases(), mariadb_backend.settings, 1, frozen=True)
        (count,) = server.sql(f"SELECT COUNT(*) AS n FROM {shard}.chat_messages__fenced")
        with pytest.raises(ServiceUnavailable):
            await writing
        assert server.sql(f"SELECT COUNT(*) AS n FROM {shard}.chat_messages__fenced") == [count]
        assert count["n"] == written


async def test_a_file_needs_no_fence(shared_sqlite: DatabaseBackend) -> None:
    with pytest.raises(ServiceError, match="it is a file"):
        await set_frozen(shared_sqlite.databases(), shared_sqlite.settings, 1, frozen=True)
