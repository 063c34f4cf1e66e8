"""Finds a shard database that came back older, and writes again what Redis has of what it lost.

Each shard has a mark for each event stream: how far the stream is written. It is raised with every
batch, or right after it, before the batch is acknowledged in Redis, which keeps the mark too. A
database whose mark is below the one in Redis was put back to an earlier time (a dump, a replica
that was behind). Replication and dumps keep the order of commits: where a mark is there, everything
before it is. The mark of such a database stays where it is until everything is queued again: a
restore that an outage ends is begun again, and passes over rooms whose events still wait.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry
from base_server.service.queue.queue_service import QueueService
from base_server.service.redis_client.redis_errors import CacheCommandError
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.loader import Row, ShardDatabase
from base_server.template.chat.cache.scripts import SCRIPTS
from base_server.template.chat.domain.events import (
    MESSAGE_DELETE,
    MESSAGE_SAVE,
    QUEUE_NAME,
    ROOM_CREATE,
    ROOM_DELETE,
    ROOM_UPDATE,
    BadEvent,
    read_event,
)
from base_server.template.chat.domain.message_format import (
    from_json,
    is_running,
    iso_of_ms,
    to_json,
)
from base_server.template.chat.domain.metrics import (
    EVENTS_WRITTEN_AGAIN,
    MESSAGES_LOST,
    SHARD_OLDER,
)
from base_server.template.chat.settings import ChatSettings

_COUNTER_BITS = 20
_REPORT_TTL_S = 7 * 86_400
_EVENTS_A_CALL = 100
# As drop_foreign in lua/_prelude.lua: anything else in a window was pushed there by a host itself,
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


def mark_of(entry_id: str) -> int:
    """An entry's id as the number that the shards keep; 0 for ''."""
    ms, _, n = entry_id.partition("-")
    return (int(ms) << _COUNTER_BITS | min(int(n), (1 << _COUNTER_BITS) - 1)) if entry_id else 0


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
            f"shard {self.shard_id}, partition {self.partition}: the database came back as of {self.database_until},"
            f" written was until {self.known_until}; {self.written_again} events are written again from Redis{rooms}"
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
        await self._cache.execute("SET", key, json.dumps(vars(found)), "EX", _REPORT_TTL_S)

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


class _Restored(NamedTuple):
    """What a restore has done for a room so far, as it is noted in Redis. ``first_event``: the
    first that was queued when the room was last compared, '' for none."""

    queued: int = 0
    lost: int = 0
    lost_seqs: str = ""
    first_event: str = ""


