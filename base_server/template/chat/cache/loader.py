"""Cold to warm: reads a room or an account's list from MySQL into Redis, whole or not at all.

One loader per room or account and process (single flight). The load begins with a token, shared
with loaders of other processes, that any write deletes, and only when nothing of it is still on its
way to MySQL; ``lua/begin_load.lua`` and ``lua/fill_*.lua`` decide, this module carries.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.template.base.envelope import INT64_MAX
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.load_calls import (
    AlreadyLoaded,
    BeginLoad,
    DropWrongTypes,
    EventsWait,
    FinishAccountLoad,
    FinishRoomLoad,
    LoadBegun,
    LoadDone,
    LoadUnit,
    NotWhole,
)
from base_server.template.chat.cache.scripts import NeedsDatabase, NotFound
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import open_payload
from base_server.template.chat.domain.message_format import (
    LAST_MS,
    from_json,
    iso,
    iso_of_ms,
    message_body,
    ms_of,
    open_message_body,
    stored_message,
    stored_row,
    to_json,
    tombstone,
)
from base_server.template.chat.domain.ports import Row, ShardDatabase
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.replies.slot import ReplySlot, parse_slot
from base_server.template.chat.rooms.directory import ChatDirectory
from base_server.template.chat.settings import ChatSettings

# A question, and the turn of its reply.
_Asked = tuple[Row, ReplySlot]
_TOKEN_TTL_MS = 30_000
# A process looks this often whether the turn of a question has come, and so learns that Redis has
# lost it.
_LOST_TURN_WAIT_S = 1.0


class Loaded(Enum):
    """How a load ended: in Redis now; unknown (or another account's); deleted, and it was
    yours."""

    LOADED = "loaded"
    UNKNOWN = "unknown"
    DELETED = "deleted"


# What a load was overtaken by has changed what it read: it begins again.
_ENDS = {LoadDone: Loaded.LOADED, NotFound: Loaded.DELETED}


class RoomCreator(Protocol):
    """Makes a room while the load token still stands; None when it does not. ``has_messages``:
    MySQL has some of it."""

    async def __call__(self, token: str, *, has_messages: bool) -> Loaded | None: ...


class ChatLoader:
    """Loads what a script answered NOT_LOADED for. ``cache`` is the bulk client: fills do not queue
    before requests.

    ``interrupt`` ends a reply that runs elsewhere with what was streamed of it. ``check_mark``
    (shard, partition) has written again what the shard's database lost, if it came back older."""

    def __init__(
        self,
        cache: CacheClient,
        database: ShardDatabase,
        streams: EventStreams,
        interrupt: Callable[[ReplySlot], Awaitable[object]],
        check_mark: Callable[[int, int], Awaitable[None]],
        settings: ChatSettings,
        tasks: TaskRegistry,
        directory: ChatDirectory,
    ) -> None:
        self._directory = directory
        self._cache = cache
        self._check_mark = check_mark
        self._database = database
        self._streams = streams
        self._interrupt = interrupt
        self._settings = settings
        self._tasks = tasks
        self._keys = ChatKeys(cache)
        self._running: dict[tuple[str, str, int], asyncio.Task[Loaded]] = {}

    async def load_room(self, caller: Caller, room_id: str) -> Loaded:
        """Raises ServiceUnavailable when Redis or MySQL is away, or the room's backlog is not
        written in time."""
        return await self._single_flight(
            ("room", room_id, caller.db_key), lambda: self._load_room(caller, room_id)
        )

    async def load_or_create(self, caller: Caller, room_id: str, create: RoomCreator) -> Loaded:
        """As :meth:`load_room`; a room that MySQL does not know is made by ``create``."""
        return await self._load_room(caller, room_id, create)

    async def load_account(self, caller: Caller) -> Loaded:
        """As :meth:`load_room`, for the list of rooms."""
        return await self._single_flight(
            ("account", caller.account_id, caller.db_key), lambda: self._load_account(caller)
        )

    async def drop_wrong_types(self, caller: Caller, room_id: str) -> None:
        """Let keys of the room ('' for none) and of the account's list that are of another type
        count as missing."""
        keys = self._keys.partition(caller.partition)
        stream = self._streams.stream_key(caller.partition, caller.shard_id)
        account = keys.account(caller.account_id)
        calls = [
            DropWrongTypes(
                event_stream=stream,
                room_or_account_record=account.record,
                lists=[account.rooms, account.order],
                list_types=["set", "zset"],
            )
        ]
        if room_id:
            room = keys.room(room_id)
            calls.append(
                DropWrongTypes(
                    event_stream=stream,
                    room_or_account_record=room.record,
                    lists=[room.messages, room.json, room.waiting],
                    list_types=["list", "string", "list"],
                )
            )
        for call in calls:
            await call.run(self._cache)

    async def _single_flight(
        self, key: tuple[str, str, int], work: Callable[[], Coroutine[Any, Any, Loaded]]
    ) -> Loaded:
        if (task := self._running.get(key)) is None:
            task = self._running[key] = self._tasks.spawn(work(), f"load {key[0]}")
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def _load_room(
        self, caller: Caller, room_id: str, create: RoomCreator | None = None
    ) -> Loaded:
        if not await self._bring_home(caller, room_id, is_new=create is not None):
            return Loaded.UNKNOWN
        keys = self._keys.partition(caller.partition)
        room = keys.room(room_id)
        waited: set[str] = set()

        async def attempt(begun: LoadBegun) -> Loaded | None:
            rows = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_room_get", (room_id,)
            )
            if not rows and await self._wait_for_backlog(caller):
                # Its keys may be gone while its create still waits.
                rows = await self._database.call_shard_procedure(
                    caller.shard_id, "fp_chat_room_get", (room_id,)
                )
            if not rows and create is not None:
                # Messages may have come before their room: another account's are not for this one.
                rows = await self._database.call_shard_procedure(
                    caller.shard_id, "fp_chat_room_owner_get", (room_id,)
                )
                if not rows or int(rows[0]["account_db_key"]) == caller.db_key:
                    return await create(begun.token, has_messages=bool(rows))
            if not rows or int(rows[0]["account_db_key"]) != caller.db_key:
                return Loaded.UNKNOWN
            if rows[0]["deleted"]:
                return Loaded.DELETED
            window = await self._read_window(caller, room_id, rows[0], begun.open_slots)
            if not waited.issuperset(window.lost):
                waited.update(window.lost)
                await self._wait_for_lost_replies(caller)
                return None
            slots = [slot.text for slot in window.open]
            done = await FinishRoomLoad(
                room=room,
                partition=keys,
                message_states=keys.message_state(""),
                reply_streams=room.reply_stream(""),
                event_stream=self._streams.stream_key(caller.partition, caller.shard_id),
                token=begun.token,
                begun_in=begun.generation,
                last_event=begun.last_event,
                window_ttl_ms=self._settings.message_list_ttl_s * 1000,
                json_ttl_ms=self._settings.room_list_ttl_s * 1000,
                stream_ttl_ms=self._settings.stream_ttl_s * 1000,
                lease_ms=round(self._settings.reply_lease_s * 1000),
                ready_lease_ms=self._settings.ready_lease_ms,
                room_id=room_id,
                last_ms=max(ms_of(rows[0]["last_message_at"]), window.last_ms),
                count=int(rows[0]["message_count"]) + len(slots) + len(window.lost),
                title=to_json(rows[0]["title"]),
                persona=to_json(rows[0]["ai_persona"]),
                created=iso(rows[0]["created_at"]),
                payload_start=open_payload(caller, room_id),
                open_count=len(slots),
                field_count=len(window.fields),
                lost_count=len(window.ends),
                values=[*slots, *window.fields, *window.ends, *window.entries],
            ).run(self._cache)
            return _ENDS.get(type(done))

        unit = LoadUnit("room", room_id, room.record, room.load_token, room.messages, room.json)
        return await self._load(unit, caller, attempt)

    async def _bring_home(self, caller: Caller, room_id: str, *, is_new: bool) -> bool:
        """A room with an id of a host's own has its keys in its account's partition once it is
        loaded. Events that were sent before for where the id is hashed to are in MySQL first; later
        ones are sent, or moved, to this stream.

        False: it is not this account's; nothing is noted for ids that somebody makes up."""
        if self._cache.partitions.of_id(room_id) == caller.partition:
            return True
        if not is_new and await self._directory.partition_of(room_id) != caller.partition:
            rows = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_room_get", (room_id,)
            )
            if not rows or int(rows[0]["account_db_key"]) != caller.db_key:
                return False
        hashed = await self._directory.move_home(room_id, caller.partition)
        await self._streams.wait_until_written(
            hashed, caller.shard_id, self._settings.load_timeout_s
        )
        return True

    async def _wait_for_backlog(self, caller: Caller) -> bool:
        """Have the events written that wait in the account's stream now; False when none does."""
        return await self._streams.wait_until_written(
            caller.partition, caller.shard_id, self._settings.load_timeout_s
        )

    async def _last_seq(self, caller: Caller, room_id: str) -> int:
        """How far MySQL knows the room; further than any record for one that is deleted."""
        rows = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_room_get", (room_id,)
        )
        if not rows:
            return 0
        return INT64_MAX if rows[0]["deleted"] else int(rows[0]["last_seq"])

    async def _has_dead_letters(self, caller: Caller, room_id: str) -> bool:
        """Then what would end a reply of the room waits behind them."""
        blocked = self._streams.blocked_rooms_key(caller.partition, caller.shard_id)
        return bool(await self._cache.execute("HEXISTS", blocked, room_id))

    async def _wait_for_lost_replies(self, caller: Caller) -> None:
        """MySQL has their questions, Redis has lost the replies. A process that runs one, or awaits
        its turn, gives it back within this time, and the end of one may be among the events that
        are not written yet. What is still lost then ends in the step that fills the room."""
        await asyncio.sleep(_LOST_TURN_WAIT_S + self._settings.reply_lease_s / 3)
        await self._wait_for_backlog(caller)

    async def _end_lost_turn(self, caller: Caller, room_id: str, turn: str) -> bool:
        """False: the room is not this owner's. (All of its events are in MySQL.)"""
        rows = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_room_get", (room_id,)
        )
        if not rows or int(rows[0]["account_db_key"]) != caller.db_key:
            return False
        await self._interrupt(parse_slot(turn, caller, room_id))
        return True

    async def _load_account(self, caller: Caller) -> Loaded:
        keys = self._keys.partition(caller.partition)
        account, rooms = keys.account(caller.account_id), keys.room("")

        async def attempt(begun: LoadBegun) -> Loaded | None:
            rows = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_rooms_get", (caller.db_key,)
            )
            latest = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_request_id_latest", (caller.db_key,)
            )
            values: list[object] = []
            for row in rows:
                values += [
                    row["room_id"],
                    ms_of(row["last_message_at"]),
                    to_json(row["title"]),
                    to_json(row["ai_persona"]),
                    iso(row["created_at"]),
                    row["message_count"],
                    row["client_request_id"] or "",
                    row["request_hash"] or "",
                ]
            latest_id = latest[0]["client_request_id"] if latest else None
            done = await FinishAccountLoad(
                caller=caller,
                account=account,
                partition=keys,
                room_records=rooms.record,
                room_jsons=rooms.json,
                room_states=rooms.state,
                blocked_rooms=self._streams.blocked_rooms_key(caller.partition, caller.shard_id),
                account_name=keys.account_name(caller.db_key),
                token=begun.token,
                begun_in=begun.generation,
                ttl_ms=self._settings.room_list_ttl_s * 1000,
                latest_request_time=iso_of_ms(_time_bound_ms(latest_id)) if latest_id else "",
                name_ttl_ms=self._settings.state_ttl_s * 1000,
                rows=values,
            ).run(self._cache)
            return _ENDS.get(type(done))

        unit = LoadUnit(
            "account", "", account.record, account.load_token, account.rooms, account.order
        )
        return await self._load(unit, caller, attempt)

    async def _load(
        self,
        unit: LoadUnit,
        caller: Caller,
        attempt: Callable[[LoadBegun], Coroutine[Any, Any, Loaded | None]],
    ) -> Loaded:
        keys = self._keys.partition(caller.partition)
        call = BeginLoad(
            caller=caller,
            partition=keys,
            unit=unit,
            event_stream=self._streams.stream_key(caller.partition, caller.shard_id),
            watermark=keys.backlog_watermark(caller.shard_id),
            blocked_rooms=self._streams.blocked_rooms_key(caller.partition, caller.shard_id),
            waiters=keys.room(unit.room_id).waiting,
            message_states=keys.message_state(""),
            token_ttl_ms=_TOKEN_TTL_MS,
        )
        deadline = time.monotonic() + self._settings.load_timeout_s
        pause_s = 0.01
        while time.monotonic() < deadline:
            call.token = secrets.token_hex(8)
            match await call.run(self._cache):
                case AlreadyLoaded():
                    return Loaded.LOADED
                case LoadBegun() as begun:
                    if (loaded := await attempt(begun)) is not None:
                        return loaded
                case NeedsDatabase(None):
                    call.stored_last_seq = await self._last_seq(caller, unit.room_id)
                case NeedsDatabase(generation):
                    await self._check_mark(caller.shard_id, caller.partition)
                    call.compared_in = generation
                case NotWhole():
                    raise ServiceUnavailable(
                        "database",
                        "it refused events of this room, and the room is not whole in Redis",
                    )
                case EventsWait(lost):
                    # What its end appends has to be written first, as the other events have.
                    if lost and not await self._end_lost_turn(caller, unit.room_id, lost):
                        return Loaded.UNKNOWN
                    self._streams.flush(caller.partition, caller.shard_id)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, 0.25)
        raise ServiceUnavailable(
            "database", f"the {unit.kind}'s backlog was not written within the load timeout"
        )

    async def _read_window(
        self, caller: Caller, room_id: str, room: Row, open_turns: Sequence[str]
    ) -> _Window:
        """The room's newest messages as Redis keeps them; of ``open_turns`` those that MySQL does
        not contradict."""
        window, last_seq = self._settings.window, int(room["last_seq"])
        floor = max(1, last_seq - window + 1)
        rows = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_window_get", (room_id, window)
        )
        by_seq = {int(row["seq"]): row for row in rows}
        older = "0"
        if floor > 1:
            below = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_messages_get", (room_id, floor, 1)
            )
            older = "1" if below else "0"
        # The tombstone of a message that never came has no time.
        times = (row["created_at"] for row in rows if row["created_at"] is not None)
        since_ms = ms_of(next(times, room["created_at"]))
        if floor > 1:
            since_ms = max(since_ms, await self._latest_client_ms(caller, room_id, since_ms))
        still_open = self._still_open(caller, room_id, open_turns, rows)
        lost = self._lost(caller, room_id, by_seq, {turn.question_id for _, turn in still_open})
        if lost and await self._has_dead_letters(caller, room_id):
            # The end of one may be among them, and what would end it waits behind them.
            lost = []
        placed = _placed([*still_open, *lost], by_seq, last_seq)
        lost_ids = {turn.reply_id for _, turn in lost}
        running = [seq for seq in sorted(placed) if placed[seq][1].reply_id not in lost_ids]
        last_ms = 0
        entries: list[str] = []
        claims: list[Any] = []
        ends: list[Any] = []
        for seq in range(floor, max([last_seq, *placed]) + 1):
            row = by_seq.get(seq)
            if seq in placed:
                question, turn = placed[seq]
                at_ms = ms_of(question["created_at"]) + 1
                last_ms = max(last_ms, at_ms)
                if turn.reply_id in lost_ids:
                    text = _interrupted_tail(turn)
                    entries.append(
                        stored_message(turn.reply_id, room_id, seq, iso_of_ms(at_ms), text)
                    )
                    ends += [turn.reply_id, seq, iso_of_ms(at_ms), text]
                else:
                    entries.append(_running_entry(turn, at_ms))
            else:
                entries.append(tombstone("") if row is None else stored_row(room_id, row))
            if row is not None and row["client_message_id"]:
                claims += [f"c:{row['client_message_id']}", f"{seq}|{row['body_hash']}"]
                claims += [f"s:{seq}", row["client_message_id"]]
                claimed_ms = self._cache.partitions.id_time_ms(row["client_message_id"])
                if claimed_ms is not None and claimed_ms > ms_of(row["created_at"]):
                    since_ms = min(max(since_ms, claimed_ms), LAST_MS)
        fields = ["owner", caller.db_key, "account", caller.account_id, "shard", caller.shard_id]
        fields += [
            "version",
            room["title_version"],
            "floor",
            floor,
            "floor_at",
            iso_of_ms(since_ms),
        ]
        # What is saved behind an open reply is noted apart, as if the reply had never left Redis.
        saved_seq = min([last_seq, *(seq - 1 for seq in placed)])
        ahead = ",".join(
            str(seq) for seq in range(saved_seq + 1, last_seq + 1) if seq not in placed
        )
        fields += [
            "next_seq",
            floor + len(entries),
            "saved_seq",
            saved_seq,
            "ahead",
            ahead,
            "older",
            older,
            *claims,
        ]
        return _Window(
            fields, entries, [placed[seq][1] for seq in running], lost_ids, ends, last_ms
        )

    def _still_open(
        self, caller: Caller, room_id: str, turns: Iterable[str], rows: Sequence[Row]
    ) -> list[_Asked]:
        """Those of ``turns`` whose question MySQL has and whose reply it has not: the others are
        over, or of a Redis that is older than MySQL. A question is found by its id: its number may
        be another than Redis gave it (0033)."""
        by_id = {row["message_id"]: row for row in rows}
        found: dict[str, _Asked] = {}
        for text in turns:
            try:
                turn = parse_slot(text, caller, room_id)
            except ValueError:
                Logger.error("an open turn cannot be read, it is dropped", room_id=room_id)
                continue
            question = by_id.get(turn.question_id)
            if question is None or not question["created_at"] or turn.reply_id in by_id:
                continue
            if self._stand_in_id(turn.question_id) not in by_id:
                found.setdefault(turn.question_id, (question, turn))
        return list(found.values())

    def _lost(
        self, caller: Caller, room_id: str, by_seq: Mapping[int, Row], open_ids: Container[str]
    ) -> list[_Asked]:
        """Questions whose reply neither MySQL has nor Redis knows, with the turn of one that stands
        in for it."""
        # A message whose number was taken may stand elsewhere than behind its question.
        answered = {row["parent_message_id"] for row in by_seq.values()}
        return [
            (row, self._lost_turn(caller, room_id, row))
            for seq, row in by_seq.items()
            if seq + 1 not in by_seq
            and row["message_id"] not in open_ids
            and row["message_id"] not in answered
            and self._is_question(caller, row)
        ]

    def _stand_in_id(self, question_id: str) -> str:
        """Every process that finds the question's reply lost gives it the same id."""
        return self._cache.partitions.derived_id(question_id, "reply")

    def _is_question(self, caller: Caller, row: Row) -> bool:
        """Whether the row was sent by a player, and so has a reply behind it: a host's messages
        need none."""
        is_ours = self._cache.partitions.is_own_id(row["message_id"]) == caller.partition
        return bool(is_ours and row["sender_type"] == "USER" and not row["deleted"])

    def _lost_turn(self, caller: Caller, room_id: str, question: Row) -> ReplySlot:
        """Of the reply to a question that Redis has lost."""
        reply_id = self._stand_in_id(question["message_id"])
        persona = str(from_json(question["metadata"] or "{}").get("ai_persona", ""))
        return ReplySlot(
            reply_id,
            caller,
            room_id,
            reply_id,
            int(question["seq"]) + 1,
            question["message_id"],
            0,
            persona,
        )

    async def _latest_client_ms(self, caller: Caller, room_id: str, after_ms: int) -> int:
        """Time of the latest client_message_id above ``after_ms``, ``after_ms`` itself when there
        is none.

        A client whose clock ran ahead may have sent it below the window: no id up to its time
        proves a new send."""
        digits = f"{after_ms:012x}"
        rows = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_client_id_latest", (room_id, f"{digits[:8]}-{digits[8:]}")
        )
        return _time_bound_ms(rows[0]["client_message_id"]) if rows else after_ms


