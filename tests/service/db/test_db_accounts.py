"""The global database behind the port: accounts, their shards, shared settings."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from base_server.service.core.errors import DataRefused, StartError
from base_server.service.db.database_service import DatabaseService
from base_server.service.db.databases import Databases, apply_all
from tests.backends_mariadb import SCRIPTS_DIR, DatabaseBackend, running_database
from tests.database_rows import new_id


async def create(
    database: DatabaseService, account_id: str, password_hash: str = "hash"
) -> dict[str, object]:
    params = (account_id, password_hash, "별명 😀", "a@example.com", "web")
    return (await database.call_global_procedure("fp_account_create", params))[0]


async def test_an_account_comes_back_with_its_shard(database: DatabaseService) -> None:
    account_id = new_id()
    made = await create(database, account_id)
    (account,) = await database.call_global_procedure("fp_account_get", (account_id,))
    created_at = account.pop("created_at")
    assert abs(datetime.now(UTC) - created_at) < timedelta(minutes=5)
    assert account == {
        "account_db_key": made["account_db_key"], "account_id": account_id, "password_hash": "hash",
        "nickname": "별명 😀", "email": "a@example.com", "platform_type": "web", "shard_id": made["shard_id"],
    }  # fmt: skip
    shard = await database.call_global_procedure("fp_account_shard_get", (made["account_db_key"],))
    assert shard == [{"shard_id": made["shard_id"]}]
    assert await database.call_global_procedure("fp_account_get", (account_id.upper(),)) == []
    assert await database.call_global_procedure("fp_account_shard_get", (-1,)) == []


async def test_an_existing_account_is_left_as_it_is(database: DatabaseService) -> None:
    account_id = new_id()
    first = await create(database, account_id, "first")
    assert first["created"] == 1
    assert await create(database, account_id, "second") == first | {"created": 0}
    assert await create(database, account_id, "first") == first, (
        "the call that made it may be repeated"
    )
    (account,) = await database.call_global_procedure("fp_account_get", (account_id,))
    assert account["password_hash"] == "first"


@pytest.mark.parametrize(
    "account_id", ["x" * 65, "계정", None], ids=["too long", "not ASCII", "none"]
)
async def test_a_bad_account_is_refused(database: DatabaseService, account_id: str) -> None:
    with pytest.raises(DataRefused):
        await create(database, account_id)


async def test_accounts_spread_over_the_active_shards(
    fresh_database_backend: DatabaseBackend,
) -> None:
    await apply_all(fresh_database_backend.databases(), fresh_database_backend.settings)
    async with running_database(fresh_database_backend) as database:
        assert (await create(database, "first"))["shard_id"] == 1
        assert (await create(database, "second"))["shard_id"] == 2
        assert (await create(database, "second", "again"))["shard_id"] == 2
        assert (await create(database, "third"))["shard_id"] == 1
        made = await asyncio.gather(*(create(database, f"account-{n}") for n in range(9)))
        assert Counter(row["shard_id"] for row in made) == {1: 4, 2: 5}
        same = await asyncio.gather(*(create(database, "same", f"hash-{n}") for n in range(6)))
        assert sorted(row["created"] for row in same) == [0, 0, 0, 0, 0, 1]  # type: ignore[type-var]
        assert len({(row["account_db_key"], row["shard_id"]) for row in same}) == 1
        shards = await database.call_global_procedure("fp_shards_get")
        assert [(row["shard_id"], row["active"]) for row in shards] == [(1, 1), (2, 1)]


async def test_account_keys_are_drawn_above_all_counted_ones(database: DatabaseService) -> None:
    """cases/faults.md U11: exact as a double, and nowhere near those that an earlier version
    counted."""
    keys = [int(str((await create(database, new_id()))["account_db_key"])) for _ in range(20)]
    assert all(2**52 <= key < 2**53 for key in keys)
    assert len({key // 2**40 for key in keys}) > 10, "spread over the whole range"


async def test_account_key_that_is_taken_is_drawn_again(
    fresh_database_backend: DatabaseBackend, tmp_path: Path
) -> None:
    """cases/faults.md U11: with eight keys to draw from, eight accounts have them all."""
    scripts = tmp_path / "few_keys"
    shutil.copytree(SCRIPTS_DIR, scripts)
    for file in scripts.glob("*/global/procedures/fp_account_create.sql"):
        file.write_text(
            file.read_text(encoding="utf-8").replace("& 4503599627370495", "& 7"), encoding="utf-8"
        )
    backend = fresh_database_backend
    await apply_all(
        Databases(backend.settings, data_dir=backend.data_dir, scripts_dir=scripts),
        backend.settings,
    )
    database = DatabaseService(backend.settings, backend.data_dir, scripts, env="TEST")
    await database.start()
    try:
        made = [await create(database, f"account-{n}") for n in range(8)]
        assert sorted(int(str(row["account_db_key"])) - 2**52 for row in made) == list(range(8))
        assert [row["created"] for row in made] == [1] * 8
        for n, row in enumerate(made):
            assert await create(database, f"account-{n}") == row | {"mark": 8}, (
                "a repeat finds its own"
            )
    finally:
        await database.stop()


async def test_mark_rises_with_each_signup_and_logout_and_never_falls(
    fresh_database_backend: DatabaseBackend,
) -> None:
    """cases/faults.md U11: what a database that comes back older is recognised by."""
    await apply_all(fresh_database_backend.databases(), fresh_database_backend.settings)
    async with running_database(fresh_database_backend) as database:

        async def mark(key: object = 0) -> dict[str, object]:
            return (await database.call_global_procedure("fp_mark_get", (key,)))[0]

        assert await mark() == {"number": 0, "generation": 0, "account_known": 0}
        first = await create(database, "first")
        assert first["mark"] == 1
        assert (await create(database, "first", "other"))["mark"] == 1, "nothing was stored"
        (ended,) = await database.call_global_procedure("fp_session_end", ("a" * 64, 60))
        assert ended["mark"] == 2
        assert await mark(first["account_db_key"]) == {
            "number": 2,
            "generation": 0,
            "account_known": 1,
        }
        await database.call_global_procedure("fp_mark_lift", (7, 1))
        await database.call_global_procedure("fp_mark_lift", (5, 0))
        assert await mark() == {"number": 7, "generation": 1, "account_known": 0}
        assert (await create(database, "second"))["mark"] == 8


async def test_a_registered_shard_is_found_without_a_restart(
    fresh_database_backend: DatabaseBackend,
) -> None:
    shards = fresh_database_backend.settings.shards
    await apply_all(fresh_database_backend.databases(), fresh_database_backend.settings)
    async with running_database(fresh_database_backend) as database:
        await database.call_global_procedure(
            "fp_shard_register", (7, shards[0].database, None, None)
        )
        await database.call_global_procedure(
            "fp_shard_register", (7, shards[1].database, None, None)
        )
        assert await database.call_shard_procedure(7, "fp_chat_rooms_get", (1,)) == []
        assert database.shard_ids == [1, 2, 7]


async def test_a_setting_is_claimed_once(fresh_database_backend: DatabaseBackend) -> None:
    await apply_all(fresh_database_backend.databases(), fresh_database_backend.settings)
    async with running_database(fresh_database_backend) as database:
        await database.claim_setting("queue_partitions", "16")
        await database.claim_setting("queue_partitions", "16")
        with pytest.raises(StartError, match=r"queue_partitions is 8 .* 16 in the global database"):
            await database.claim_setting("queue_partitions", "8")
        assert await database.call_global_procedure("fp_setting_claim", ("other", "값")) == [
            {"value": "값"}
        ]
