"""MySQL in trouble: killed connections, a server that stops answering, restarts, cancelled
callers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pymysql
import pytest

from base_server.service.core.errors import DataRefused, OutcomeUnknown, ServiceUnavailable
from base_server.service.db.database_service import DatabaseService
from base_server.service.db.databases import apply_all
from base_server.service.db.mysql_database import MySqlDatabase
from tests.backends_mariadb import (
    DatabaseBackend,
    MariaDbServer,
    mariadb_settings,
    running_database,
)
from tests.database_rows import SHARD, Room, new_id
from tests.open_files import open_files
from tests.waiting import until

TIMEOUT_S = 1.0
"""Of what a test wants to fail by the time-out; all else may take as long as a test waits
(``hurried``)."""


@pytest.fixture
def server(private_mariadb: DatabaseBackend) -> MariaDbServer:
    assert private_mariadb.server is not None
    return private_mariadb.server


@pytest.fixture
async def database(private_mariadb: DatabaseBackend) -> AsyncIterator[DatabaseService]:
    async with running_database(private_mariadb, pool_size=4) as service:
        yield service


@contextmanager
def hurried(
    database: DatabaseService, timeout_s: float = TIMEOUT_S, *, pool_timeout_s: float | None = None
) -> Iterator[None]:
    """The shard's calls have ``timeout_s``, also those on connections that are open already."""
    shard = database._shards[SHARD]
    assert isinstance(shard, MySqlDatabase)
    before = shard._timeout_s
    shard._timeout_s, shard.pool._timeout_s = timeout_s, pool_timeout_s or timeout_s
    yield
    shard._timeout_s = shard.pool._timeout_s = before


def pool(database: DatabaseService) -> Any:
    shard = database._shards[SHARD]
    assert isinstance(shard, MySqlDatabase)
    return shard.pool


def connections(server: MariaDbServer) -> list[dict[str, Any]]:
    return [
        row for row in server.sql("SHOW PROCESSLIST") if row["db"] and row["Command"] != "Killed"
    ]


def add_procedure(server: MariaDbServer, database: DatabaseService, body: str) -> str:
    """A procedure of a host: one that is not in our scripts."""
    shard = database._shards[SHARD]
    assert isinstance(shard, MySqlDatabase)
    name = new_id("host").replace("-", "_")
    server.sql(f"CREATE PROCEDURE {shard._target.database}.{name}() {body}")
    return name


async def fill(room: Room, count: int = 4) -> None:
    """Open ``count`` pooled connections by calling at once."""
    await asyncio.gather(*(room.window() for _ in range(count)))


async def test_killed_idle_connections_are_not_noticed(
    database: DatabaseService, server: MariaDbServer
) -> None:
    room = Room(database)
    await fill(room)
    for row in connections(server):
        server.sql(f"KILL {row['Id']}")
    await asyncio.gather(*(room.save(seq) for seq in range(1, 9)))
    assert (len(await room.window()), pool(database).in_use) == (8, 0)


async def test_a_call_killed_in_the_middle_is_repeated_if_it_is_ours(
    database: DatabaseService, server: MariaDbServer
) -> None:
    room = Room(database)
    await room.create()
    with _held_room(server, database, room):
        save = asyncio.create_task(room.save(1))
        await until(lambda: _waiting(server))
        server.sql(f"KILL {_waiting(server)[0]['Id']}")
        await until(lambda: _waiting(server), what="the second attempt")
    await save
    assert (await room.get())["message_count"] == 1


async def test_a_hosts_procedure_is_sent_once(
    database: DatabaseService, server: MariaDbServer
) -> None:
    name = add_procedure(server, database, "BEGIN DO SLEEP(3600); SELECT 1 AS one; END")
    call = asyncio.create_task(database.call_shard_procedure(SHARD, name))
    await until(lambda: _sleeping(server))
    server.sql(f"KILL {_sleeping(server)[0]['Id']}")
    with pytest.raises(OutcomeUnknown):
        await call
    assert pool(database).in_use == 0
    assert _sleeping(server) == []


async def test_a_call_that_lasts_too_long_is_unknown_and_its_connection_gone(
    database: DatabaseService, server: MariaDbServer
) -> None:
    name = add_procedure(server, database, "BEGIN DO SLEEP(3600); SELECT 1 AS one; END")
    with hurried(database):

        async def connected() -> bool:
            with suppress(ServiceUnavailable):  # a busy machine may need longer than the time-out
                return await Room(database).window() == []
            return False

        await until(connected)
        with pytest.raises(OutcomeUnknown):
            await database.call_shard_procedure(SHARD, name)
    assert (pool(database).in_use, pool(database).idle) == (0, 0)
    await until(lambda: not _sleeping(server), what="the server ends it too (max_statement_time)")
    assert await Room(database).window() == []


