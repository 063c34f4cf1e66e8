"""The recipe of docs/operations.md for a failover that loses nothing, as MariaDB does it
(cases/faults.md U12)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pymysql
import pytest

from tests.backends_mariadb import MariaDbServer, PreparedMariaDb
from tests.waiting import until

RECIPE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def options_of_primary() -> list[str]:
    """The lines of the recipe as options of a server."""
    block = next(
        block
        for block in re.findall(r"```ini\n(.*?)```", RECIPE, re.DOTALL)
        if "rpl_semi_sync" in block
    )
    lines = dict(re.findall(r"^(\w+) = (\w+)$", block, re.MULTILINE))
    assert lines["rpl_semi_sync_master_wait_point"] == "AFTER_SYNC"
    # The name of a private server's log is its own.
    lines["log_bin"] = "b"
    return [f"--{name.replace('_', '-')}={value}" for name, value in lines.items()]


@pytest.fixture
def servers(prepared_mariadb: PreparedMariaDb) -> Iterator[tuple[MariaDbServer, MariaDbServer]]:
    """A primary and its replica."""
    assert "`rpl_semi_sync_slave_enabled = ON`, `read_only = ON`" in RECIPE
    primary, replica = (MariaDbServer(copy_of=prepared_mariadb.server) for _ in range(2))
    try:
        primary.start(*options_of_primary(), "--server-id=1")
        replica.start("--server-id=2", "--rpl-semi-sync-slave-enabled=ON", "--read-only=ON")
        replica.sql(
            f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port}, MASTER_USER='root',"
            " MASTER_LOG_FILE='b.000001', MASTER_LOG_POS=4"
        )
        replica.sql("START SLAVE")
        yield primary, replica
    finally:
        primary.remove()
        replica.remove()


def commit_until_it_dies(primary: MariaDbServer, acknowledged: list[int]) -> None:
    client = pymysql.connect(host="127.0.0.1", port=primary.port, user="root", autocommit=True)
    with suppress(pymysql.err.MySQLError), client.cursor() as cursor:
        for n in count(1):
            cursor.execute(f"INSERT INTO kept.rows_of_chat VALUES ({n})")
            acknowledged.append(n)


async def test_acknowledged_commits_are_on_the_replica_when_the_primary_dies(
    servers: tuple[MariaDbServer, MariaDbServer],
) -> None:
    """A commit waits for the replica, also when that is away for long; so SIGKILL of the primary
    loses none."""
    primary, replica = servers
    await until(
        lambda: _status(primary, "Rpl_semi_sync_master_clients") == "1",
        what="the replica acknowledges",
    )
    assert _status(primary, "Rpl_semi_sync_master_status") == "ON"
    primary.sql("CREATE DATABASE kept")
    primary.sql("CREATE TABLE kept.rows_of_chat (n INT PRIMARY KEY) ENGINE=InnoDB")
    acknowledged: list[int] = []
    committing = asyncio.create_task(asyncio.to_thread(commit_until_it_dies, primary, acknowledged))
    await until(lambda: len(acknowledged) >= 50)
    replica.pause()
    await until(lambda: _waits_for_replica(primary), what="a commit waits")
    waiting = len(acknowledged)
    assert _waits_for_replica(primary)
    # One acknowledgement may have been under way.
    assert len(acknowledged) <= waiting + 1
    replica.resume()
    await until(lambda: len(acknowledged) >= waiting + 50)
    await asyncio.to_thread(primary.kill)
    await committing
    await until(lambda: _has_applied_all(replica), what="what came is applied")
    for command in ("STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF"):
        replica.sql(command)
    rows = {row["n"] for row in replica.sql("SELECT n FROM kept.rows_of_chat")}
    assert set(acknowledged) <= rows
    # At most the commit that nobody was told of is there too.
    assert len(rows) - len(acknowledged) <= 1


def _status(server: MariaDbServer, name: str) -> str:
    return str(server.sql(f"SHOW GLOBAL STATUS LIKE '{name}'")[0]["Value"])


def _waits_for_replica(primary: MariaDbServer) -> bool:
    return any("semi-sync ACK" in (row["State"] or "") for row in primary.sql("SHOW PROCESSLIST"))


def _has_applied_all(replica: MariaDbServer) -> bool:
    (slave,) = replica.sql("SHOW SLAVE STATUS")
    return (
        bool(slave["Exec_Master_Log_Pos"] == slave["Read_Master_Log_Pos"])
        and slave["Slave_IO_Running"] != "Yes"
    )
