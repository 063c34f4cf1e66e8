"""Writes one batch of a persistence lane to its shard, and settles it.

decode → mark PROCESSING → one bulk procedure a message type → settle. Nothing leaves the stream before
MySQL has committed; run twice, every step has the same result, so a batch that was cut off anywhere is
simply read again, by this process or by another.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from service.cache.cache_client import CacheClient
from service.core.errors import DataRefused
from service.core.logger import Logger
from service.queue.lanes import Lane
from service.queue.message_queue import QueueEntry
from service.queue.queue_service import QueueService
from template.chat.chat_events import (
    MESSAGE_COLUMNS,
    MESSAGE_DELETE,
    MESSAGE_SAVE,
    ROOM_CREATE,
    ROOM_DELETE,
    ROOM_UPDATE,
    WRITE_ORDER,
    BadEvent,
    Event,
    read_event,
)
from template.chat.chat_keys import ChatKeys
from template.chat.chat_loader import ShardDatabase
from template.chat.chat_scripts import SCRIPTS, Answer
from template.chat.chat_settings import ChatSettings
from template.chat.chat_state_machine import ChatStateMachine
from template.chat.chat_states import MessageState
from template.chat.chat_text import tail, to_json

_BULK = {
    ROOM_CREATE: "fp_chat_room_batch_create",
    MESSAGE_SAVE: "fp_chat_message_batch_save",
    ROOM_UPDATE: "fp_chat_room_batch_update_title",
    MESSAGE_DELETE: "fp_chat_message_batch_soft_delete",
    ROOM_DELETE: "fp_chat_room_batch_soft_delete",
}
# How the state of a message from outside ends, which lies where its id is hashed to.
_END_STATES = {MESSAGE_SAVE: (MessageState.SENT,), MESSAGE_DELETE: (MessageState.DELETING, MessageState.DELETED)}
# max_allowed_packet is 16 MiB where nobody set it; JSON may be escaped on the way.
_MAX_CALL_BYTES = 4 * 1024 * 1024


class BatchWriter:
    """``cache`` is the bulk client: batches do not queue before requests."""

    def __init__(
        self,
        queue: QueueService,
        database: ShardDatabase,
        cache: CacheClient,
        states: ChatStateMachine,
        settings: ChatSettings,
    ) -> None:
        self._queue = queue
        self._database = database
        self._cache = cache
        self._states = states
        self._settings = settings
        self._keys = ChatKeys(cache)

    async def write(self, lane: Lane, entries: Sequence[QueueEntry]) -> bool:
        """Write one batch of a lane's head, in order; handler of ``QueueService.drain_lane``.

        Raises ServiceUnavailable when nothing could be settled: the batch stays and is read again."""
        events, buried = [], []
        for entry in entries:
            try:
                events.append(read_event(entry))
            except BadEvent as error:
                buried.append((entry.entry_id, str(error)))
        await self._mark_processing(lane, events)
        for event in [event for event in events if event.kind == MESSAGE_SAVE and event.seq is None]:
            if not await self._place(lane, event):
                events.remove(event)
                buried.append((event.entry_id, f"{MESSAGE_SAVE}: the room is another account's or another shard's"))
        refused = await self._save(int(lane.name), events)
        await self._settle(lane, events, refused)
        buried += refused.items()
        if buried:
            Logger.error("events moved to the dead letters", lane=lane.name, count=len(buried), reason=buried[0][1])
            await self._queue.dead_letter(lane, buried)
        return True

    async def _mark_processing(self, lane: Lane, events: Iterable[Event]) -> None:
        keys = []
        for event in events:
            if event.kind == MESSAGE_SAVE and self._is_of(lane, event):
                keys.append(self._keys.message_state(event.message_id, lane.partition))
            elif event.kind == MESSAGE_SAVE:
                await self._states.transition_message(event.message_id, MessageState.PROCESSING)
            elif event.kind == ROOM_CREATE:
                keys.append(self._keys.room_state(event.room_id, lane.partition))
        if keys:
            await self._cache.run_script(SCRIPTS["mark_processing"], keys, [])

    async def _place(self, lane: Lane, event: Event) -> bool:
        """A save from outside: its seq from the database if it is there already, from the room if that is loaded,
        else (None) from the database when it is stored. False: the room is not the sender's."""
        keys, partition, room_id = self._keys, lane.partition, event.room_id
        row, shard_id = event.row, int(lane.name)
        rooms = await self._call(shard_id, "fp_chat_room_get", room_id)
        if rooms and int(rooms[0]["account_db_key"]) != row["account_db_key"]:
            return False
        if stored := await self._call(shard_id, "fp_chat_message_find", room_id, event.message_id):
            event.seq = row["seq"] = int(stored[0]["seq"])
            return True
        at = row["created_at"].replace(" ", "T") + "+00:00"
        answer = await self._cache.run_script(
            SCRIPTS["adopt_message"],
            [
                keys.room_record(room_id, partition),
                keys.messages(room_id, partition),
                keys.room(room_id, partition),
                keys.epoch(partition),
                keys.room_load(room_id, partition),
            ],
            [
                room_id,
                event.message_id,
                event.entry_id,
                at,
                tail(row["sender_type"], row["content"], row["parent_message_id"], row["metadata"]),
                row["account_db_key"],
                shard_id,
            ],
        )
        if answer[0] == Answer.OK:
            event.seq = row["seq"] = int(answer[1])
        return bool(answer[0] != Answer.REFUSED)

    async def _save(self, shard_id: int, events: Sequence[Event]) -> dict[str, str]:
        """Write the batch; returns the entries that the database refuses for their data: entry id → reason."""
        refused: dict[str, str] = {}
        for kind in WRITE_ORDER:
            group = [
                event for event in events if event.kind == kind and (event.seq is not None or kind != MESSAGE_SAVE)
            ]
            for part in _by_size(group):
                refused |= await self._save_group(shard_id, _BULK[kind], part)
        for event in events:
            if event.kind == MESSAGE_SAVE and event.seq is None:
                refused |= await self._save_unplaced(shard_id, event)
        return refused

    async def _save_group(self, shard_id: int, procedure: str, group: Sequence[Event]) -> dict[str, str]:
        try:
            await self._call(shard_id, procedure, to_json([event.row for event in group]))
        except DataRefused:
            if len(group) == 1:
                return await self._refused_alone(shard_id, procedure, group[0])
            refused: dict[str, str] = {}
            for event in group:
                refused |= await self._save_group(shard_id, procedure, [event])
            return refused
        return {}

    async def _refused_alone(self, shard_id: int, procedure: str, event: Event) -> dict[str, str]:
        """Poison, if the shard works otherwise and refuses it again: the first refusal may have been another process
        writing the same row in the same moment. Raises ServiceUnavailable when the shard does not work."""
        await self._call(shard_id, "fp_chat_room_get", event.room_id)
        try:
            await self._call(shard_id, procedure, to_json([event.row]))
        except DataRefused as error:
            return {event.entry_id: f"{procedure}: {error}"}
        return {}

    async def _save_unplaced(self, shard_id: int, event: Event) -> dict[str, str]:
        row = event.row
        try:
            rows = await self._call(shard_id, "fp_chat_message_save", *(row[name] for name in MESSAGE_COLUMNS))
        except DataRefused as error:
            return {event.entry_id: f"fp_chat_message_save: {error}"}
        event.seq = int(rows[0]["seq"])
        return {}

    async def _call(self, shard_id: int, procedure: str, *params: object) -> list[dict[str, Any]]:
        return await self._database.call_shard_procedure(shard_id, procedure, params)

    async def _settle(self, lane: Lane, events: Sequence[Event], refused: Container[str]) -> None:
        """Note what is in MySQL. What is refused is not: its room, and its account's list, may not expire."""
        if not events:
            return
        written = [event for event in events if event.entry_id not in refused]
        settings, keys, p = self._settings, self._keys, lane.partition
        script_keys = [lane.stream_key]
        args: list[object] = [
            len(written),
            settings.window,
            settings.message_list_ttl_s * 1000,
            settings.room_list_ttl_s * 1000,
            settings.state_ttl_s * 1000,
            *(event.entry_id for event in written),
        ]
        for event in written:
            # A delete is always ours, so its state lies in the lane's partition, whatever the message's id.
            if event.kind == MESSAGE_DELETE or (event.kind == MESSAGE_SAVE and self._is_of(lane, event)):
                script_keys.append(keys.message_state(event.message_id, p))
                args += ["m", "saved" if event.kind == MESSAGE_SAVE else "deleted"]
        for room_id, of_room in _grouped(events, lambda event: event.room_id):
            script_keys += [keys.room_record(room_id, p), keys.messages(room_id, p)]
            script_keys += [keys.room(room_id, p), keys.room_state(room_id, p)]
            saved = [event for event in of_room if event.entry_id not in refused]
            last, dead = _last_and_dead(of_room, refused)
            args += ["r", _room_change(saved), last, ",".join(_saved_seqs(saved)), dead]
        # Only a create, a question and a room's delete touch the account's list.
        touching = [event for event in events if event.account_id and _touches_account(event)]
        for account_id, of_account in _grouped(touching, lambda event: event.account_id):
            script_keys += [keys.account_record(account_id, p), keys.account_rooms(account_id, p)]
            script_keys.append(keys.account_order(account_id, p))
            args += ["a", *_last_and_dead(of_account, refused)]
        await self._cache.run_script(SCRIPTS["settle"], script_keys, args)
        for event in written:
            if event.kind in _END_STATES and not self._is_of(lane, event):
                for state in _END_STATES[event.kind]:
                    await self._states.transition_message(event.message_id, state)

    def _is_of(self, lane: Lane, event: Event) -> bool:
        """Does the message's state lie in the lane's partition? (An id that is not ours is hashed.)"""
        return self._cache.partitions.of_id(event.message_id) == lane.partition


