"""The stored procedures that persistence calls on a shard, with their types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from base_server.template.chat.domain.events import (
    MESSAGE_COLUMNS,
    MESSAGE_DELETE,
    MESSAGE_SAVE,
    ROOM_CREATE,
    ROOM_DELETE,
    ROOM_UPDATE,
)
from base_server.template.chat.domain.ports import Row, ShardDatabase

_BULK = {
    ROOM_CREATE: "fp_chat_room_batch_create",
    MESSAGE_SAVE: "fp_chat_message_batch_save",
    ROOM_UPDATE: "fp_chat_room_batch_update_title",
    MESSAGE_DELETE: "fp_chat_message_batch_soft_delete",
    ROOM_DELETE: "fp_chat_room_batch_soft_delete",
}


class ShardProcedures:
    """Of one shard. Each call raises as ``DatabaseService.call_shard_procedure``."""

    def __init__(self, database: ShardDatabase, shard_id: int) -> None:
        self._database = database
        self._shard_id = shard_id

    async def find_room(self, room_id: str) -> Row | None:
        """The room's row, a deleted one too."""
        rows = await self._call("fp_chat_room_get", room_id)
        return rows[0] if rows else None

    async def find_room_owner(self, room_id: str) -> int | None:
        """The account_db_key of the room's account."""
        rows = await self._call("fp_chat_room_owner_get", room_id)
        return int(rows[0]["account_db_key"]) if rows else None

    async def find_message(self, message_id: str) -> tuple[str, int] | None:
        """The message's room and seq, a deleted message's too."""
        rows = await self._call("fp_chat_message_locate", message_id)
        return (rows[0]["room_id"], int(rows[0]["seq"])) if rows else None

    async def newest_messages(self, room_id: str, limit: int) -> list[Row]:
        """Tombstones of deleted messages are among them."""
        return await self._call("fp_chat_window_get", room_id, limit)

    async def visible_messages(self, room_id: str, before_seq: int, limit: int) -> list[Row]:
        return await self._call("fp_chat_messages_get", room_id, before_seq, limit)

    async def rooms(self, account_db_key: int) -> list[Row]:
        """The account's rooms, without the deleted ones."""
        return await self._call("fp_chat_rooms_get", account_db_key)

    async def latest_request_id(self, account_db_key: int) -> str:
        """The highest client_request_id that made a room of the account; '' for none."""
        rows = await self._call("fp_chat_request_id_latest", account_db_key)
        return rows[0]["client_request_id"] if rows else ""

    async def latest_client_id(self, room_id: str, after: str) -> str:
        """The highest client_message_id of the room above ``after``; '' for none."""
        rows = await self._call("fp_chat_client_id_latest", room_id, after)
        return rows[0]["client_message_id"] if rows else ""

    async def write_batch(self, kind: str, rows: Iterable[str]) -> list[Row]:
        """Write events of one kind, each row as JSON, in one transaction. Raises DataRefused when
        the database refuses one of them: then it has stored none."""
        return await self._call(_BULK[kind], f"[{','.join(rows)}]")

    async def save_message(self, row: Mapping[str, Any]) -> int:
        """Write one message; returns the seq that it has now, 0 when it stood in for a reply that
        has come meanwhile."""
        rows = await self._call("fp_chat_message_save", *(row[name] for name in MESSAGE_COLUMNS))
        return int(rows[0]["seq"])

    async def marks(self) -> dict[int, int]:
        """The mark of each event stream (its partition): how far it is written."""
        rows = await self._call("fp_stream_marks_get")
        return {int(row["stream"]): int(row["mark"]) for row in rows}

    async def raise_mark(self, partition: int, known: int, mark: int) -> int:
        """Raise a stream's mark to ``mark``, unless it is below ``known``: then it stays. Returns
        the mark as it is now."""
        rows = await self._call("fp_stream_mark_raise", partition, known, mark)
        return int(rows[0]["mark"])

    async def _call(self, procedure: str, *params: object) -> list[Row]:
        return await self._database.call_shard_procedure(self._shard_id, procedure, params)
