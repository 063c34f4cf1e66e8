"""Writes again what Redis has of the events that a shard's database lost.

Room by room: what the database lacks is queued again at the end of the event stream. A restore that
an outage ends is begun again from what it noted in Redis, and passes over rooms whose events still
wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.logger import Logger
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry
from base_server.service.queue.queue_service import QueueService
from base_server.service.redis_client.errors import CacheCommandError
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.domain.events import BadEvent, read_event
from base_server.template.chat.domain.metrics import (
    EVENTS_WRITTEN_AGAIN,
    MESSAGES_LOST,
    SHARD_OLDER,
)
from base_server.template.chat.domain.ports import ShardDatabase
from base_server.template.chat.persistence.calls import RestoreRoom
from base_server.template.chat.persistence.lost_events import (
    RoomComparison,
    before_dead_letters,
    read_hash,
)
from base_server.template.chat.persistence.older_shards import (
    REPORT_TTL_S,
    OlderShard,
    OlderShards,
    time_of,
)
from base_server.template.chat.settings import ChatSettings

_EVENTS_A_CALL = 100


class _Restored(NamedTuple):
    """What a restore has done for a room so far, as it is noted in Redis. ``first_event``: the
    first that was queued when the room was last compared, '' for none."""

    queued: int = 0
    lost: int = 0
    lost_seqs: str = ""
    first_event: str = ""


class ShardRestore:
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
        self._cache = cache
        self._settings = settings
        self._keys = ChatKeys(cache)
        self._older = OlderShards(cache)
        self._rooms = RoomComparison(database, cache, settings)

    def on_progress(self, progress: Callable[[EventStream], None]) -> None:
        """See :meth:`ShardMarks.on_progress`."""
        self._progress = progress

    async def run(self, stream: EventStream, mark: int, known: int) -> None:
        """Queue again what a database lacks whose mark is ``mark``; Redis knows it up to ``known``.
        The caller has the stream's lock."""
        # What an earlier restore could not bring back is still to be acknowledged.
        earlier = await self._older.find(int(stream.name), stream.partition)
        found = OlderShard(
            int(stream.name),
            stream.partition,
            database_until=time_of(mark),
            known_until=time_of(known),
            written_again=0,
            lost=earlier.lost if earlier else {},
            last_event=None,
        )
        await self._older.add(found)
        keys = self._keys.partition(stream.partition)
        pattern = keys.room("*").record
        done_key = keys.restored_rooms(int(stream.name), mark)
        rooms = [name[len(pattern) - 1 :] for name in sorted(await self._cache.scan(pattern))]
        done = {
            room_id: _Restored(*json.loads(text))
            for room_id, text in (await read_hash(self._cache, done_key)).items()
        }
        dead, left = await self._dead_letters(stream), []
        for room_id in rooms:
            before = done.get(room_id, _Restored())
            # Compared again, however often: a database that is put back once more has lost what was
            # written again. Only what still waits is not queued a second time.
            if before.first_event and await self._waits(stream, before.first_event):
                continue
            try:
                events, is_new, missing = await self._rooms.lost_events(stream, room_id)
                if room_id in dead:
                    events = before_dead_letters(events, dead[room_id])
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
                ("EXPIRE", done_key, REPORT_TTL_S),
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
        # At least the last event that was queued here: later ones only delay the end of the alarm.
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

    async def forget(self, stream: EventStream, mark: int) -> None:
        """Everything that :meth:`run` queued for this mark is done: drop the notes of its rooms."""
        keys = self._keys.partition(stream.partition)
        await self._cache.execute("DEL", keys.restored_rooms(int(stream.name), mark))

    async def _queue_again(
        self, stream: EventStream, room_id: str, events: list[list[str]], is_new: bool
    ) -> str:
        """Returns the first event that was queued, '' for none. In order: while it waits, so do the
        others."""
        keys = self._keys.partition(stream.partition)
        room = keys.room(room_id)
        account_id = await self._cache.execute("HGET", room.record, "account") or ""
        account = keys.account(account_id)
        first_event = ""
        for start in range(0, len(events), _EVENTS_A_CALL):
            words: list[object] = []
            for event in events[start : start + _EVENTS_A_CALL]:
                words += [len(event), *event]
            call = RestoreRoom(
                room=room,
                account=account,
                event_stream=stream.key,
                note_ttl_ms=self._settings.room_list_ttl_s * 1000,
                list_changes=bool(is_new and account_id),
                words=words,
            )
            first = await call.run(self._cache)
            first_event = first_event or first
        return first_event

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