class ShardMarks:
    """``cache`` is the bulk client."""

    def __init__(
        self,
        queue: QueueService,
        database: ShardDatabase,
        cache: CacheClient,
        settings: ChatSettings,
    ) -> None:
        self._progress: Callable[[EventStream], None] = lambda _: None
        self._queue = queue
        self._database = database
        self._cache = cache
        self._settings = settings
        self._keys = ChatKeys(cache)
        self._older = OlderShards(cache)

    def on_progress(self, progress: Callable[[EventStream], None]) -> None:
        """Call this whenever a restore got any further."""
        self._progress = progress

    async def alarms(self) -> list[OlderShard]:
        """The shards that came back older, found by any process, as long as an operator should
        know."""
        return await self._older.alarms(
            sorted({int(stream.name) for stream in self._queue.streams(QUEUE_NAME)})
        )

    @staticmethod
    def raised(stream: EventStream, known: str, last: str) -> tuple[int, int, int]:
        """What a procedure takes to raise the stream's mark to the event ``last``; ``known`` as in
        :meth:`advance`."""
        return stream.partition, mark_of(known), mark_of(last)

    async def advance(
        self, stream: EventStream, known: str, last: str, mark: int | None = None
    ) -> int | None:
        """A batch up to the event ``last`` is in the database. ``known``: the last one written
        before, as Redis knew it when the batch was read. ``mark``: what the database answered, if
        the mark was raised together with the batch. Returns the mark of a database that came back
        older, else None. The caller holds the stream."""
        if mark is None:
            mark = await self._raise(stream, mark_of(known), mark_of(last))
        return mark if mark < mark_of(known) else None

    async def restore(self, stream: EventStream, mark: int, known: str, last: str) -> None:
        """Queue again what the database lacks, after :meth:`advance` said so. The caller holds the
        stream, and has settled its batch, without trimming windows: what they have may be nowhere
        else."""
        await self._restore(stream, mark, mark_of(known))
        # What was lost is in the stream now, or said: from here on the database is as far as Redis.
        await self._raise(stream, 0, max(mark_of(known), mark_of(last)))
        keys = self._keys.partition(stream.partition)
        await self._cache.execute("DEL", keys.restored_rooms(int(stream.name), mark))

    async def check(self, shard_ids: Iterable[int]) -> None:
        """Compare all marks; streams in which nothing happens too. A shard that is away is not
        looked at."""
        for shard_id in shard_ids:
            try:
                marks = await self._marks(shard_id)
            except ServiceUnavailable:
                continue
            streams = [
                stream for stream in self._queue.streams(QUEUE_NAME) if stream.name == str(shard_id)
            ]
            known = await self._cache.ask_partitions(
                [stream.partition for stream in streams], self._saved_in(shard_id)
            )
            for stream in streams:
                saved = known.get(stream.partition)
                if saved and marks.get(stream.partition, 0) < mark_of(saved):
                    await self.check_stream(shard_id, stream.partition)

    async def check_stream(self, shard_id: int, partition: int) -> None:
        """Compare one mark; where it is too low, with everybody else kept from the stream. Raises
        ServiceUnavailable."""
        stream = self._queue.stream(QUEUE_NAME, partition, str(shard_id))
        known = mark_of(await self._saved_in(shard_id)(partition) or "")
        # Read, not raised: a shard that takes no writes now is no reason not to load from it.
        if not known or (await self._marks(shard_id)).get(partition, 0) >= known:
            return
        async with self._queue.acquired(stream, self._settings.lock_timeout_s):
            # Read again: another process may have found it first.
            saved = await self._saved_in(shard_id)(partition) or ""
            if saved and (mark := await self.advance(stream, saved, saved)) is not None:
                await self.restore(stream, mark, saved, saved)

    def _saved_in(self, shard_id: int) -> Callable[[int], Awaitable[str | None]]:
        """By partition: the last event of its stream that Redis knows to be in the shard's
        database."""
        return lambda p: self._cache.execute(
            "HGET", self._keys.partition(p).backlog_watermark(shard_id), "saved"
        )

    async def _marks(self, shard_id: int) -> dict[int, int]:
        """By stream: the partition."""
        rows = await self._database.call_shard_procedure(shard_id, "fp_stream_marks_get", ())
        return {int(row["stream"]): int(row["mark"]) for row in rows}

    async def _raise(self, stream: EventStream, known: int, mark: int) -> int:
        rows = await self._call(stream, "fp_stream_mark_raise", stream.partition, known, mark)
        return int(rows[0]["mark"])

    async def _restore(self, stream: EventStream, mark: int, known: int) -> None:
        database_until, known_until = (iso_of_ms(value >> _COUNTER_BITS) for value in (mark, known))
        # What an earlier restore could not bring back is still to be acknowledged.
        earlier = await self._older.find(int(stream.name), stream.partition)
        found = OlderShard(
            int(stream.name),
            stream.partition,
            database_until,
            known_until,
            0,
            earlier.lost if earlier else {},
            None,
        )
        await self._older.add(found)
        keys = self._keys.partition(stream.partition)
        pattern = keys.room("*").record
        begin = len(pattern) - 1
        done_key = keys.restored_rooms(int(stream.name), mark)
        names = sorted(await self._cache.scan(pattern))
        rooms = [name[begin:] for name in names]
        done = {
            room_id: _Restored(*json.loads(text))
            for room_id, text in (await self._hash(done_key)).items()
        }
        dead, left = await self._dead_letters(stream), []
        for room_id in rooms:
            before = done.get(room_id, _Restored())
            # Compared again, however often: a database that is put back once more has lost what was
            # written again. Only what still waits is not queued a second time.
            if before.first_event and await self._waits(stream, before.first_event):
                continue
            try:
                events, is_new, missing = await self._lost_events(stream, room_id)
                if room_id in dead:
                    events = _before_dead_letters(events, dead[room_id])
                first_event = await self._queue_again(stream, room_id, events, is_new)
            except (ValueError, LookupError, TypeError, CacheCommandError) as error:
                # One damaged room must not keep the others from being written again.
                Logger.error(
                    "a room's events could not be written again", room_id=room_id, exc_info=error
                )
                left.append(room_id)
                continue
            lost_here = (len(missing), f"{missing[0]} to {missing[-1]}") if missing else before[1:3]
            done[room_id] = _Restored(before.queued + len(events), *lost_here, first_event)
            note = (
                ("HSET", done_key, room_id, json.dumps(done[room_id])),
                ("EXPIRE", done_key, _REPORT_TTL_S),
            )
            await self._cache.execute_many(note)
            self._progress(stream)
        written = sum(room.queued for room in done.values())
        lost = {room_id: room.lost_seqs for room_id, room in done.items() if room.lost_seqs}
        # Once for a restore, however often it was begun.
        SHARD_OLDER.add()
        EVENTS_WRITTEN_AGAIN.add(amount=written)
        if lost:
            MESSAGES_LOST.add(amount=sum(room.lost for room in done.values()))
        # The stream's newest event now is none before the last that was queued here.
        last_event = await self._queue.last_entry(stream) if written else None
        found = replace(
            found,
            written_again=written,
            lost=found.lost | lost,
            last_event=last_event or "",
            left=left,
        )
        Logger.error("a shard database came back older", **vars(found))
        await self._older.add(found)

    async def _waits(self, stream: EventStream, entry_id: str) -> bool:
        return bool(await self._cache.execute("XRANGE", stream.key, entry_id, entry_id))

    async def _dead_letters(self, stream: EventStream) -> dict[str, set[tuple[str, str]]]:
        """Which rooms have dead letters, and of what: kind and id of message or room."""
        found: dict[str, set[tuple[str, str]]] = {}
        for letter in await self._queue.dead_letters_of(stream):
            with suppress(BadEvent):
                event = read_event(QueueEntry(letter.entry_id, letter.fields))
                found.setdefault(letter.group, set()).add(
                    (event.kind, event.message_id or event.room_id)
                )
        return found

    async def _hash(self, key: str) -> dict[str, str]:
        fields = await self._cache.execute("HGETALL", key)
        return (
            fields
            if isinstance(fields, dict)
            else dict(zip(fields[::2], fields[1::2], strict=True))
        )

    async def _lost_events(
        self, stream: EventStream, room_id: str
    ) -> tuple[list[list[str]], bool, range]:
        """The fields of the room's events that the database lacks; whether it lacks the room
        itself; and which seqs nobody has."""
        room = self._keys.room(room_id, stream.partition)
        record = dict(zip(_ROOM_FIELDS, await self._cache.execute(
            "HMGET", room.record, *_ROOM_FIELDS), strict=True))  # fmt: skip
        rows = await self._call(stream, "fp_chat_room_get", room_id)
        row = rows[0] if rows else None
        if record["owner"] is None or (
            row is not None and int(row["account_db_key"]) != int(record["owner"])
        ):
            return [], False, range(0)
        make = _EventMaker(room_id, record, stream)
        if record["gone"]:
            deletes = (
                [make.event(ROOM_DELETE, room_id)] if row is not None and not row["deleted"] else []
            )
            return deletes, False, range(0)
        if (
            record["shard"] != stream.name
            or record["next_seq"] is None
            or (row is not None and row["deleted"])
        ):
            return [], False, range(0)
        window = await self._cache.execute("LRANGE", room.messages, 0, -1)
        items = [item for item in window if _OURS.match(item)]
        floor = int(record["floor"])
        stored = await self._call(
            stream, "fp_chat_window_get", room_id, len(items) + self._settings.window
        )
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
            make, items, floor, {row["message_id"]: row for row in stored}, stream.partition
        )
        missing = range(0)
        if record["older"] != "0" and floor > 1:
            # Tombstones count: what was deleted is not lost. Where a whole window's length of rows
            # is missing, the rest is looked for among what clients see.
            below = [int(row["seq"]) for row in stored if int(row["seq"]) < floor]
            if not below:
                visible = await self._call(stream, "fp_chat_messages_get", room_id, floor, 1)
                below = [int(row["seq"]) for row in visible]
            missing = range(max(below, default=0) + 1, floor)
        return events, row is None, missing

    async def _lost_messages(
        self,
        make: _EventMaker,
        items: Sequence[str],
        floor: int,
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
        for seq, item in enumerate(items, floor):
            message_id, state = ids[seq - floor], str(states[seq - floor])
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
            if is_tombstone or state.startswith("DELET"):
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
        for name, value in (await self._hash(record)).items():
            made, _, request_hash = value.partition("|")
            if name.startswith("r:") and made == room_id:
                return name[2:], request_hash
        return None, None

    async def _queue_again(
        self, stream: EventStream, room_id: str, events: list[list[str]], is_new: bool
    ) -> str:
        """Returns the first event that was queued, '' for none. In order: while it waits, so do the
        others."""
        keys = self._keys.partition(stream.partition)
        room = keys.room(room_id)
        account_id = await self._cache.execute("HGET", room.record, "account") or ""
        account = keys.account(account_id)
        script_keys = [
            room.record,
            room.messages,
            room.json,
            stream.key,
        ]
        script_keys += [
            account.record,
            account.rooms,
            account.order,
        ]
        first_event = ""
        for start in range(0, len(events), _EVENTS_A_CALL):
            args: list[object] = [
                self._settings.room_list_ttl_s * 1000,
                "1" if is_new and account_id else "",
            ]
            for words in events[start : start + _EVENTS_A_CALL]:
                args += [len(words), *words]
            first = await self._cache.run_script(SCRIPTS["restore_room"], script_keys, args)
            first_event = first_event or first
        return first_event

    async def _call(self, stream: EventStream, procedure: str, *params: object) -> list[Row]:
        return await self._database.call_shard_procedure(int(stream.name), procedure, params)


def _before_dead_letters(
    events: Sequence[list[str]], dead: Set[tuple[str, str]]
) -> list[list[str]]:
    """Events of a room that has dead letters, without those that are dead letters: they were
    written before them. They do not wait for the dead letters (``was``), and where one is refused
    itself, a replay puts it back before them."""
    alive = [words for words in events if (words[3], words[1]) not in dead]
    return [[*words, "was", f"0-{place}"] for place, words in enumerate(alive, start=1)]


def _is_written(found: OlderShard, saved: str) -> bool:
    return found.last_event is not None and mark_of(found.last_event) <= mark_of(saved)


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
