"""Which rows a procedure of MySQL looks at, and so locks, when it writes a batch: those of its
keys, never a scan."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pymysql
import pytest

from base_server.service.db.database_service import DatabaseService
from tests.backends_mariadb import SCRIPTS_DIR, DatabaseBackend, running_database
from tests.database_rows import Room

FOLDER = SCRIPTS_DIR / "mysql" / "shard" / "procedures"
KEYS = {"chat_rooms": "PRIMARY", "chat_messages": "chat_messages_by_id"}
JOINED = [
    (file, statement)
    for file in sorted(FOLDER.glob("*_batch_*.sql"))
    for statement in re.sub(r"^\s*--.*$", "", file.read_text(encoding="utf-8"), flags=re.M).split(
        ";"
    )
    if "STRAIGHT_JOIN" in statement
]


async def few_rows(database: DatabaseService) -> Room:
    """So few that a scan would look cheaper than an index."""
    room = Room(database)
    await room.create()
    await room.save(1, 2, 3)
    return room


@pytest.mark.parametrize(
    ("file", "statement"), JOINED, ids=lambda value: getattr(value, "stem", "")
)
async def test_a_batch_finds_its_rows_by_their_key(
    shared_mariadb: DatabaseBackend, file: Path, statement: str
) -> None:
    assert shared_mariadb.server is not None
    async with running_database(shared_mariadb) as database:
        room = await few_rows(database)
    row = room.row() | room.message(1) | {"version": 1, "title_version": 1}
    shard = shared_mariadb.settings.shards[0].database
    with (
        pymysql.connect(
            host="127.0.0.1", port=shared_mariadb.server.port, user="root", database=shard,
            cursorclass=pymysql.cursors.DictCursor,
        ) as client,
        client.cursor() as cursor,
    ):  # fmt: skip
        rows = client.escape(json.dumps([row]))
        cursor.execute("SET @p_rows = " + rows)
        explained = re.sub(r"\bp_rows\b", "@p_rows", statement.replace("INTO v_misplaced", ""))
        explained = re.sub(r"^\s*(IF .* THEN|ELSE)\n", "", explained)
        cursor.execute("EXPLAIN " + explained)
        plan = {line["table"]: (line["type"], line["key"]) for line in cursor.fetchall()}
    for table, alias in re.findall(r"STRAIGHT_JOIN (\w+) (\w)\b", statement):
        assert plan[alias] == ("eq_ref", KEYS[table]), f"{file.name}: {plan}"