async def test_no_free_connection_is_unavailable(
    database: DatabaseService, server: MariaDbServer
) -> None:
    name = add_procedure(server, database, "BEGIN DO SLEEP(3600); SELECT 1 AS one; END")
    await fill(Room(database))
    with hurried(database, pool_timeout_s=TIMEOUT_S / 4):
        calls = [asyncio.create_task(database.call_shard_procedure(SHARD, name)) for _ in range(8)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, ServiceUnavailable) for error in errors)
    assert any("all connections are busy" in str(error) for error in errors)
    assert pool(database).in_use == 0
    assert await Room(database).window() == []


async def test_a_paused_server_costs_the_deadline_and_nothing_else(
    database: DatabaseService, server: MariaDbServer
) -> None:
    room = Room(database)
    await room.create()
    server.pause()
    try:
        with hurried(database):
            for expected in (
                OutcomeUnknown,
                ServiceUnavailable,
            ):  # sent on the open connection, then: cannot connect
                with pytest.raises(ServiceUnavailable) as raised:
                    await room.save(1)
                assert type(raised.value) is expected
            errors = await asyncio.gather(
                *(room.save(seq) for seq in range(2, 20)), return_exceptions=True
            )
        assert all(isinstance(error, ServiceUnavailable) for error in errors)
    finally:
        server.resume()
    assert pool(database).in_use == 0
    await asyncio.gather(*(room.save(seq) for seq in range(1, 20)))
    assert (await room.get())["message_count"] == 19


async def test_what_could_not_be_opened_in_time_is_closed(
    database: DatabaseService, server: MariaDbServer
) -> None:
    server.pause()
    try:
        before = open_files()
        with hurried(database):
            errors = await asyncio.gather(
                *(Room(database).window() for _ in range(4)), return_exceptions=True
            )
        assert all("does not answer" in str(error) for error in errors), errors
        # Here an error's traceback still holds what was begun: nothing was closed by the garbage
        # collector.
        await until(lambda: open_files() == before)
    finally:
        server.resume()


async def test_a_restart_is_an_outage_and_then_over(
    database: DatabaseService, server: MariaDbServer
) -> None:
    room = Room(database)
    await room.create()
    await fill(room)
    server.kill()
    for _ in range(6):
        with pytest.raises(ServiceUnavailable):
            await room.save(1)
    with pytest.raises(ServiceUnavailable):
        await database.ping_shard(SHARD)
    with pytest.raises(ServiceUnavailable):
        await database.ping_global()
    server.start()
    await asyncio.gather(*(room.save(seq) for seq in range(1, 9)))
    await database.ping_shard(SHARD)
    assert (await room.get())["message_count"] == 8


async def test_what_was_answered_is_there_after_the_server_was_killed(
    database: DatabaseService, server: MariaDbServer
) -> None:
    room = Room(database)
    await room.create()
    answered: set[int] = set()

    async def write(seq: int) -> None:
        await room.save(seq)
        answered.add(seq)

    writers = [asyncio.create_task(write(seq)) for seq in range(1, 400)]
    await until(lambda: len(answered) > 20)
    server.kill()
    await asyncio.gather(*writers, return_exceptions=True)
    server.start()
    stored = {row["seq"] for row in await room.window(1000)}
    assert answered <= stored
    await room.save(*range(1, 400))
    row = await room.get()
    assert (row["message_count"], row["last_seq"]) == (399, 399)


async def test_a_lock_held_elsewhere_ends_in_an_outage_and_no_half_call(
    database: DatabaseService, server: MariaDbServer
) -> None:
    room = Room(database)
    await room.create()
    for connection, _ in pool(
        database
    )._idle:  # they would wait for locks as long as they were opened to
        connection.discard()
    pool(database)._idle.clear()
    with _held_room(server, database, room), hurried(database):
        with pytest.raises(ServiceUnavailable):
            await room.save(1, 2)
        await until(
            lambda: not _waiting(server), what="the server ends it too, while the lock is held"
        )
    assert await room.window() == []
    await room.save(1, 2)
    assert (await room.get())["message_count"] == 2


