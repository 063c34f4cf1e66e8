"""What a call costs does not grow with the room or the account: rows that MariaDB's engine reads,
counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pymysql

from base_server.service.db.databases import apply_all
from base_server.service.db.scripts import load_scripts
from tests.backends_mariadb import SCRIPTS_DIR, DatabaseBackend, running_database
from tests.database_rows import Room, batch_json, new_id, time_text

MESSAGES, ROOMS = 4000, 600
# As many as it may read: a handful of rows, each looked up in an index or two, and the batch's own
# JSON.
FEW = 60
GROW = {
    "fp_chat_rooms_get": 2 * ROOMS
    + FEW,  # answers all rooms; bounded by chatConfig.max_rooms_per_account
    "fp_chat_rooms_page": ROOMS
    + FEW,  # counts all rooms, in the index alone; asked only while Redis is away
}


@dataclass
class Crowd:
    """A room of MESSAGES messages, one of many rooms of its account."""

    room: Room
    connection: pymysql.Connection[Any]

    def reads(self, name: str, params: Sequence[object]) -> int:
        """Rows that the engine read for one call, by key or not."""
        before = self._counted()
        with self.connection.cursor() as cursor:
            cursor.execute(f"CALL {name}({', '.join(['%s'] * len(params))})", tuple(params))
            while cursor.nextset():
                pass
        return self._counted() - before

    def _counted(self) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(row["Value"]) for row in cursor.fetchall())


async def filled(backend: DatabaseBackend) -> Crowd:
    await apply_all(backend.databases(), backend.settings)
    assert backend.server is not None
    async with running_database(backend) as database:
        room = Room(database)
        rows = [
            room.row(room_id=new_id("room"), client_request_id=new_id()) for _ in range(ROOMS - 1)
        ]
        await room.batch("fp_chat_room_batch_create", room.row(client_request_id=new_id()), *rows)
        for first in range(1, MESSAGES, 1000):
            messages = [room.message(seq, client_message_id=new_id() if seq % 2 else None)
                        for seq in range(first, first + 1000)]  # fmt: skip
            await room.batch("fp_chat_message_batch_save", *messages)
    backend.server.sql(f"ANALYZE TABLE {backend.settings.shards[0].database}.chat_messages")
    connection = pymysql.connect(
        host="127.0.0.1", port=backend.server.port, user="root", autocommit=True, charset="utf8mb4",
        database=backend.settings.shards[0].database, cursorclass=pymysql.cursors.DictCursor,
        init_command="SET NAMES utf8mb4 COLLATE utf8mb4_bin",
    )  # fmt: skip
    return Crowd(room, connection)


def calls(room: Room) -> Mapping[str, Sequence[object]]:
    """Every procedure of a shard, called in the middle of much."""
    middle, key = room.message(MESSAGES // 2), room.account_db_key
    fresh, other = room.message(MESSAGES + 1), room.message(MESSAGES + 2)
    title = {"room_id": room.room_id, "account_db_key": key, "title": "t", "title_version": 1}
    base = {"room_id": room.room_id, "account_db_key": key}
    made = room.row(room_id=new_id("room"))
    return {
        "fp_chat_client_id_latest": (room.room_id, ""),
        "fp_chat_message_batch_save": (batch_json("fp_chat_message_batch_save", [middle, fresh]),),
        "fp_chat_message_batch_soft_delete": (json.dumps([room.tombstone(MESSAGES // 2 + 1)]),),
        "fp_chat_message_find": (room.room_id, middle["message_id"]),
        "fp_chat_message_find_client": (room.room_id, middle["client_message_id"] or "none"),
        "fp_chat_message_locate": (middle["message_id"],),
        "fp_chat_message_save": tuple(other.values()),
        "fp_chat_message_soft_delete": tuple(room.tombstone(MESSAGES // 2).values()),
        "fp_chat_messages_get": (room.room_id, MESSAGES // 2, 20),
        "fp_chat_request_id_latest": (key,),
        "fp_chat_room_batch_create": (json.dumps([made]),),
        "fp_chat_room_batch_update_title": (json.dumps([title]),),
        "fp_chat_room_find_request": (key, "none"),
        "fp_chat_room_create": tuple(room.row(room_id=new_id("room")).values()),
        "fp_chat_room_get": (room.room_id,),
        "fp_chat_room_owner_get": (room.room_id,),
        "fp_chat_room_update_title": (room.room_id, key, "u", 2),
        "fp_chat_rooms_get": (key,),
        "fp_chat_rooms_page": (key, 0, 20),
        "fp_chat_seq_before": (room.room_id, time_text(MESSAGES // 2)),
        "fp_chat_window_get": (room.room_id, 20),
        "fp_stream_mark_raise": (1, 0, 1),
        "fp_stream_marks_get": (),
        "fp_chat_room_batch_soft_delete": (json.dumps([base | {"room_id": made["room_id"]}]),),
        "fp_chat_room_soft_delete": (made["room_id"], key),
    }


async def test_no_procedure_reads_more_of_a_large_room_or_account(
    mariadb_backend: DatabaseBackend,
) -> None:
    crowd = await filled(mariadb_backend)
    with crowd.connection:
        reads = {name: crowd.reads(name, params) for name, params in calls(crowd.room).items()}
    assert set(reads) == set(load_scripts(SCRIPTS_DIR, "mysql", "shard").procedures)
    assert {name: count for name, count in reads.items() if count > GROW.get(name, FEW)} == {}
    assert reads["fp_chat_rooms_page"] > FEW, "counts no more: put it among the others"
