"""All operations on an event stream in Redis; one round trip each, unless stated otherwise.

All of them raise ServiceUnavailable when Redis cannot be asked; nothing was done then, or
(OutcomeUnknown) it is not known, and every call but :meth:`EventStreamStore.replay` and
:meth:`EventStreamStore.drop` may be repeated.
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
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry, QueueMessage
from base_server.service.queue.queue_errors import DeadLettersFull, QueueFull
from base_server.service.queue.queue_settings import QueueSettings
from base_server.service.redis_client.script import Script, load_scripts

_SCRIPTS = load_scripts(Path(__file__).parent / "lua")
_ENQUEUE = _SCRIPTS["enqueue_message"]
# A full Redis runs it too: the entry that it adds is taken out of the other stream right after it.
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
class EventStreamPage:
    now_ms: int
    entries: list[QueueEntry]
    retries: dict[str, Retry]  # by entry id, only entries that were begun before


@dataclass(frozen=True)
class DeadLetter:
    """An entry that was given up. ``fields``: the entry's own, complete, to inspect and to replay.

    ``entry_id``: under which it first stood in the stream. ``group``: what it blocks, '' for
    nothing."""

    stream: EventStream
    dead_id: str
    entry_id: str
    reason: str
    failed_at_ms: int
    group: str
    fields: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class EventStreamFacts:
    waiting: int
    dead: int
    oldest_ms: int | None  # when the entry at the head was accepted (Unix, Redis time)


class EventStreamStore:
    """Requests go over the cache's client for hot calls, consumers and operators over the one for
    bulk."""

    def __init__(self, cache: CacheService, settings: QueueSettings) -> None:
        self._cache = cache
        self._settings = settings

    @property
    def _bulk(self) -> CacheClient:
        return self._cache.get_bulk_client()

    async def append(self, stream: EventStream, message: QueueMessage) -> None:
        """Store ``message`` (with its id) at the end of ``stream``, once. Raises QueueFull at
        max_backlog, TypeError or ValueError for a payload that is no JSON object in proper Unicode
        or too long."""
        await self._append(_ENQUEUE, stream, message)

    async def move(
        self, entry_id: str, stream: EventStream, to: EventStream, message: QueueMessage
    ) -> None:
        """Store the ``message`` of an entry of ``stream`` at the end of ``to``, then take the entry
        out; two round trips. Raises as :meth:`append`."""
        moved = f"queue_moved:{stream.queue_name}:{stream.name}:{stream.partition}:{entry_id}"
        await self._append(
            MOVE, to, message, self._cache.get_client().key(moved, partition=to.partition)
        )
        await self.remove(stream, [entry_id])

    async def _append(
        self, script: Script, stream: EventStream, message: QueueMessage, *more_keys: str
    ) -> None:
        payload = _encode_payload(message.payload, self._settings.max_payload_bytes)
        client = self._cache.get_client()
        memory_key = client.key(f"queue_seen:{message.message_id}", partition=stream.partition)
        args = (
            message.message_id,
            self._settings.max_backlog,
            round(self._settings.dedup_s * 1000),
            message.message_type,
            payload,
            int(message.priority),
            message.partition_key or "",
        )
        if await client.run_script(script, (stream.key, memory_key, *more_keys), args):
            raise QueueFull(stream.queue_name, self._settings.max_backlog)

    async def head(
        self, stream: EventStream, count: int, max_bytes: int = _NO_LIMIT
    ) -> list[QueueEntry]:
        """The first entries, oldest first, up to ``count`` and about ``max_bytes`` of payloads (at
        least one entry); they stay where they are. One round trip for every _FIRST_PAGE entries at
        first, for four times as many then: what is read at once is never much more than what was
        seen to fit."""
        entries: list[QueueEntry] = []
        start, page, size = "-", min(count, _FIRST_PAGE), 0
        while True:
            rows = await self._bulk.execute("XRANGE", stream.key, start, "+", "COUNT", page)
            entries += [_entry(row) for row in rows]
            size += sum(len(entry.payload_text.encode()) for entry in entries[-len(rows) :])
            left = min(count - len(entries), (max_bytes - size) * len(entries) // max(size, 1))
            if len(rows) < page or left <= 0:
                return entries
            start, page = f"({entries[-1].entry_id}", min(left, 4 * page)

    async def last_entry(self, stream: EventStream) -> str | None:
        rows = await self._bulk.execute("XREVRANGE", stream.key, "+", "-", "COUNT", 1)
        return str(rows[0][0]) if rows else None

    async def has_entries_to(self, stream: EventStream, entry_id: str) -> bool:
        return bool(await self._bulk.execute("XRANGE", stream.key, "-", entry_id, "COUNT", 1))

    async def read(self, stream: EventStream, start: str, count: int) -> EventStreamPage:
        """A page from ``start`` on ("-" the head, "(id" after that entry)."""
        script = _SCRIPTS["read_stream"]
        now_ms, rows, notes = await self._bulk.run_script(
            script, (stream.key, stream.retry_key), (start, count)
        )
        entries = [_entry(row) for row in rows]
        retries = {}
        for entry, note in zip(entries, notes, strict=True):
            if note:
                attempts, _, not_before_ms = note.partition(":")
                retries[entry.entry_id] = Retry(int(attempts), int(not_before_ms))
        return EventStreamPage(int(now_ms), entries, retries)

    async def remove(self, stream: EventStream, entry_ids: Iterable[str]) -> int:
        """Take finished entries out; returns how many were still there."""
        ids = tuple(entry_ids)
        if not ids:
            return 0
        keys = (stream.key, stream.retry_key)
        return int(await self._bulk.run_script(_SCRIPTS["remove_entries"], keys, ids))

    async def record_attempt(
        self, stream: EventStream, entry_id: str, attempts: int, wait_s: float
    ) -> None:
        """Note that ``attempts`` deliveries were begun and the next waits ``wait_s``."""
        keys = (stream.key, stream.retry_key)
        await self._bulk.run_script(
            _SCRIPTS["record_attempt"], keys, (entry_id, attempts, round(wait_s * 1000))
        )

    async def dead_letter(
        self,
        stream: EventStream,
        entries_with_reasons: Sequence[tuple[str, str]],
        groups: Mapping[str, str],
    ) -> int:
        """Move entries (id, reason) to the dead letters, all or none; returns how many were still
        there.
        ``groups``: by entry id, what it blocks. Raises DeadLettersFull at dead_letter_limit."""
        if not entries_with_reasons:
            return 0
        keys = (stream.key, stream.dead_key, stream.retry_key, stream.blocked_key)
        given_up = (
            (entry_id, reason, groups.get(entry_id, ""))
            for entry_id, reason in entries_with_reasons
        )
        args = (self._settings.dead_letter_limit, *(text for triple in given_up for text in triple))
        moved = int(await self._bulk.run_script(_SCRIPTS["dead_letter_entries"], keys, args))
        if moved < 0:
            raise DeadLettersFull(stream.queue_name, self._settings.dead_letter_limit)
        DEAD_LETTERS.add(stream.queue_name, amount=moved)
        return moved

    async def add_dead_letters(
        self,
        stream: EventStream,
        entries_with_reasons: Sequence[tuple[QueueEntry, str]],
        groups: Mapping[str, str],
    ) -> int:
        """Make dead letters of entries that are in no stream any more, all or none; returns how
        many were new. Raises DeadLettersFull at dead_letter_limit."""
        if not entries_with_reasons:
            return 0
        args: list[object] = [self._settings.dead_letter_limit]
        for entry, reason in entries_with_reasons:
            words = [word for name_and_value in entry.fields.items() for word in name_and_value]
            args += [entry.entry_id, reason, groups.get(entry.entry_id, ""), len(words), *words]
        added = int(
            await self._bulk.run_script(
                _SCRIPTS["add_dead_letters"], (stream.dead_key, stream.blocked_key), args
            )
        )
        if added < 0:
            raise DeadLettersFull(stream.queue_name, self._settings.dead_letter_limit)
        DEAD_LETTERS.add(stream.queue_name, amount=added)
        return added

    async def blocked(self, stream: EventStream, groups: Sequence[str]) -> set[str]:
        """Those of ``groups`` that have dead letters."""
        if not groups:
            return set()
        counts = await self._bulk.execute("HMGET", stream.blocked_key, *groups)
        return {group for group, count in zip(groups, counts, strict=True) if count is not None}

    async def dead_letters(self, streams: Sequence[EventStream], limit: int) -> list[DeadLetter]:
        """The oldest dead letters of each stream, up to ``limit`` a stream."""
        answers = await self._bulk.execute_many(
            [("XRANGE", stream.dead_key, "-", "+", "COUNT", limit) for stream in streams]
        )
        return [
            _dead_letter(stream, row)
            for stream, rows in zip(streams, answers, strict=True)
            for row in rows
        ]

    async def dead_letter_count(self, streams: Sequence[EventStream]) -> int:
        return sum(await self._bulk.execute_many([("XLEN", stream.dead_key) for stream in streams]))

    async def replay(self, stream: EventStream, dead_id: str) -> bool:
        """Put a dead letter back at the end of its stream; false if it is not there."""
        script, keys = (
            _SCRIPTS["replay_dead_letter"],
            (stream.dead_key, stream.key, stream.blocked_key),
        )
        # Not repeated after a lost connection: the second run would report "not there" for what the
        # first replayed.
        return bool(await self._bulk.run_script(script, keys, (dead_id,), repeatable=False))

    async def drop(self, stream: EventStream, dead_id: str) -> bool:
        """Throw a dead letter away; false if it is not there."""
        script, keys = _SCRIPTS["drop_dead_letter"], (stream.dead_key, stream.blocked_key)
        return bool(await self._bulk.run_script(script, keys, (dead_id,), repeatable=False))

    async def keys(self, patterns: Sequence[str]) -> set[str]:
        """Names of the keys that match; reads through all of Redis, in small steps."""
        return set().union(*[await self._bulk.scan(pattern) for pattern in patterns])

    async def backlog(self, streams: Sequence[EventStream]) -> dict[EventStream, int]:
        """Entries in each stream, those being worked on included; without the streams of partitions
        that are away."""
        by_partition: dict[int, list[EventStream]] = {}
        for stream in streams:
            by_partition.setdefault(stream.partition, []).append(stream)
        client = (
            self._cache.get_client()
        )  # a short look, whose time-out is short too: others wait for its answer
        lengths = await client.ask_partitions(
            by_partition,
            lambda p: client.execute_many([("XLEN", stream.key) for stream in by_partition[p]]),
        )
        return {
            stream: int(length)
            for partition, of_partition in lengths.items()
            for stream, length in zip(by_partition[partition], of_partition, strict=True)
        }

    async def facts(
        self, streams: Sequence[EventStream]
    ) -> tuple[int, dict[EventStream, EventStreamFacts]]:
        """Redis time in ms and the facts of each stream; two round trips."""
        lengths = await self._bulk.execute_many(
            [
                ("TIME",),
                *(("XLEN", key) for stream in streams for key in (stream.key, stream.dead_key)),
            ]
        )
        (seconds, micros), counts = lengths[0], [int(length) for length in lengths[1:]]
        waiting, dead = (
            dict(zip(streams, counts[::2], strict=True)),
            dict(zip(streams, counts[1::2], strict=True)),
        )
        filled = [stream for stream in streams if waiting[stream]]
        heads: list[Any] = []
        if filled:
            commands = [("XRANGE", stream.key, "-", "+", "COUNT", 1) for stream in filled]
            heads = await self._bulk.execute_many(commands)
        oldest = {
            stream: int(rows[0][0].partition("-")[0])
            for stream, rows in zip(filled, heads, strict=True)
            if rows
        }
        facts = {
            stream: EventStreamFacts(waiting[stream], dead[stream], oldest.get(stream))
            for stream in streams
        }
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


def _dead_letter(stream: EventStream, row: Any) -> DeadLetter:
    dead_id, flat = row
    fields = _pairs(flat)
    entry_id, reason, failed_at, group = (fields.pop(name, "") for name in _DEAD_FIELDS)
    return DeadLetter(stream, dead_id, entry_id, reason, int(failed_at or 0), group, fields)
