"""What the AI service reads when it is asked about a room by its id alone
(``process_message(room_id=…)``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from base_server.service.cache.cache_client import CacheClient
from base_server.service.llm.conversation import HistoryMessage, as_history_message
from base_server.service.redis_client.errors import CacheCommandError
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.domain.message_format import from_json, is_tombstone
from base_server.template.chat.domain.ports import ShardDatabase
from base_server.template.chat.domain.states import GONE
from base_server.template.chat.rooms.directory import ChatDirectory


class RoomHistory:
    """Reader for ``AIChatService.register_history``: the room's window, else the shard that has the
    room."""

    def __init__(
        self,
        cache: CacheClient,
        database: ShardDatabase,
        directory: ChatDirectory,
        history_length: int,
    ) -> None:
        self._cache = cache
        self._database = database
        self._directory = directory
        self._length = history_length
        self._keys = ChatKeys(cache)

    async def __call__(self, session_id: str) -> Sequence[HistoryMessage] | None:
        """Messages oldest first; None when ``session_id`` names no room.

        The list in Redis is the room's window only if its record says so. Else the room is read
        from its shard, and behind it comes what handlers of a host pushed into the list by
        themselves.
        """
        partition = await self._directory.partition_of(session_id)
        keys = self._keys.partition(partition)
        room = keys.room(session_id)
        try:
            (
                state,
                items,
                length,
                (loaded_in, whole_length, gone),
                generation,
            ) = await self._cache.execute_many(
                [
                    ("GET", room.state),
                    ("LRANGE", room.messages, -self._length, -1),
                    ("LLEN", room.messages),
                    ("HMGET", room.record, "epoch", "len", "gone"),
                    ("GET", keys.generation),
                ]
            )
        except CacheCommandError:  # a key of another type counts as missing
            return await self._stored(session_id, partition)
        if gone is not None or (state is not None and state.startswith(GONE)):
            return []
        entries = [_read_stored(item) for item in items]
        foreign = [each.message for each in entries if each.is_foreign and each.message]
        if (
            loaded_in is not None
            and loaded_in == generation
            and length - len(foreign) >= int(whole_length)
        ):
            return [each.message for each in entries if each.message]
        stored = await self._stored(session_id, partition)
        return [*(stored or []), *foreign] if stored is not None or foreign else None

    async def _stored(self, room_id: str, partition: int) -> list[HistoryMessage] | None:
        """The newest messages of MySQL without those whose delete is still on its way there."""
        partitions = self._cache.partitions
        if partitions.is_own_id(room_id) is None and partition == partitions.of_id(room_id):
            return None  # no room that was ever loaded: a session of somebody else's
        if (found := await self._directory.find_room(room_id, partition)) is None:
            return None
        if found.deleted:
            return []
        rows = await self._database.call_shard_procedure(
            found.owner.shard_id, "fp_chat_messages_get", (room_id, None, self._length)
        )
        states = await self._cache.execute_many(
            [("GET", self._keys.message_state(row["message_id"], partition)) for row in rows]
        )
        kept = [
            HistoryMessage(row["sender_type"], row["content"])
            for row, state in zip(rows, states, strict=True)
            if row["content"] and not (state or "").startswith(GONE)
        ]
        return kept[::-1]


class _Stored(NamedTuple):
    """``message`` None: the AI must not see it. ``is_foreign``: pushed by a host's handler, not by
    our scripts."""

    message: HistoryMessage | None
    is_foreign: bool


def _read_stored(item: str) -> _Stored:
    if is_tombstone(item):
        return _Stored(None, False)
    try:
        message: dict[str, Any] = from_json(item)
        is_foreign = "seq" not in message
        if message.get("is_streaming") or not message.get("content"):
            return _Stored(None, is_foreign)
        sender = message.get("sender_type", "USER")
        return _Stored(
            as_history_message({"sender_type": sender, "content": str(message["content"])}),
            is_foreign,
        )
    except (
        ValueError,
        TypeError,
        AttributeError,
    ):  # no JSON object, or of a sender that no model knows
        return _Stored(None, True)
