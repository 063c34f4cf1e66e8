"""Applying the scripts, and refusing to serve when they are not applied."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from base_server.service.core.errors import StartError
from base_server.service.db import schema
from base_server.service.db.database_service import DatabaseService
from base_server.service.db.databases import Databases, ShardAddress, apply_all, read_all_status
from base_server.service.db.schema import ScriptState
from tests.backends_mariadb import SCRIPTS_DIR, DatabaseBackend, mariadb_settings


@pytest.fixture
def backend(fresh_database_backend: DatabaseBackend) -> DatabaseBackend:
    return fresh_database_backend


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A copy of db_scripts that the test may change."""
    shutil.copytree(SCRIPTS_DIR, tmp_path / "db_scripts")
    return tmp_path / "db_scripts"


def databases(backend: DatabaseBackend, scripts: Path) -> Databases:
    return Databases(backend.settings, data_dir=backend.data_dir, scripts_dir=scripts)


def one(scripts: Path, backend: DatabaseBackend, name: str) -> Path:
    dialect = "sqlite" if backend.server is None else "mysql"
    return scripts / dialect / "shard" / f"{name}.sql"


async def test_applying_makes_all_databases_and_registers_the_shards(
    backend: DatabaseBackend,
) -> None:
    tools = backend.databases()
    before = await read_all_status(tools, backend.settings)
    assert {state for status in before for state in status.states.values()} == {ScriptState.PENDING}
    applied = await apply_all(tools, backend.settings)
    shard, whole = len(tools.shard_scripts.scripts), len(tools.global_scripts.scripts)
    assert [len(done.names) for done in applied] == [shard, shard, whole]
    assert all(status.is_current for status in await read_all_status(tools, backend.settings))
    assert [done.names for done in await apply_all(tools, backend.settings)] == [[], [], []]
    service = backend.service()
    await service.start()
    assert service.shard_ids == [1, 2]
    await service.stop()


async def test_two_that_apply_at_once_do_not_disturb_each_other(backend: DatabaseBackend) -> None:
    await asyncio.gather(*(apply_all(backend.databases(), backend.settings) for _ in range(3)))
    assert all(
        status.is_current for status in await read_all_status(backend.databases(), backend.settings)
    )


async def test_a_changed_procedure_is_replaced(backend: DatabaseBackend, scripts: Path) -> None:
    await apply_all(databases(backend, scripts), backend.settings)
    path = one(scripts, backend, "procedures/fp_chat_message_find")
    path.write_text(
        path.read_text().replace("sender_type, deleted\nFROM", "sender_type, 7 AS deleted\nFROM")
    )
    tools = databases(backend, scripts)
    _, shard, _ = await read_all_status(tools, backend.settings)
    assert shard.names(ScriptState.OUTDATED) == ["procedures/fp_chat_message_find"]
    done = await apply_all(tools, backend.settings)
    assert [names.names for names in done] == [["procedures/fp_chat_message_find"]] * 2 + [[]]
    service = DatabaseService(backend.settings, backend.data_dir, scripts)
    await service.start()
    message = ("m", "r", 1, 1, "USER", "", None, None, "2026-01-01 00:00:00.000", None, None)
    await service.call_shard_procedure(1, "fp_chat_message_save", message)
    assert (await service.call_shard_procedure(1, "fp_chat_message_find", ("r", "m")))[0][
        "deleted"
    ] == 7
    await service.stop()


async def test_a_changed_table_script_is_a_mistake(backend: DatabaseBackend, scripts: Path) -> None:
    await apply_all(databases(backend, scripts), backend.settings)
    path = one(scripts, backend, "tables/0001_chat_rooms")
    path.write_text(path.read_text() + "\n-- changed\n")
    with pytest.raises(StartError, match=r"tables/0001_chat_rooms changed after it was applied"):
        await apply_all(databases(backend, scripts), backend.settings)


async def test_a_database_of_a_newer_version_is_refused(
    backend: DatabaseBackend, scripts: Path
) -> None:
    new = one(scripts, backend, "tables/0003_more")
    new.write_text("CREATE TABLE more (a INT NOT NULL)" + (";" if backend.server is None else ""))
    await apply_all(databases(backend, scripts), backend.settings)
    new.unlink()
    with pytest.raises(
        StartError, match=r"tables/0003_more was applied by a newer version .*run that version, or"
    ):
        await apply_all(databases(backend, scripts), backend.settings)


CHANGED = "procedures/fp_chat_message_find"


def make_newer(scripts: Path, backend: DatabaseBackend) -> None:
    """Make ``scripts`` those of a version to come: with another procedure and the next number."""
    path = one(scripts, backend, CHANGED)
    path.write_text(
        path.read_text().replace("sender_type, deleted\nFROM", "sender_type, 7 AS deleted\nFROM")
    )
    (scripts / "VERSION").write_text(
        f"{int((scripts / 'VERSION').read_text().split()[0]) + 1} digest\n"
    )