async def test_writers_of_other_rooms_neither_wait_nor_deadlock(
    database: DatabaseService, server: MariaDbServer
) -> None:
    """Rooms and messages are found by their keys only: a scan would lock, and wait for, what is
    another room's."""
    held, room = Room(database), Room(database)
    await held.create()
    await held.save(1, 2, 3)
    await held.delete(3)
    title = {
        "room_id": room.room_id,
        "account_db_key": room.account_db_key,
        "title": "x",
        "title_version": 1,
    }
    with _held_room(server, database, held):
        await room.batch("fp_chat_room_batch_create", room.row())
        await room.save(1, 2, 3)
        await room.call("fp_chat_message_save", *room.message(4).values())
        await room.batch("fp_chat_room_batch_update_title", title)
        await room.call("fp_chat_room_update_title", *(title | {"title_version": 2}).values())
        await room.delete(1, 9)
        await room.call("fp_chat_message_soft_delete", *room.tombstone(2).values())
        await room.batch(
            "fp_chat_room_batch_soft_delete", {k: title[k] for k in ("room_id", "account_db_key")}
        )
    rooms = [Room(database) for _ in range(4)]
    rows = [each.message(seq) for seq in range(1, 20) for each in rooms]
    deletes = [each.tombstone(seq) for seq in (3, 7, 40) for each in rooms]
    await asyncio.gather(
        *(room.batch("fp_chat_message_batch_save", *rows[n % 3 :: 1 + n % 2]) for n in range(9)),
        *(room.batch("fp_chat_message_batch_save", *reversed(rows)) for _ in range(4)),
        *(room.batch("fp_chat_message_batch_soft_delete", *deletes) for _ in range(4)),
        *(
            room.batch("fp_chat_room_batch_create", *[each.row() for each in reversed(rooms)])
            for _ in range(4)
        ),
        return_exceptions=True,  # this many at once on four connections: some may find none in time
    )
    assert server.sql("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")[0]["Value"] == "0"


async def test_a_deadlock_is_tried_again(
    private_mariadb: DatabaseBackend, server: MariaDbServer
) -> None:
    async with running_database(private_mariadb) as database:
        first, second = sorted([Room(database), Room(database)], key=lambda room: room.room_id)
        for room in (first, second):
            await room.create()
        with _held_room(server, database, second) as rival:
            # more changes than ours: the server gives up the lighter of two
            rival.execute("INSERT INTO chat_rooms SELECT UUID(), 0, REPEAT('x', 200), 0, '', created_at, created_at, "
                          "0, 0, 0, NULL, NULL FROM chat_rooms")  # fmt: skip
            save = asyncio.create_task(
                first.batch("fp_chat_message_batch_save", first.message(1), second.message(1))
            )
            await until(lambda: _waiting(server))
            rival.execute(
                "SELECT 1 FROM chat_rooms WHERE room_id = %s FOR UPDATE", (first.room_id,)
            )
            assert server.sql("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")[0]["Value"] == "1"
        await save
        assert [len(await room.window()) for room in (first, second)] == [1, 1]


async def test_a_storm_of_cancelled_callers_gives_nobody_anothers_rows(
    database: DatabaseService, server: MariaDbServer
) -> None:
    rooms = [Room(database) for _ in range(8)]
    for room in rooms:
        await room.create()
        await room.save(1)
    order = random.Random(1)
    wrong = answers = 0

    async def read(room: Room) -> None:
        nonlocal wrong, answers
        rows = await room.window()
        answers += 1
        wrong += [row["message_id"] for row in rows] != [room.message(1)["message_id"]]

    for _ in range(30):
        readers = [asyncio.create_task(read(order.choice(rooms))) for _ in range(20)]
        await asyncio.sleep(order.uniform(0, 0.004))
        for reader in order.sample(readers, 14):
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    assert (wrong, answers > 100) == (0, True)
    await until(lambda: pool(database).in_use == 0)
    assert len(connections(server)) <= 3 * 4