def _time_bound_ms(client_id: str) -> int:
    """No id that sorts before this one, and has the form of a time-ordered UUID, is of a later
    time."""
    try:
        return min(int(client_id[:8] + client_id[9:13], 16), LAST_MS)
    except ValueError:
        return LAST_MS


@dataclass(frozen=True)
class _Window:
    """A room as it goes into Redis: record fields (name, value, …), one list entry for each seq
    from the floor on.

    ``open``: turns of the replies among them that go on. ``lost``: ids of those that stand in for
    lost ones; ``ends``: id, seq, time and tail of each, one after the other. ``last_ms``: time of
    the latest of all these, 0 without one."""

    fields: list[Any]
    entries: list[str]
    open: list[ReplySlot]
    lost: set[str]
    ends: list[Any]
    last_ms: int


def _placed(turns: Iterable[_Asked], by_seq: Mapping[int, Row], last_seq: int) -> dict[int, _Asked]:
    """By their number: directly after the question; where another message has that, after
    everything else."""
    placed: dict[int, _Asked] = {}
    others: list[_Asked] = []
    for question, turn in turns:
        seq = int(question["seq"]) + 1
        if seq in by_seq:
            others.append((question, turn))
        else:
            placed[seq] = question, replace(turn, reply_seq=seq)
    for question, turn in others:
        seq = max([last_seq, *placed]) + 1
        placed[seq] = question, replace(turn, reply_seq=seq)
    return placed


def _interrupted_tail(turn: ReplySlot) -> str:
    """Of a reply that nobody knows to have said anything: it may have been asked."""
    return message_body(
        "AI",
        "",
        turn.question_id,
        to_json({"ai_persona": turn.persona, "finish_reason": "interrupted"}),
    )


def _running_entry(turn: ReplySlot, at_ms: int) -> str:
    """The list entry of a reply that runs or waits, as lua/accept_send.lua makes it."""
    begun = open_message_body("AI", "", turn.question_id, streaming=True)
    metadata = to_json({"ai_persona": turn.persona})
    return stored_message(
        turn.reply_id, turn.room_id, turn.reply_seq, iso_of_ms(at_ms), f"{begun}{metadata}}}"
    )