def _grouped(events: Iterable[Event], key: Callable[[Event], str]) -> Iterable[tuple[str, list[Event]]]:
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(key(event), []).append(event)
    return groups.items()


def _last_and_dead(events: Sequence[Event], refused: Container[str]) -> tuple[str, str]:
    """The last entry of these that was written, and '1' when one of them was refused."""
    written = [event.entry_id for event in events if event.entry_id not in refused]
    return written[-1] if written else "0-0", "1" if len(written) < len(events) else ""


def _by_size(group: Sequence[Event]) -> Iterable[Sequence[Event]]:
    """The group in parts that fit into one packet of the database; nearly always it is one part."""
    start = size = 0
    for index, event in enumerate(group):
        row_size = len(to_json(event.row).encode())
        if index > start and size + row_size > _MAX_CALL_BYTES:
            yield group[start:index]
            start, size = index, 0
        size += row_size
    if group:
        yield group[start:]


def _room_change(events: Sequence[Event]) -> str:
    kinds = {event.kind for event in events}
    if ROOM_DELETE in kinds:
        return "deleted"
    return "created" if ROOM_CREATE in kinds else ""


def _saved_seqs(events: Sequence[Event]) -> list[str]:
    """A message deleted before it was saved has its row too: a tombstone with its seq."""
    kinds = (MESSAGE_SAVE, MESSAGE_DELETE)
    return [str(event.seq) for event in events if event.kind in kinds and event.seq is not None]


def _touches_account(event: Event) -> bool:
    if event.kind == MESSAGE_SAVE:
        return bool(event.row["sender_type"] == "USER")
    return event.kind in (ROOM_CREATE, ROOM_DELETE)
