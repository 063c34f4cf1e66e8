"""Compares a room in Redis with its shard's database: the events that the database lacks."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

from base_server.service.cache.cache_client import CacheClient
from base_server.service.queue.event_stream import EventStream
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.domain.events import (
    MESSAGE_DELETE,
    MESSAGE_SAVE,
    ROOM_CREATE,
    ROOM_DELETE,
    ROOM_UPDATE,
)
from base_server.template.chat.domain.message_format import from_json, is_running, to_json
from base_server.template.chat.domain.ports import Row, ShardDatabase
from base_server.template.chat.persistence.procedures import ShardProcedures
from base_server.template.chat.settings import ChatSettings

# As drop_foreign in lua/_messages.lua: anything else in a window was pushed there by a host itself,
# and has no seq.
_OURS = re.compile(r'x|\{"message_id":"[^"]+","room_id":"[^"]+","seq":[0-9]+,')
_MESSAGE_FIELDS = ("message_id", "sender_type", "content", "parent_message_id", "metadata")
_ROOM_FIELDS = (
    "owner",
    "account",
    "shard",
    "title",
    "persona",
    "created",
    "version",
    "floor",
    "older",
    "gone",
    "next_seq",
)


class LostEvents(NamedTuple):
    """``events``: each as the words of a stream entry. ``is_new``: the database lacks the room
    itself. ``missing``: the seqs that neither the database nor Redis has."""

    events: list[list[str]]
    is_new: bool = False
    missing: range = range(0)


class RoomComparison:
    """``cache`` is the bulk client."""

    def __init__(self, database: ShardDatabase, cache: CacheClient, settings: ChatSettings) -> None:
        self._database = database
        self._cache = cache
        self._settings = settings
        self._keys = ChatKeys(cache)

    async def lost_events(self, stream: EventStream, room_id: str) -> LostEvents:
        """What the stream's shard lacks of the room. Nothing for a room that is not in this shard
        or not this account's, and for one that is deleted in both."""
        shard = ShardProcedures(self._database, int(stream.name))
        room = self._keys.room(room_id, stream.partition)
        values = await self._cache.execute("HMGET", room.record, *_ROOM_FIELDS)
        record = dict(zip(_ROOM_FIELDS, values, strict=True))
        row = await shard.find_room(room_id)
        if record["owner"] is None or (
            row is not None and int(row["account_db_key"]) != int(record["owner"])
        ):
            return LostEvents([])
        make = _EventMaker(room_id, record, stream)
        if record["gone"]:
            is_live = row is not None and not row["deleted"]
            return LostEvents([make.event(ROOM_DELETE, room_id)] if is_live else [])
        if (
            record["shard"] != stream.name
            or record["next_seq"] is None
            or (row is not None and row["deleted"])
        ):
            return LostEvents([])
        window = await self._cache.execute("LRANGE", room.messages, 0, -1)
        items = [item for item in window if _OURS.match(item)]
        first_seq = int(record["floor"])
        # Twice a window at most: rows below it show whether there is a gap.
        stored = await shard.newest_messages(room_id, len(items) + self._settings.window)
        events = []
        if row is None:
            request = await self._request_of(str(record["account"]), stream.partition, room_id)
            events.append(make.create(*request))
        elif int(row["title_version"]) < int(record["version"]):
            events.append(
                make.event(
                    ROOM_UPDATE,
                    room_id,
                    {"title": from_json(record["title"])},
                    version=record["version"],
                )
            )
        events += await self._lost_messages(
            make, items, first_seq, {row["message_id"]: row for row in stored}, stream.partition
        )
        missing = range(0)
        if record["older"] != "0" and first_seq > 1:
            # Tombstones count: what was deleted is not lost. Where a whole window's length of rows
            # is missing, the rest is looked for among what clients see.
            below = [int(row["seq"]) for row in stored if int(row["seq"]) < first_seq]
            if not below:
                visible = await shard.visible_messages(room_id, first_seq, 1)
                below = [int(row["seq"]) for row in visible]
            missing = range(max(below, default=0) + 1, first_seq)
        return LostEvents(events, row is None, missing)

    async def _lost_messages(
        self,
        make: _EventMaker,
        items: Sequence[str],
        first_seq: int,
        stored: dict[str, Row],
        partition: int,
    ) -> list[list[str]]:
        keys, saves, deletes = self._keys.partition(partition), [], []
        record = keys.room(make.room_id).record
        ids = [
            item[1:] if item.startswith("x") else str(from_json(item)["message_id"])
            for item in items
        ]
        states = await self._cache.execute_many([("GET", keys.message_state(id_)) for id_ in ids])
        of_items = zip(items, ids, states, strict=True)
        for seq, (item, message_id, state) in enumerate(of_items, first_seq):
            row, is_tombstone = stored.get(message_id), item.startswith("x")
            if not message_id or (row is not None and row["deleted"]) or is_running(item):
                continue
            if not is_tombstone and row is None:
                client_id = await self._cache.execute("HGET", record, f"s:{seq}")
                claim = (
                    await self._cache.execute("HGET", record, f"c:{client_id}")
                    if client_id
                    else None
                )
                saves.append(
                    make.save(from_json(item), client_id, (claim or "").partition("|")[2] or None)
                )
            if is_tombstone or str(state).startswith("DELET"):
                deletes.append(
                    make.event(MESSAGE_DELETE, message_id, {"message_id": message_id}, seq=seq)
                )
        return saves + deletes

    async def _request_of(
        self, account_id: str, partition: int, room_id: str
    ) -> tuple[str | None, str | None]:
        """The client_request_id that made the room, and its hash, where the account's list still
        has them."""
        record = self._keys.account(account_id, partition).record
        for name, value in (await read_hash(self._cache, record)).items():
            made, _, request_hash = value.partition("|")
            if name.startswith("r:") and made == room_id:
                return name[2:], request_hash
        return None, None


