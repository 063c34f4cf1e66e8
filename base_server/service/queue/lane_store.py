"""Everything that is done to a lane in Redis. Each call is one round trip unless it says otherwise.

All of them raise ServiceUnavailable when Redis cannot be asked; nothing was done then, or (OutcomeUnknown)
it is not known, and every call but :meth:`LaneStore.replay` and :meth:`LaneStore.drop` may simply be made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_service import CacheService
from base_server.service.core.instruments import Counter
from base_server.service.queue.lanes import Lane
from base_server.service.queue.message_queue import QueueEntry, QueueMessage
from base_server.service.queue.queue_errors import DeadLettersFull, QueueFull
from base_server.service.queue.queue_settings import QueueSettings
from base_server.service.redis_client.script import Script, load_scripts

_SCRIPTS = load_scripts(Path(__file__).parent / "lua")
_ENQUEUE = _SCRIPTS["enqueue_message"]
# A full Redis runs it too: the entry that it adds is taken out of the other lane right after it.
MOVE = replace(_ENQUEUE, name="move_message", allow_oom=True)
DEAD_LETTERS = Counter(
    "queue_dead_lettered", "Entries moved to a queue's dead letters.", ("queue",)
)
_FIRST_PAGE = 64
_NO_LIMIT = 2**62
_DEAD_FIELDS = ("dead_entry", "dead_reason", "dead_at", "dead_group")


@dataclass(frozen=True)
class Retry:
    """Deliveries of an entry begun so far, and when the next may begin (Redis time)."""

    attempts: int
    not_before_ms: int


@dataclass(frozen=True)
class LanePage:
    now_ms: int
    entries: list[QueueEntry]
    retries: dict[str, Retry]  # by entry id, only entries that were begun before


@dataclass(frozen=True)
class DeadLetter:
    """An entry that was given up. ``fields`` are the entry's own, complete, for looking and for a replay.

    ``entry_id``: under which it first stood in the lane. ``group``: what it holds up, '' for nothing."""

    lane: Lane
    dead_id: str
    entry_id: str
    reason: str
    failed_at_ms: int
    group: str
    fields: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class LaneFacts:
    waiting: int
    dead: int
    oldest_ms: int | None  # when the entry at the head was accepted (Unix, Redis time)


class LaneStore:
    """Requests go over the cache's client for hot calls, consumers and operators over the one for bulk."""

    def __init__(self, cache: CacheService, settings: QueueSettings) -> None:
        self._cache = cache
        self._settings = settings

    @property
    def _works(self) -> CacheClient:
        return self._cache.get_bulk_client()

    async def append(self, lane: Lane, message: QueueMessage) -> None:
        """Store ``message`` (with its id) at the end of ``lane``, once. Raises QueueFull at max_backlog,
        TypeError or ValueError for a payload that is no JSON object in proper Unicode or too long."""
        await self._append(_ENQUEUE, lane, message)

    async def move(self, entry_id: str, lane: Lane, to: Lane, message: QueueMessage) -> None:
        """Store the ``message`` of an entry of ``lane`` at the end of ``to``, then take the entry out; two round trips.
        Raises as :meth:`append`."""
        moved = f"queue_moved:{lane.queue_name}:{lane.name}:{lane.partition}:{entry_id}"
        await self._append(
            MOVE, to, message, self._cache.get_client().key(moved, partition=to.partition)
        )
        await self.remove(lane, [entry_id])

    async def _append(
        self, script: Script, lane: Lane, message: QueueMessage, *more_keys: str
    ) -> None:
        payload = _encode_payload(message.payload, self._settings.max_payload_bytes)
        client = self._cache.get_client()
        memory_key = client.key(f"queue_seen:{message.message_id}", partition=lane.partition)
        args = (
            message.message_id,
            self._settings.max_backlog,
            round(self._settings.dedup_s * 1000),
            message.message_type,
            payload,
            int(message.priority),
            message.partition_key or "",
        )
        if await client.run_script(script, (lane.stream_key, memory_key, *more_keys), args):
            raise QueueFull(lane.queue_name, self._settings.max_backlog)

    async def head(self, lane: Lane, count: int, max_bytes: int = _NO_LIMIT) -> list[QueueEntry]:
        """The first entries, oldest first, up to ``count`` and about ``max_bytes`` of payloads (at least one entry);
        they stay where they are. One round trip for every _FIRST_PAGE entries at first, for four times as many then:
        what is read at once is never much more than what was seen to fit."""
        entries: list[QueueEntry] = []
        start, page, size = "-", min(count, _FIRST_PAGE), 0
        while True:
            rows = await self._works.execute("XRANGE", lane.stream_key, start, "+", "COUNT", page)
            entries += [_entry(row) for row in rows]
            size += sum(len(entry.payload_text.encode()) for entry in entries[-len(rows) :])
            left = min(count - len(entries), (max_bytes - size) * len(entries) // max(size, 1))
            if len(rows) < page or left <= 0:
                return entries
            start, page = f"({entries[-1].entry_id}", min(left, 4 * page)

    async def last_entry(self, lane: Lane) -> str | None:
        rows = await self._works.execute("XREVRANGE", lane.stream_key, "+", "-", "COUNT", 1)
        return str(rows[0][0]) if rows else None

    async def has_entries_to(self, lane: Lane, entry_id: str) -> bool:
        return bool(await self._works.execute("XRANGE", lane.stream_key, "-", entry_id, "COUNT", 1))

    async def read(self, lane: Lane, start: str, count: int) -> LanePage:
        """A page from ``start`` on ("-" the head, "(id" after that entry)."""
        script = _SCRIPTS["read_lane"]
        now_ms, rows, notes = await self._works.run_script(
            script, (lane.stream_key, lane.retry_key), (start, count)
        )
        entries = [_entry(row) for row in rows]
        retries = {}
        for entry, note in zip(entries, notes, strict=True):
            if note:
                attempts, _, not_before_ms = note.partition(":")
                retries[entry.entry_id] = Retry(int(attempts), int(not_before_ms))
        return LanePage(int(now_ms), entries, retries)

    async def remove(self, lane: Lane, entry_ids: Iterable[str]) -> int:
        """Take finished entries out; returns how many were still there."""
        ids = tuple(entry_ids)
        if not ids:
            return 0
        keys = (lane.stream_key, lane.retry_key)
        return int(await self._works.run_script(_SCRIPTS["remove_entries"], keys, ids))

    async def hold(self, lane: Lane, entry_id: str, attempts: int, wait_s: float) -> None:
        """Note that ``attempts`` deliveries were begun and the next waits ``wait_s``."""
        keys = (lane.stream_key, lane.retry_key)
        await self._works.run_script(
            _SCRIPTS["hold_entry"], keys, (entry_id, attempts, round(wait_s * 1000))
        )

    async def dead_letter(
        self, lane: Lane, entries_with_reasons: Sequence[tuple[str, str]], groups: Mapping[str, str]
    ) -> int:
        """Move entries (id, reason) to the dead letters, all or none; returns how many were still there.
        ``groups``: by entry id, what it holds up. Raises DeadLettersFull at dead_letter_limit."""
        if not entries_with_reasons:
            return 0
        keys = (lane.stream_key, lane.dead_key, lane.retry_key, lane.held_key)
        given_up = (
            (entry_id, reason, groups.get(entry_id, ""))
            for entry_id, reason in entries_with_reasons
        )
        args = (self._settings.dead_letter_limit, *(text for triple in given_up for text in triple))
        moved = int(await self._works.run_script(_SCRIPTS["dead_letter_entries"], keys, args))
        if moved < 0:
            raise DeadLettersFull(lane.queue_name, self._settings.dead_letter_limit)
        DEAD_LETTERS.add(lane.queue_name, amount=moved)
        return moved

    async def add_dead_letters(
        self,
        lane: Lane,
        entries_with_reasons: Sequence[tuple[QueueEntry, str]],
        groups: Mapping[str, str],
    ) -> int:
        """Make dead letters of entries that are in no stream any more, all or none; returns how many were new.
        Raises DeadLettersFull at dead_letter_limit."""
        if not entries_with_reasons:
            return 0
        args: list[object] = [self._settings.dead_letter_limit]
        for entry, reason in entries_with_reasons:
            words = [word for name_and_value in entry.fields.items() for word in name_and_value]
            args += [entry.entry_id, reason, groups.get(entry.entry_id, ""), len(words), *words]
        added = int(
            await self._works.run_script(
                _SCRIPTS["add_dead_letters"], (lane.dead_key, lane.held_key), args
            )
        )
        if added < 0:
            raise DeadLettersFull(lane.queue_name, self._settings.dead_letter_limit)
        DEAD_LETTERS.add(lane.queue_name, amount=added)
        return added

    async def held(self, lane: Lane, groups: Sequence[str]) -> set[str]:
        """Those of ``groups`` that have dead letters."""
        if not groups:
            return set()
        counts = await self._works.execute("HMGET", lane.held_key, *groups)
        return {group for group, count in zip(groups, counts, strict=True) if count is not None}

    async def dead_letters(self, lanes: Sequence[Lane], limit: int) -> list[DeadLetter]:
        """The oldest dead letters of each lane, up to ``limit`` a lane."""
        answers = await self._works.execute_many(
            [("XRANGE", lane.dead_key, "-", "+", "COUNT", limit) for lane in lanes]
        )
        return [
            _dead_letter(lane, row)
            for lane, rows in zip(lanes, answers, strict=True)
            for row in rows
        ]

    async def dead_letter_count(self, lanes: Sequence[Lane]) -> int:
        return sum(await self._works.execute_many([("XLEN", lane.dead_key) for lane in lanes]))

    async def replay(self, lane: Lane, dead_id: str) -> bool:
        """Put a dead letter back at the end of its lane; false if it is not there."""
        script, keys = (
            _SCRIPTS["replay_dead_letter"],
            (lane.dead_key, lane.stream_key, lane.held_key),
        )
        # Not repeated after a lost connection: the second run would say "not there" of what it had replayed.
        return bool(await self._works.run_script(script, keys, (dead_id,), repeatable=False))

    async def drop(self, lane: Lane, dead_id: str) -> bool:
        """Throw a dead letter away; false if it is not there."""
        script, keys = _SCRIPTS["drop_dead_letter"], (lane.dead_key, lane.held_key)
        return bool(await self._works.run_script(script, keys, (dead_id,), repeatable=False))

    async def keys(self, patterns: Sequence[str]) -> set[str]:
        """Names of the keys that match; reads through all of Redis, in small steps."""
        return set().union(*[await self._works.scan(pattern) for pattern in patterns])

    async def backlog(self, lanes: Sequence[Lane]) -> dict[Lane, int]:
        """Entries in each lane, those being worked on included; without the lanes of partitions that are away."""
        by_partition: dict[int, list[Lane]] = {}
        for lane in lanes:
            by_partition.setdefault(lane.partition, []).append(lane)
        client = (
            self._cache.get_client()
        )  # a short look, whose time-out is short too: others wait for its answer
        lengths = await client.ask_partitions(
            by_partition,
            lambda p: client.execute_many([("XLEN", lane.stream_key) for lane in by_partition[p]]),
        )
        return {
            lane: int(length)
            for partition, of_partition in lengths.items()
            for lane, length in zip(by_partition[partition], of_partition, strict=True)
        }

    async def facts(self, lanes: Sequence[Lane]) -> tuple[int, dict[Lane, LaneFacts]]:
        """Redis time in ms and the facts of each lane; two round trips."""
        lengths = await self._works.execute_many(
            [
                ("TIME",),
                *(("XLEN", key) for lane in lanes for key in (lane.stream_key, lane.dead_key)),
            ]
        )
        (seconds, micros), counts = lengths[0], [int(length) for length in lengths[1:]]
        waiting, dead = (
            dict(zip(lanes, counts[::2], strict=True)),
            dict(zip(lanes, counts[1::2], strict=True)),
        )
        filled = [lane for lane in lanes if waiting[lane]]
        heads: list[Any] = []
        if filled:
            commands = [("XRANGE", lane.stream_key, "-", "+", "COUNT", 1) for lane in filled]
            heads = await self._works.execute_many(commands)
        oldest = {
            lane: int(rows[0][0].partition("-")[0])
            for lane, rows in zip(filled, heads, strict=True)
            if rows
        }
        facts = {lane: LaneFacts(waiting[lane], dead[lane], oldest.get(lane)) for lane in lanes}
        return int(seconds) * 1000 + int(micros) // 1000, facts


def _encode_payload(payload: dict[str, Any], limit: int) -> str:
    if not isinstance(payload, dict):
        raise TypeError("a queue payload is a dict")
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(text.encode()) > limit:  # a lone surrogate raises UnicodeEncodeError, a ValueError, here
        raise ValueError(
            f"a queue payload has at most {limit} bytes as JSON (queueConfig.max_payload_bytes)"
        )
    return text


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _entry(row: Any) -> QueueEntry:
    entry_id, flat = row
    return QueueEntry(entry_id, _pairs(flat))


def _dead_letter(lane: Lane, row: Any) -> DeadLetter:
    dead_id, flat = row
    fields = _pairs(flat)
    entry_id, reason, failed_at, group = (fields.pop(name, "") for name in _DEAD_FIELDS)
    return DeadLetter(lane, dead_id, entry_id, reason, int(failed_at or 0), group, fields)