async def found(service: DatabaseService) -> int:
    """What the changed procedure says; 7 is the newer one."""
    message = ("m", "r", 1, 1, "USER", "", None, None, "2026-01-01 00:00:00.000", None, None)
    await service.call_shard_procedure(1, "fp_chat_message_save", message)
    value: int = (await service.call_shard_procedure(1, "fp_chat_message_find", ("r", "m")))[0][
        "deleted"
    ]
    return value


async def test_older_version_is_refused_unless_it_is_a_downgrade(
    backend: DatabaseBackend, scripts: Path
) -> None:
    """cases/faults.md U7."""
    old, settings = backend.databases(), backend.settings
    await apply_all(old, settings)
    make_newer(scripts, backend)
    newer = databases(backend, scripts)
    assert [done.names for done in await apply_all(newer, settings)] == [[CHANGED], [CHANGED], []]
    refused = rf"a newer version was applied: .* {CHANGED} would .* put this version's .*: run it --downgrade"
    with pytest.raises(StartError, match=refused):
        await apply_all(old, settings, command="run it")
    assert all(status.is_current for status in await read_all_status(newer, settings))
    whole, shard, _ = await read_all_status(old, settings)
    assert (whole.is_current, bool(whole.newer_version)) == (True, True)
    assert shard.names(ScriptState.NEWER) == [CHANGED]
    done = await apply_all(old, settings, downgrade=True)
    assert [names.names for names in done] == [[CHANGED], [CHANGED], []]
    _, shard, _ = await read_all_status(old, settings)
    assert (shard.is_current, shard.newer_version) == (True, "")
    assert [done.names for done in await apply_all(newer, settings)] == [[CHANGED], [CHANGED], []]