def before_dead_letters(events: Sequence[list[str]], dead: Set[tuple[str, str]]) -> list[list[str]]:
    """Events of a room that has dead letters, without those that are dead letters: they were
    written before them. They do not wait for the dead letters (``was``), and where one is refused
    itself, a replay puts it back before them."""
    alive = [words for words in events if (words[3], words[1]) not in dead]
    return [[*words, "was", f"0-{index}"] for index, words in enumerate(alive, start=1)]


async def read_hash(cache: CacheClient, key: str) -> dict[str, str]:
    fields = await cache.execute("HGETALL", key)
    if isinstance(fields, dict):
        return fields
    return dict(zip(fields[::2], fields[1::2], strict=True))


class _EventMaker:
    """Events of one room as the scripts queue them: fields and values, without what
    restore_room.lua adds."""

    def __init__(self, room_id: str, record: dict[str, Any], stream: EventStream) -> None:
        self.room_id = room_id
        self._record = record
        self._whose = {
            "room_id": room_id,
            "account_id": record["account"] or "",
            "account_db_key": int(record["owner"]),
            "shard_id": int(stream.name),
        }

    def event(
        self, kind: str, id_: str, data: dict[str, Any] | None = None, **fields: object
    ) -> list[str]:
        words = [
            "id",
            id_,
            "type",
            kind,
            "payload",
            to_json(self._whose | (data or {})),
            "key",
            self.room_id,
        ]
        for name, value in fields.items():
            words += [name, str(value)]
        return words

    def create(self, request_id: str | None, request_hash: str | None) -> list[str]:
        record = self._record
        data = {
            "title": from_json(record["title"]),
            "ai_persona": from_json(record["persona"]),
            "client_request_id": request_id,
            "request_hash": request_hash,
            "title_version": int(record["version"]),
        }
        return self.event(ROOM_CREATE, self.room_id, data, time=record["created"])

    def save(
        self, message: dict[str, Any], client_id: str | None, body_hash: str | None
    ) -> list[str]:
        data: dict[str, Any] = {
            "message_data": {name: message.get(name) for name in _MESSAGE_FIELDS}
        }
        if client_id:
            data |= {"client_message_id": client_id, "body_hash": body_hash}
        at = message["timestamp"]
        return self.event(MESSAGE_SAVE, message["message_id"], data, seq=message["seq"], time=at)