async def test_a_deadline_in_a_storm_gives_nobody_anothers_rows(
    database: DatabaseService, server: MariaDbServer
) -> None:
    """Calls that are given up on close their connection: their answers reach nobody."""
    name = add_procedure(
        server, database, "BEGIN DO SLEEP(RAND() * 0.06); SELECT 'late' AS message_id; END"
    )
    room = Room(database)
    await fill(room)

    async def late() -> str:
        return str((await database.call_shard_procedure(SHARD, name))[0]["message_id"])

    async def find() -> str:
        return str(await room.window())

    with hurried(database, 0.05):
        calls = [late() if n % 2 else find() for n in range(200)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {answer for answer in answers[1::2] if isinstance(answer, str)} <= {"late"}
    assert {answer for answer in answers[0::2] if isinstance(answer, str)} <= {"[]"}
    assert all(isinstance(a, str | ServiceUnavailable) for a in answers)


async def test_a_server_that_is_read_only_or_full_is_an_outage(
    mariadb_backend: DatabaseBackend,
) -> None:
    server = mariadb_backend.server
    assert server is not None
    await apply_all(mariadb_backend.databases(), mariadb_backend.settings)
    user = new_id("u")[:20].replace("-", "")
    server.sql(f"CREATE USER {user}@'%'")
    for name in (
        mariadb_backend.settings.database,
        *(s.database for s in mariadb_backend.settings.shards),
    ):
        server.sql(f"GRANT ALL ON {name}.* TO {user}@'%'")
        for row in server.sql(
            f"SHOW PROCEDURE STATUS WHERE Db = '{name}'"
        ):  # they run as who made them
            server.sql(f"ALTER PROCEDURE {name}.{row['Name']} SQL SECURITY INVOKER")
    async with running_database(mariadb_backend, user=user) as database:
        room = Room(database)
        await room.create()
        server.sql("SET GLOBAL read_only = 1")
        try:
            with pytest.raises(ServiceUnavailable, match="1290"):
                await room.save(1)
        finally:
            server.sql("SET GLOBAL read_only = 0")
        await room.save(1)


async def test_a_shard_that_is_away_does_not_stop_the_start(
    mariadb_backend: DatabaseBackend,
) -> None:
    assert mariadb_backend.server is not None
    await apply_all(mariadb_backend.databases(), mariadb_backend.settings)
    first, second = (shard.model_dump() for shard in mariadb_backend.settings.shards)
    async with running_database(mariadb_backend, shards=[first, second | {"port": 1}]) as database:
        assert await database.call_shard_procedure(1, "fp_chat_rooms_get", (1,)) == []
        with pytest.raises(ServiceUnavailable):
            await database.call_shard_procedure(2, "fp_chat_rooms_get", (1,))


async def test_a_shard_without_its_scripts_serves_no_call(mariadb_backend: DatabaseBackend) -> None:
    await apply_all(mariadb_backend.databases(), mariadb_backend.settings)
    async with running_database(mariadb_backend) as database:
        unapplied = mariadb_settings(mariadb_backend.server).shards[0].database  # type: ignore[arg-type]
        await database.call_global_procedure("fp_shard_register", (3, unapplied, None, None))
        with pytest.raises(ServiceUnavailable, match="scripts are not applied"):
            await database.call_shard_procedure(3, "fp_chat_rooms_get", (1,))


async def test_a_call_larger_than_the_server_takes_is_refused(database: DatabaseService) -> None:
    with pytest.raises(DataRefused) as raised:
        await Room(database).call("fp_chat_message_batch_save", "[" + " " * 17_000_000 + "]")
    assert raised.value.errno == 1153


async def test_signals_of_a_hosts_procedure_are_refusals(
    database: DatabaseService, server: MariaDbServer
) -> None:
    for number, signal in (
        (31001, "SET MYSQL_ERRNO = 31001, MESSAGE_TEXT = '안 돼요'"),
        (1644, "SET MESSAGE_TEXT = 'no'"),
    ):
        name = add_procedure(server, database, f"SIGNAL SQLSTATE '45000' {signal}")
        with pytest.raises(DataRefused) as raised:
            await database.call_shard_procedure(SHARD, name)
        assert raised.value.errno == number


async def test_all_result_sets_are_read_and_the_last_is_answered(
    database: DatabaseService, server: MariaDbServer
) -> None:
    body = (
        "BEGIN SELECT 1 AS a; SELECT 2 AS b UNION SELECT 3; DO 1; SELECT '12x' + 0 AS c; DO 1; END"
    )
    name = add_procedure(server, database, body)
    for _ in range(5):
        assert await database.call_shard_procedure(SHARD, name) == [{"c": 12.0}]
        assert await Room(database).window() == []


class _held_room:  # noqa: N801 - a context manager, named as one
    """The room's row and messages locked by somebody else, with whose cursor one can go on."""

    def __init__(self, server: MariaDbServer, database: DatabaseService, room: Room) -> None:
        shard = database._shards[SHARD]
        assert isinstance(shard, MySqlDatabase)
        self._client = pymysql.connect(
            host="127.0.0.1", port=server.port, user="root", db=shard._target.database
        )
        self._room_id = room.room_id

    def __enter__(self) -> pymysql.cursors.Cursor:
        self._client.query("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        self._client.begin()
        cursor = self._client.cursor()
        for table in ("chat_rooms", "chat_messages"):
            cursor.execute(f"SELECT 1 FROM {table} WHERE room_id = %s FOR UPDATE", (self._room_id,))
        return cursor

    def __exit__(self, *_: object) -> None:
        self._client.rollback()
        self._client.close()


def _waiting(server: MariaDbServer) -> list[dict[str, Any]]:
    """Connections inside a statement of one of our procedures."""
    return [row for row in connections(server) if row["Info"] and "chat_rooms" in row["Info"]]


def _sleeping(server: MariaDbServer) -> list[dict[str, Any]]:
    return [row for row in connections(server) if row["Info"] and "SLEEP" in row["Info"]]
