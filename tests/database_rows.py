"""Rows for the database tests, with ids of their own so that tests can share a database."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from base_server.service.db.database_service import DatabaseService
from base_server.service.db.values import Row

SHARD = 1
START = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
"""The time of message 0; message n comes n seconds later."""


def new_id(prefix: str = "id") -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def new_key() -> int:
    """An account_db_key that no other test has."""
    return random.randrange(1, 2**52)


def time_text(seq: int) -> str:
    return (START + timedelta(seconds=seq)).strftime("%Y-%m-%d %H:%M:%S.%f")[:23]


def batch_json(name: str, rows: Sequence[Row], **options: Any) -> str:
    """``rows`` as the bulk procedure ``name`` takes them: messages to save as arrays, all others as
    objects."""
    is_save = name == "fp_chat_message_batch_save"
    return json.dumps(
        [list(row.values()) if is_save else row for row in rows],
        **{"ensure_ascii": False} | options,
    )


class Room:
    """One room of one account, and calls on it in the shortest form."""

    def __init__(self, database: DatabaseService) -> None:
        self.database = database
        self.room_id = new_id("room")
        self.account_db_key = new_key()

    def row(self, **changes: Any) -> Row:
        """The room as the create procedures take it."""
        row = {
            "room_id": self.room_id, "account_db_key": self.account_db_key, "title": "방 🏠", "ai_persona": "GPT4O",
            "created_at": time_text(0), "client_request_id": None, "request_hash": None,
        }  # fmt: skip
        return row | changes

    def message(self, seq: int, **changes: Any) -> Row:
        """Message ``seq`` of the room as the save procedures take it; the same each time it is
        asked for."""
        row = {
            "message_id": f"{self.room_id[5:]}.{seq}", "room_id": self.room_id,
            "account_db_key": self.account_db_key, "seq": seq, "sender_type": "USER" if seq % 2 else "AI",
            "content": f"message {seq}", "parent_message_id": None, "metadata": '{"ai_persona": "GPT4O"}',
            "created_at": time_text(seq), "client_message_id": None, "body_hash": None,
        }  # fmt: skip
        return row | changes

    def tombstone(self, seq: int) -> Row:
        """Message ``seq`` as the delete procedures take it."""
        message = self.message(seq)
        return {name: message[name] for name in ("message_id", "room_id", "account_db_key", "seq")}

    async def call(self, name: str, *params: Any) -> list[Row]:
        return await self.database.call_shard_procedure(SHARD, name, params)

    async def batch(self, name: str, *rows: Row) -> list[Row]:
        return await self.call(name, batch_json(name, rows))

    async def create(self, **changes: Any) -> None:
        await self.call("fp_chat_room_create", *self.row(**changes).values())

    async def save(self, *seqs: int) -> None:
        await self.batch("fp_chat_message_batch_save", *[self.message(seq) for seq in seqs])

    async def delete(self, *seqs: int) -> None:
        await self.batch(
            "fp_chat_message_batch_soft_delete", *[self.tombstone(seq) for seq in seqs]
        )

    async def get(self) -> Row:
        """The room's row, which must be there."""
        return (await self.call("fp_chat_room_get", self.room_id))[0]

    async def window(self, count: int = 200) -> list[Row]:
        return await self.call("fp_chat_window_get", self.room_id, count)
