"""What the AI service reads when it is asked about a room by its id alone (``process_message(room_id=…)``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.cache.cache_client import CacheClient
from service.llm.conversation import Turn
from template.chat.chat_keys import ChatKeys
from template.chat.chat_loader import ShardDatabase
from template.chat.chat_text import from_json, is_tombstone


class RoomHistory:
    """Reader for ``AIChatService.register_history``: the room's window, else the shard that has the room."""

    def __init__(
        self, cache: CacheClient, database: ShardDatabase, shard_ids: Sequence[int], history_length: int
    ) -> None:
        self._cache = cache
        self._database = database
        self._shard_ids = shard_ids
        self._length = history_length
        self._keys = ChatKeys(cache)

    async def __call__(self, session_id: str) -> Sequence[Turn] | None:
        """Turns oldest first; None when ``session_id`` names no room."""
        state, items = await self._cache.execute_many(
            [
                ("GET", self._keys.room_state(session_id)),
                ("LRANGE", self._keys.messages(session_id), -self._length, -1),
            ]
        )
        if state is not None and state.startswith(("DELETING", "DELETED")):
            return []
        if items:
            return [turn for turn in map(_turn, items) if turn is not None]
        if self._cache.partitions.is_own_id(session_id) is None:
            return None
        return await self._stored(session_id)

    async def _stored(self, room_id: str) -> Sequence[Turn] | None:
        for shard_id in self._shard_ids:
            rooms = await self._database.call_shard_procedure(shard_id, "fp_chat_room_get", (room_id,))
            if rooms:
                rows = await self._database.call_shard_procedure(
                    shard_id, "fp_chat_messages_get", (room_id, None, self._length)
                )
                return [Turn(row["sender_type"], row["content"]) for row in reversed(rows) if row["content"]]
        return None


def _turn(item: str) -> Turn | None:
    """An entry of the list, also one that a host's handler pushed by itself; None for what the AI must not see."""
    if is_tombstone(item):
        return None
    message: dict[str, Any] = from_json(item)
    if message.get("is_streaming") or not message.get("content"):
        return None
    return Turn(message.get("sender_type", "USER"), str(message["content"]))