async def test_older_version_that_waited_for_a_newer_one_is_refused(
    backend: DatabaseBackend, scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cases/faults.md U7: the older one looked before the newer one began, and gets the lock after
    it."""
    old, settings = backend.databases(), backend.settings
    make_newer(scripts, backend)
    newer = databases(backend, scripts)
    database = old.open_shard(ShardAddress.of(settings.shards[0]))
    before = await database.applied()

    async def looked_before() -> dict[str, str]:
        return before

    monkeypatch.setattr(database, "applied", looked_before)
    await apply_all(newer, settings)
    try:
        with pytest.raises(StartError, match="a newer version was applied"):
            await schema.apply(database, old.shard_scripts)
    finally:
        await database.close()
    assert all(status.is_current for status in await read_all_status(newer, settings))


async def test_older_version_changes_nothing_where_one_database_refuses(
    backend: DatabaseBackend, scripts: Path
) -> None:
    """cases/faults.md U7: a newer version's apply reached one shard only; the other one does not
    exist yet."""
    old, settings = backend.databases(), backend.settings
    make_newer(scripts, backend)
    newer = databases(backend, scripts)
    database = newer.open_shard(ShardAddress.of(settings.shards[1]))
    await schema.apply(database, newer.shard_scripts)
    await database.close()
    with pytest.raises(StartError, match="a newer version was applied"):
        await apply_all(old, settings)
    _, first, _ = await read_all_status(old, settings)
    assert set(first.states.values()) == {ScriptState.PENDING}


async def test_database_from_before_the_numbers_gets_one(
    backend: DatabaseBackend, scripts: Path
) -> None:
    """cases/faults.md U7: applied as ever, and refused to an older version from then on."""
    old, settings = backend.databases(), backend.settings
    await apply_all(old, settings)
    if backend.server is None:
        for name in (settings.database, *(shard.database for shard in settings.shards)):
            with closing(sqlite3.connect(backend.data_dir / "db" / f"{name}.sqlite3")) as file:
                file.execute("DELETE FROM schema_versions WHERE name = 'set/version'")
                file.commit()
    else:
        for name in (settings.database, *(shard.database for shard in settings.shards)):
            backend.server.sql(f"DELETE FROM {name}.schema_versions WHERE name = 'set/version'")
    assert [status.applied_version for status in await read_all_status(old, settings)] == [0, 0, 0]
    assert all(status.is_current for status in await read_all_status(old, settings))
    assert [done.names for done in await apply_all(old, settings)] == [[], [], []]
    version = old.shard_scripts.version
    assert [status.applied_version for status in await read_all_status(old, settings)] == [
        version
    ] * 3


async def test_processes_of_both_versions_serve_side_by_side(
    mariadb_backend: DatabaseBackend, scripts: Path
) -> None:
    """docs/upgrading.md: a running process goes on; an older one that starts is refused and changes
    nothing."""
    settings = mariadb_backend.settings
    await apply_all(mariadb_backend.databases(), settings)
    running = mariadb_backend.service()
    await running.start()
    make_newer(scripts, mariadb_backend)
    await apply_all(databases(mariadb_backend, scripts), settings)
    newer = DatabaseService(settings, mariadb_backend.data_dir, scripts)
    await newer.start()
    await running.refresh_shards()
    assert [await found(running), await found(newer)] == [7, 7]
    with pytest.raises(
        StartError, match=r"a newer version was applied: .* --env TEST db apply --downgrade"
    ):
        await DatabaseService(settings, mariadb_backend.data_dir, SCRIPTS_DIR, env="TEST").start()
    await apply_all(mariadb_backend.databases(), settings, downgrade=True)
    assert [await found(running), await found(newer)] == [0, 0]
    await running.stop()
    await newer.stop()


async def test_a_new_table_script_is_applied_alone(backend: DatabaseBackend, scripts: Path) -> None:
    await apply_all(databases(backend, scripts), backend.settings)
    new = one(scripts, backend, "tables/0003_more")
    new.write_text("CREATE TABLE more (a INT NOT NULL)" + (";" if backend.server is None else ""))
    done = await apply_all(databases(backend, scripts), backend.settings)
    assert [names.names for names in done] == [["tables/0003_more"], ["tables/0003_more"], []]


async def test_the_server_refuses_what_is_not_applied_and_names_the_command(
    mariadb_backend: DatabaseBackend, scripts: Path
) -> None:
    command = r"run: python -m application\.manage --env TEST db apply"
    with pytest.raises(StartError, match=f"_global on 127.0.0.1:.* not applied; {command}"):
        await mariadb_backend.service().start()
    await apply_all(mariadb_backend.databases(), mariadb_backend.settings)
    path = one(scripts, mariadb_backend, "procedures/fp_chat_message_find")
    path.write_text(path.read_text() + "\n")
    service = DatabaseService(mariadb_backend.settings, Path("/nonexistent"), scripts, env="TEST")
    with pytest.raises(
        StartError, match=f"_shard_1 on .*: 1 database scripts are not applied; {command}"
    ):
        await service.start()


async def test_a_global_database_without_shards_is_refused(
    mariadb_backend: DatabaseBackend,
) -> None:
    tools = mariadb_backend.databases()
    await schema.apply(tools.open_global(), tools.global_scripts)
    with pytest.raises(StartError, match="knows no shard"):
        await mariadb_backend.service().start()


async def test_a_server_that_is_not_there_is_a_start_error(
    mariadb_backend: DatabaseBackend,
) -> None:
    for changes, reason in (({"port": 1}, "2003"), ({"user": "nobody"}, "1045|1044|1698")):
        with pytest.raises(StartError, match=f"({reason}) .*check databaseConfig"):
            await mariadb_backend.service(**changes).start()


async def test_a_run_that_died_before_its_ledger_line_is_mended(
    mariadb_backend: DatabaseBackend,
) -> None:
    server, settings = mariadb_backend.server, mariadb_backend.settings
    assert server is not None
    await apply_all(mariadb_backend.databases(), settings)
    server.sql(
        f"DELETE FROM {settings.shards[0].database}.schema_versions WHERE name LIKE 'tables/%'"
    )
    done = await apply_all(mariadb_backend.databases(), settings)
    assert done[0].names == [
        "tables/0001_chat_rooms",
        "tables/0002_chat_messages",
        "tables/0003_stream_marks",
    ]


async def test_shards_may_stand_on_servers_and_users_of_their_own(
    mariadb_backend: DatabaseBackend,
) -> None:
    server = mariadb_backend.server
    assert server is not None
    settings = mariadb_settings(server)
    first = settings.shards[0].database
    server.sql(f"CREATE DATABASE {first} CHARACTER SET latin1")
    server.sql(f"GRANT ALL ON {first}.* TO shard_user@'%' IDENTIFIED BY 'geheim'")
    own = settings.shards[0].model_dump() | {
        "user": "shard_user",
        "password": "geheim",
        "host": "127.0.0.1",
    }
    changed = settings.model_copy(
        update={"shards": (type(settings.shards[0]).model_validate(own), settings.shards[1])}
    )
    backend = replace(mariadb_backend, settings=changed)
    await apply_all(backend.databases(), changed)
    service = backend.service()
    await service.start()
    message = ("m", "r", 1, 1, "USER", "한글 😀", None, None, "2026-01-01 00:00:00.000", None, None)
    await service.call_shard_procedure(1, "fp_chat_message_save", message)
    rows = await service.call_shard_procedure(1, "fp_chat_window_get", ("r", 1))
    assert rows[0]["content"] == "한글 😀", (
        "also in a database that was made with another character set"
    )
    await service.stop()
    assert "geheim" not in repr(changed)
