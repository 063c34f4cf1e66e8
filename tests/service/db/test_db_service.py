"""DatabaseService itself: façade, unknown names, cancelled callers, wrong parameters."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
import structlog

from base_server.service.core.errors import NotDeployed, ServiceError, ServiceNotRunning
from base_server.service.db.database_service import DatabaseService
from tests.backends_mariadb import DatabaseBackend
from tests.database_rows import Room, new_key
from tests.waiting import until


async def test_the_class_speaks_to_the_installed_instance(database: DatabaseService) -> None:
    with pytest.raises(ServiceNotRunning):
        DatabaseService.call_global_procedure("fp_shards_get")
    database.install()
    try:
        assert len(await DatabaseService.call_global_procedure("fp_shards_get")) == 2
        assert (
            await DatabaseService.call_shard_procedure(1, "fp_chat_rooms_get", (new_key(),)) == []
        )
        await DatabaseService.ping_shard(2)
        await DatabaseService.ping_global()
    finally:
        database.uninstall()


async def test_an_unknown_shard_is_said_with_the_mend(database: DatabaseService) -> None:
    with pytest.raises(
        NotDeployed, match=r"no shard 99; known are \[1, 2\].*databaseConfig\.shards.* db apply"
    ):
        await database.call_shard_procedure(99, "fp_chat_rooms_get", (1,))


async def test_unknown_procedure_names_its_fix_and_blames_no_data(
    database: DatabaseService,
) -> None:
    """An unknown procedure is reported with the fix and is not the datas fault."""
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(NotDeployed, match=r"fp_none.* db apply"):
            await database.call_global_procedure("fp_none")
        with pytest.raises(NotDeployed, match=r"fp_none.* db apply"):
            await database.call_shard_procedure(1, "fp_none")
    assert [line["procedure"] for line in logs if line["log_level"] == "error"] == ["fp_none"] * 2


@pytest.mark.parametrize("params", [(), (1, 2)])
async def test_a_wrong_number_of_parameters_is_an_error(
    database: DatabaseService, params: tuple[int, ...]
) -> None:
    with pytest.raises(ServiceError):
        await database.call_shard_procedure(1, "fp_chat_rooms_get", params)


async def test_values_that_no_database_takes_are_mistakes_of_the_caller(
    database: DatabaseService,
) -> None:
    for value, error in (([1], TypeError), (datetime(2026, 1, 1), ValueError)):
        with pytest.raises(error):
            await database.call_shard_procedure(1, "fp_chat_seq_before", ("room", value))


async def test_a_call_goes_on_when_its_caller_is_cancelled(database: DatabaseService) -> None:
    room = Room(database)
    await room.create()
    callers = [asyncio.create_task(room.save(seq)) for seq in range(1, 21)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    assert all(
        isinstance(e, asyncio.CancelledError)
        for e in await asyncio.gather(*callers, return_exceptions=True)
    )

    async def is_complete() -> bool:
        return bool((await room.get())["message_count"] == 20)

    await until(is_complete)


async def test_calls_are_counted(database: DatabaseService) -> None:
    before = database.calls
    await Room(database).create()
    assert database.calls == before + 1


async def test_stopping_waits_for_running_calls(database_backend: DatabaseBackend) -> None:
    service = database_backend.service()
    await service.start()
    room = Room(service)
    saves = [asyncio.create_task(room.save(seq)) for seq in range(1, 11)]
    await asyncio.sleep(0)
    await service.stop()
    assert await asyncio.gather(*saves) == [None] * 10
    with pytest.raises(ServiceError, match="not started"):
        await service.call_global_procedure("fp_shards_get")
    await service.stop()
