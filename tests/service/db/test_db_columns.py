"""What the headers promise: every procedure that returns rows returns exactly the columns its
header names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from base_server.service.db.database_service import DatabaseService
from base_server.service.db.scripts import Kind, load_scripts
from tests.backends_mariadb import SCRIPTS_DIR
from tests.database_rows import SHARD, Room, new_id

RETURNING = {
    name
    for kind in ("global", "shard")
    for name, script in load_scripts(SCRIPTS_DIR, "sqlite", kind).procedures.items()  # type: ignore[arg-type]
    if script.header("returns")
}


TIME_ORDERED = "019ab000-0000-7000-8000-000000000000"
SESSION_HASH = "0" * 64


async def test_rows_have_the_columns_of_the_header(database: DatabaseService) -> None:
    room = Room(database)
    await room.create(client_request_id=TIME_ORDERED)
    question = room.message(1, client_message_id=TIME_ORDERED)
    await room.batch("fp_chat_message_batch_save", question)
    account_id = new_id()
    account = ("fp_account_create", (account_id, "hash", None, None, None))
    key = (await database.call_global_procedure(*account))[0]["account_db_key"]
    calls: dict[Kind, dict[str, Sequence[Any]]] = {
        "global": {
            account[0]: account[1], "fp_account_get": (account_id,), "fp_account_name_get": (key,),
            "fp_account_shard_get": (key,),
            "fp_shards_get": (), "fp_setting_claim": (new_id(), "value"),
            "fp_session_end": (SESSION_HASH, 60), "fp_session_ended_get": (SESSION_HASH,), "fp_mark_get": (key,),
        },
        "shard": {
            "fp_chat_rooms_get": (room.account_db_key,), "fp_chat_rooms_page": (room.account_db_key, 0, 1),
            "fp_chat_room_get": (room.room_id,), "fp_chat_room_owner_get": (room.room_id,),
            "fp_chat_room_find_request": (room.account_db_key, TIME_ORDERED),
            "fp_chat_window_get": (room.room_id, 1), "fp_chat_messages_get": (room.room_id, None, 1),
            "fp_chat_seq_before": (room.room_id, "2027-01-01 00:00:00.000000"),
            "fp_chat_message_find": (room.room_id, question["message_id"]),
            "fp_chat_message_find_client": (room.room_id, TIME_ORDERED),
            "fp_chat_message_locate": (question["message_id"],),
            "fp_chat_request_id_latest": (room.account_db_key,),
            "fp_chat_client_id_latest": (room.room_id, ""),
            "fp_chat_message_save": tuple(question.values()),
            "fp_stream_mark_raise": (1, 0, 1), "fp_stream_marks_get": (),
            "fp_chat_message_batch_save": (json.dumps([[*room.message(3).values(), 1, 0, 1]]),),
        },
    }  # fmt: skip
    assert {name for kind in calls.values() for name in kind} == RETURNING
    for kind, procedures in calls.items():
        scripts = load_scripts(SCRIPTS_DIR, "sqlite", kind).procedures
        for name, params in procedures.items():
            if kind == "global":
                rows = await database.call_global_procedure(name, params)
            else:
                rows = await database.call_shard_procedure(SHARD, name, params)
            assert tuple(rows[0]) == scripts[name].header("returns"), name
