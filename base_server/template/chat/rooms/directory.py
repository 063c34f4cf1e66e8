"""Whose room or message an id names, for callers without a session: state calls, and events that
hosts send.

Redis first: the room's record, and the state of a message that is not in MySQL yet, say it. Else
every shard is asked, one indexed read each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import DataRefused, ServiceUnavailable
from base_server.service.redis_client.errors import CacheCommandError
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.domain.caller import Caller

# chat_rooms.deleted
_DELETED, _AWAITED = 1, 2


class ChatDatabase(Protocol):
    """What the directory asks of DatabaseService."""

    @property
    def shard_ids(self) -> Sequence[int]: ...
    async def require_shard(self, shard_id: int) -> None: ...
    async def call_shard_procedure(
        self, shard_id: int, name: str, params: Any = ()
    ) -> list[dict[str, Any]]: ...
    async def call_global_procedure(self, name: str, params: Any = ()) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class FoundRoom:
    """``owner.account_id`` is '' when nobody knows the account's name: then its list is not in
    Redis either.

    ``awaited``: MySQL has messages of it that came before the room itself."""

    owner: Caller
    deleted: bool
    awaited: bool = False


@dataclass(frozen=True)
class FoundMessage:
    room_id: str
    account_db_key: int
    shard_id: int
    seq: int
    deleted: bool


class ChatDirectory:
    """Raises ServiceUnavailable when Redis cannot be asked, or when a database cannot and no other
    knows the id."""

    def __init__(self, cache: CacheClient, database: ChatDatabase) -> None:
        self._cache = cache
        self._database = database
        self._keys = ChatKeys(cache)
        self._partitions = cache.partitions

    async def partition_of(self, room_id: str) -> int:
        """The partition of the room's keys: its account's. An id of a host's own does not carry it;
        until the room has been created or loaded, it is the one that the id is hashed to."""
        if (own := self._partitions.is_own_id(room_id)) is not None:
            return own
        home = await self.noted_home(room_id)
        return self._partitions.of_id(room_id) if home is None else home

    async def noted_home(self, room_id: str) -> int | None:
        """The partition noted by :meth:`move_home`; None when Redis has no note (any more)."""
        home = await self.text(self._keys.of_id(room_id).room_home(room_id))
        return int(home) if home else None

    async def move_home(self, room_id: str, partition: int) -> int:
        """Let everybody find a room with an id of a host's own in its account's partition. Returns
        the partition that the id is hashed to, where its events went before. The note has no TTL
        while the room lives: it must not expire before the room's record does."""
        await self._cache.execute("SET", self._keys.of_id(room_id).room_home(room_id), partition)
        return self._partitions.of_id(room_id)

    async def find_room(
        self, room_id: str, partition: int, *, with_awaited: bool = False
    ) -> FoundRoom | None:
        """None: no shard knows it. ``with_awaited``: nor any message of it."""
        if (recorded := await self.recorded_room(room_id, partition)) is not None:
            return recorded
        if (found := await self._ask_shards("fp_chat_room_owner_get", room_id)) is None:
            return None
        shard_id, row = found
        is_awaited = row["deleted"] == _AWAITED
        if is_awaited and not with_awaited:
            return None
        db_key = int(row["account_db_key"])
        name, deleted = await self.account_name(db_key, partition), row["deleted"] == _DELETED
        if (
            name
            and self._partitions.is_own_id(room_id) is None
            and (home := self._partitions.of_id(name)) != partition
        ):
            # The note is lost: a delete in the hashed partition would leave the room in its
            # account's list.
            if (recorded := await self.recorded_room(room_id, home)) is not None:
                return recorded
            partition = home
        return FoundRoom(Caller(name, db_key, shard_id, partition), deleted, is_awaited)

    async def recorded_room(self, room_id: str, partition: int) -> FoundRoom | None:
        """What the room's record says, of whatever generation it is; the tombstone of a deleted one
        has no shard."""
        try:
            record = self._keys.room(room_id, partition).record
            db_key, account, shard, gone = await self._cache.execute(
                "HMGET", record, "owner", "account", "shard", "gone"
            )
        except CacheCommandError:  # a key of another type counts as missing
            return None
        if db_key is None:
            return None
        return FoundRoom(
            Caller(account or "", int(db_key), int(shard or 0), partition), gone is not None
        )

    async def find_message(self, message_id: str) -> FoundMessage | None:
        """Where MySQL has the message; None: no shard knows it."""
        if (found := await self._ask_shards("fp_chat_message_locate", message_id)) is None:
            return None
        shard_id, row = found
        return FoundMessage(
            row["room_id"],
            int(row["account_db_key"]),
            shard_id,
            int(row["seq"]),
            bool(row["deleted"]),
        )

    async def account_name(self, db_key: int, partition: int) -> str:
        """'' when neither the account's list was in Redis within the state TTL nor the accounts
        table knows it."""
        if name := await self.text(self._keys.partition(partition).account_name(db_key)):
            return name
        rows = await self._database.call_global_procedure("fp_account_name_get", (db_key,))
        return str(rows[0]["account_id"]) if rows else ""

    async def has_number(self, account_id: str, db_key: int) -> bool:
        """Whether the account has this number: its list in Redis says so, else the accounts table,
        which knows better. True when neither knows any of the two."""
        recorded = None
        try:
            record = self._keys.account(account_id).record
            recorded = await self._cache.execute("HGET", record, "owner")
        except CacheCommandError:  # a key of another type counts as missing
            pass
        if recorded is not None and int(recorded) == db_key:
            return True
        rows = await self._database.call_global_procedure("fp_account_name_get", (db_key,))
        return str(rows[0]["account_id"]) == account_id if rows else recorded is None

    async def mapped_shard(self, db_key: int) -> int:
        """Where the mapping table has the account; 0 when it does not know it."""
        rows = await self._database.call_global_procedure("fp_account_shard_get", (db_key,))
        return int(rows[0]["shard_id"]) if rows else 0

    async def has_shard(self, shard_id: int) -> bool:
        """One that was added a moment ago is looked for."""
        try:
            await self._database.require_shard(shard_id)
        except ServiceUnavailable:
            return False
        return True

    async def _ask_shards(
        self, procedure: str, identifier: str
    ) -> tuple[int, dict[str, Any]] | None:
        """The first row that a shard has, with the shard; that of a room goes before one that only
        awaits it."""
        awaited: tuple[int, dict[str, Any]] | None = None
        away: ServiceUnavailable | None = None
        for shard_id in self._database.shard_ids:
            try:
                rows = await self._database.call_shard_procedure(shard_id, procedure, (identifier,))
            except ServiceUnavailable as outage:
                away = outage
                continue
            except DataRefused:  # no column can hold such an id
                continue
            if rows and rows[0]["deleted"] != _AWAITED:
                return shard_id, rows[0]
            if rows and awaited is None:
                awaited = shard_id, rows[0]
        if away is not None:
            raise away
        return awaited

    async def text(self, key: str) -> str:
        """The string at a key; '' when it is missing or of another type."""
        try:
            return str(await self._cache.execute("GET", key) or "")
        except CacheCommandError:
            return ""
