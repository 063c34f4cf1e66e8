"""Reports of shard databases that came back older, kept in Redis for every process and for
`doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from base_server.service.cache.cache_client import CacheClient
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.domain.message_format import iso_of_ms

_COUNTER_BITS = 20
REPORT_TTL_S = 7 * 86_400


def mark_of(entry_id: str) -> int:
    """An entry's id as the number that the shards keep; 0 for ''."""
    ms, _, n = entry_id.partition("-")
    return (int(ms) << _COUNTER_BITS | min(int(n), (1 << _COUNTER_BITS) - 1)) if entry_id else 0


def time_of(mark: int) -> str:
    """When the event of this mark was accepted (ISO 8601, Redis time)."""
    return iso_of_ms(mark >> _COUNTER_BITS)


@dataclass(frozen=True)
class OlderShard:
    """A database that was found older: what it knew and what Redis knew (times), and what became of
    the difference.

    ``lost``: room → the seqs that neither the database nor Redis has, as text. What was in no room
    of Redis any more is not in it: nobody knows it. ``last_event``: of those that are written
    again, '' for none; None while they are still being queued. ``left``: rooms that are damaged in
    Redis, of which nothing is written again."""

    shard_id: int
    partition: int
    database_until: str
    known_until: str
    written_again: int
    lost: dict[str, str]
    last_event: str | None = ""
    left: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rooms = "".join(
            f"; room {room_id} lacks messages {seqs}" for room_id, seqs in self.lost.items()
        )
        rooms += "".join(
            f"; room {room_id} is damaged in Redis and is not written again"
            for room_id in self.left
        )
        return (
            f"shard {self.shard_id}, partition {self.partition}: the database came back "
            f"as of {self.database_until}, written was until {self.known_until}; "
            f"{self.written_again} events are written again from Redis{rooms}"
        )

    @property
    def is_incomplete(self) -> bool:
        """Something is missing that is not written again: an operator should know of it."""
        return bool(self.lost or self.left)


class OlderShards:
    """What any process found, kept in Redis for seven days. It is an alarm until everything that
    Redis had is in the database again, and until an operator has acknowledged what neither has."""

    def __init__(self, cache: CacheClient) -> None:
        self._cache = cache
        self._keys = ChatKeys(cache)

    async def add(self, found: OlderShard) -> None:
        key = self._keys.partition(found.partition).older_shard(found.shard_id)
        await self._cache.execute("SET", key, json.dumps(vars(found)), "EX", REPORT_TTL_S)

    async def find(self, shard_id: int, partition: int) -> OlderShard | None:
        """The last find of a shard and partition."""
        key = self._keys.partition(partition).older_shard(shard_id)
        text = await self._cache.execute("GET", key)
        return OlderShard(**json.loads(text)) if text else None

    async def reports(self, shard_ids: Iterable[int]) -> list[OlderShard]:
        """The last find of each shard and partition."""
        partitions = range(self._cache.partitions.count)
        commands = [
            ("GET", self._keys.partition(p).older_shard(shard_id))
            for shard_id in shard_ids
            for p in partitions
        ]
        return [
            OlderShard(**json.loads(text))
            for text in await self._cache.execute_many(commands)
            if text
        ]

    async def alarms(self, shard_ids: Iterable[int]) -> list[OlderShard]:
        """Those of :meth:`reports` that somebody must know of now."""
        found = await self.reports(shard_ids)
        marks = [
            ("HGET", self._keys.partition(each.partition).backlog_watermark(each.shard_id), "saved")
            for each in found
        ]
        saved = await self._cache.execute_many(marks) if marks else []
        return [
            each
            for each, mark in zip(found, saved, strict=True)
            if each.is_incomplete or not _is_written(each, mark or "")
        ]

    async def acknowledge(self, shard_id: int) -> list[OlderShard]:
        """An operator knows what the shard has lost: forget it. Returns what was forgotten; what is
        not written again yet stays an alarm until it is."""
        found = await self.reports([shard_id])
        for each in found:
            await self.add(replace(each, lost={}, left=[]))
        return [each for each in found if each.is_incomplete]


def _is_written(found: OlderShard, saved: str) -> bool:
    return found.last_event is not None and mark_of(found.last_event) <= mark_of(saved)
