"""The hybrid store: every write one script, every read Redis first, MySQL behind.

A script that answers COLD names what it misses; the loader brings it and the script runs again.
Operations are safe to call again with the ids they were given (``lua/*.lua`` answer what they
answered first), so one retry after a lost connection is the client's own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.cache.cache_client import CacheClient
from service.core.errors import ServiceUnavailable
from template.base.errors import (
    IdempotencyMismatch,
    MessageNotFound,
    NotAllowedInState,
    RoomBusy,
    RoomNotFound,
    ServiceDown,
    TooManyRequests,
)
from template.chat.chat_events import payload
from template.chat.chat_keys import ChatKeys
from template.chat.chat_lanes import ChatLanes
from template.chat.chat_loader import ChatLoader, Loaded, ShardDatabase, row_entry
from template.chat.chat_owner import Owner
from template.chat.chat_scripts import SCRIPTS, Answer
from template.chat.chat_settings import ChatSettings
from template.chat.chat_text import body_hash, from_json, iso_of_ms, open_tail, to_json
from template.chat.common.chat_model import ChatRoom

# A record can go cold again between its load and the script; more often than this it is an outage.
_MAX_LOADS = 6


@dataclass(frozen=True)
class RoomPage:
    rooms: list[ChatRoom]
    total: int
    stale: bool = False


@dataclass(frozen=True)
class Turn:
    """The right to answer one question, or a place in the queue for it. ``token`` names it in every script."""

    token: str
    owner: Owner
    room_id: str
    reply_id: str
    reply_seq: int
    question_id: str
    deadline_ms: int
    persona: str


@dataclass(frozen=True)
class Accepted:
    """A stored question and its reply, as list entries. ``turn`` None: they were sent before (nothing new runs).

    ``granted``: the turn is ours now and ``history`` is the entries before the question; else it waits.
    """

    question: str
    reply: str
    turn: Turn | None = None
    granted: bool = False
    history: Sequence[str] = ()


@dataclass(frozen=True)
class NewMessage:
    """What a send brings. Ids are made before the first call and are the operation's identity.

    ``persona`` None: the room's own."""

    question_id: str
    reply_id: str
    token: str
    content: str
    persona: str | None
    client_message_id: str | None
    on_busy: str


class ChatStore:
    """Rooms and messages of accounts. Raises ApiError subclasses, and ServiceUnavailable on an outage."""

    def __init__(
        self,
        cache: CacheClient,
        database: ShardDatabase,
        loader: ChatLoader,
        lanes: ChatLanes,
        settings: ChatSettings,
    ) -> None:
        self._cache = cache
        self._database = database
        self._loader = loader
        self._lanes = lanes
        self._settings = settings
        self._keys = ChatKeys(cache)

    def check_room_id(self, owner: Owner, room_id: str) -> None:
        """An id of another partition is of another account: not found, without a look."""
        if self._cache.partitions.of_id(room_id) != owner.partition:
            raise RoomNotFound

    async def create_room(
        self, owner: Owner, title: str, persona: str, *, request_hash: str, client_request_id: str | None
    ) -> ChatRoom:
        """A new room, or the one that this client_request_id made before. Usable the moment this returns."""
        keys, partition = self._keys, owner.partition
        room_id = self._cache.partitions.new_id(partition)
        event = payload(
            owner,
            room_id,
            title=title,
            ai_persona=persona,
            client_request_id=client_request_id,
            request_hash=request_hash if client_request_id else None,
        )
        known_new = "0"
        for _ in range(_MAX_LOADS):
            answer = await self._cache.run_script(
                SCRIPTS["create_room"],
                [
                    *self._account_keys(owner),
                    keys.epoch(partition),
                    keys.room_record(room_id, partition),
                    keys.room(room_id, partition),
                    keys.room_state(room_id, partition),
                    self._lanes.stream_key(partition, owner.shard_id),
                    keys.account_load(owner.account_id, partition),
                ],
                [
                    owner.db_key,
                    owner.account_id,
                    owner.shard_id,
                    room_id,
                    to_json(title),
                    to_json(persona),
                    event,
                    client_request_id or "",
                    request_hash,
                    known_new,
                    self._id_time(client_request_id),
                    self._lanes.max_backlog,
                    self._settings.max_rooms_per_account,
                ],
            )
            match answer[0]:
                case Answer.COLD:
                    await self._loader.load_account(owner)
                case Answer.UNSURE:
                    made = await self._database.call_shard_procedure(
                        owner.shard_id, "fp_chat_room_find_request", (owner.db_key, client_request_id)
                    )
                    if made:
                        if made[0]["request_hash"] != request_hash:
                            raise IdempotencyMismatch
                        return await self.room(owner, made[0]["room_id"])
                    known_new = "1"
                case Answer.OK:
                    self._lanes.noticed(partition, owner.shard_id, answer[2])
                    return _room(answer[1], "PENDING")
                case Answer.REPEAT:
                    return await self.room(owner, answer[1])
                case _:
                    raise self._refusal(answer)
        raise _never_warm()

    async def room(self, owner: Owner, room_id: str) -> ChatRoom:
        """The room as it stands."""
        card, state = await self._cache.execute_many(
            [
                ("GET", self._keys.room(room_id, owner.partition)),
                ("GET", self._keys.room_state(room_id, owner.partition)),
            ]
        )
        if card is None or _state(state) in ("DELETING", "DELETED"):
            if _state(state) in ("DELETING", "DELETED") or await self._loader.load_room(owner, room_id) != Loaded.WARM:
                raise RoomNotFound
            return await self.room(owner, room_id)
        return _room(card, _state(state))

    async def rooms(self, owner: Owner, page: int, limit: int) -> RoomPage:
        """A page of the account's rooms, newest activity first; from MySQL, marked stale, when Redis is away."""
        try:
            return await self._cached_rooms(owner, page, limit)
        except ServiceUnavailable as outage:
            if outage.service != "cache":
                raise
            rows = await self._database.call_shard_procedure(
                owner.shard_id, "fp_chat_rooms_page", (owner.db_key, (page - 1) * limit, limit)
            )
            rooms = [
                ChatRoom(
                    room_id=row["room_id"],
                    title=row["title"],
                    ai_persona=row["ai_persona"],
                    created_at=row["created_at"].isoformat(timespec="milliseconds"),
                    last_message_at=row["last_message_at"].isoformat(timespec="milliseconds"),
                    message_count=row["message_count"],
                    state="ACTIVE",
                )
                for row in rows
            ]
            return RoomPage(rooms, int(rows[0]["total_count"]) if rows else 0, stale=True)

    async def _cached_rooms(self, owner: Owner, page: int, limit: int) -> RoomPage:
        partition = owner.partition
        for _ in range(_MAX_LOADS):
            answer = await self._cache.run_script(
                SCRIPTS["read_rooms"],
                [
                    *self._account_keys(owner),
                    self._keys.epoch(partition),
                    self._keys.room("", partition),
                    self._keys.room_state("", partition),
                ],
                [owner.db_key, (page - 1) * limit, page * limit - 1],
            )
            match answer[0]:
                case Answer.OK:
                    pairs = zip(answer[2::2], answer[3::2], strict=True)
                    return RoomPage([_room(card, state) for card, state in pairs], answer[1])
                case Answer.COLD:
                    await self._loader.load_account(owner)
                case Answer.PARTIAL:
                    for room_id in answer[1:]:
                        await self._loader.load_room(owner, room_id)
        raise _never_warm()

    async def rename_room(self, owner: Owner, room_id: str, title: str) -> None:
        """Change the title; the last one acknowledged wins."""
        self.check_room_id(owner, room_id)
        partition = owner.partition
        answer = await self._on_room(
            owner,
            room_id,
            "update_room",
            [
                *self._room_keys(owner, room_id),
                self._lanes.stream_key(partition, owner.shard_id),
                self._keys.room_load(room_id, partition),
            ],
            [
                owner.db_key,
                room_id,
                to_json(title),
                payload(owner, room_id, title=title),
                self._cache.partitions.new_id(partition),
            ],
        )
        self._lanes.noticed(partition, owner.shard_id, answer[2])

    async def delete_room(self, owner: Owner, room_id: str) -> list[str]:
        """Delete a room for good, its running and waiting replies with it: their ids. Repeating it is no error."""
        self.check_room_id(owner, room_id)
        keys, partition = self._keys, owner.partition
        room_keys = [
            *self._room_keys(owner, room_id),
            self._lanes.stream_key(partition, owner.shard_id),
            keys.room_load(room_id, partition),
            keys.room_state(room_id, partition),
            *self._account_keys(owner),
            keys.account_load(owner.account_id, partition),
            keys.turns(room_id, partition),
            keys.leases(partition),
            keys.reply_stream(room_id, "", partition),
            keys.message_state("", partition),
        ]
        args = [owner.db_key, room_id, payload(owner, room_id), self._settings.state_ttl_s * 1000]
        for _ in range(_MAX_LOADS):
            answer = await self._cache.run_script(SCRIPTS["delete_room"], room_keys, args)
            match answer[0]:
                case Answer.OK:
                    self._lanes.noticed(partition, owner.shard_id, answer[1])
                    return list(answer[2:])
                case Answer.REPEAT:
                    return []
                case Answer.COLD if answer[1] == "account":
                    await self._loader.load_account(owner)
                case Answer.COLD:
                    loaded = await self._loader.load_room(owner, room_id)
                    if loaded is Loaded.DELETED:
                        return []
                    if loaded is Loaded.UNKNOWN:
                        raise RoomNotFound
                case _:
                    raise self._refusal(answer)
        raise _never_warm()

    async def accept(self, owner: Owner, room_id: str, message: NewMessage) -> Accepted:
        """Store a question and open its reply; G1: when this returns, both are in Redis with the event."""
        self.check_room_id(owner, room_id)
        known_new = "0"
        keys, args = self._accept_call(owner, room_id, message)
        for _ in range(_MAX_LOADS):
            args[10] = known_new
            answer = await self._cache.run_script(SCRIPTS["accept_send"], keys, args)
            match answer[0]:
                case Answer.COLD if answer[1] == "account":
                    await self._loader.load_account(owner)
                case Answer.COLD:
                    await self._warm(owner, room_id)
                case Answer.UNSURE:
                    if (sent := await self._sent_before(owner, room_id, message)) is not None:
                        return sent
                    known_new = "1"
                case Answer.OK:
                    self._lanes.noticed(owner.partition, owner.shard_id, answer[5])
                    turn = read_turn(answer[6], owner, room_id)
                    return Accepted(answer[2], answer[3], turn, bool(answer[4]), answer[7:])
                case Answer.REPEAT:
                    return Accepted(answer[1], answer[2])
                case _:
                    raise self._refusal(answer)
        raise _never_warm()

    def _accept_call(self, owner: Owner, room_id: str, message: NewMessage) -> tuple[list[str], list[Any]]:
        keys, partition = self._keys, owner.partition
        fingerprint = body_hash(message.content, message.persona)
        event = payload(
            owner,
            room_id,
            message_data={
                "message_id": message.question_id,
                "sender_type": "USER",
                "content": message.content,
            },
            client_message_id=message.client_message_id,
            body_hash=fingerprint if message.client_message_id else None,
        )
        script_keys = [
            *self._room_keys(owner, room_id),
            self._lanes.stream_key(partition, owner.shard_id),
            keys.room_load(room_id, partition),
            *self._account_keys(owner),
            keys.account_load(owner.account_id, partition),
            keys.message_state(message.question_id, partition),
            keys.message_state(message.reply_id, partition),
            keys.turns(room_id, partition),
            keys.leases(partition),
        ]
        return script_keys, [
            owner.db_key,
            room_id,
            message.question_id,
            message.reply_id,
            message.token,
            open_tail("USER", message.content, None),
            open_tail("AI", "", message.question_id, streaming=True),
            event,
            message.client_message_id or "",
            fingerprint,
            "0",
            self._id_time(message.client_message_id),
            message.on_busy,
            self._settings.max_waiting_turns,
            self._lanes.max_backlog,
            round(self._settings.reply_lease_s * 1000),
            round(self._settings.reply_deadline_s * 1000),
            self._settings.history_length,
            to_json(message.persona) if message.persona else "",
        ]

    async def _sent_before(self, owner: Owner, room_id: str, message: NewMessage) -> Accepted | None:
        """What MySQL knows of this client_message_id: the two messages of the first send, or None."""
        rows = await self._database.call_shard_procedure(
            owner.shard_id, "fp_chat_message_find_client", (room_id, message.client_message_id)
        )
        if not rows:
            return None
        if rows[0]["body_hash"] != body_hash(message.content, message.persona):
            raise IdempotencyMismatch
        pair = await self._database.call_shard_procedure(
            owner.shard_id, "fp_chat_messages_get", (room_id, int(rows[0]["seq"]) + 2, 2)
        )
        by_id = {row["message_id"]: row for row in pair}
        question, reply = by_id.get(rows[0]["message_id"]), by_id.get(rows[0]["reply_message_id"])
        if question is None or reply is None:
            raise NotAllowedInState("the message that this client_message_id sent, or its reply, was deleted")
        return Accepted(row_entry(room_id, question), row_entry(room_id, reply))

    async def message_states(self, owner: Owner, *message_ids: str) -> list[str | None]:
        """The states as they stand; None for a key that is absent."""
        texts = await self._cache.execute_many(
            [("GET", self._keys.message_state(message_id, owner.partition)) for message_id in message_ids]
        )
        return [_state(text) for text in texts]

    async def delete_message(self, owner: Owner, room_id: str, message_id: str) -> None:
        """Delete a message; a reply that runs is ended. Repeating it is no error."""
        self.check_room_id(owner, room_id)
        if self._cache.partitions.is_own_id(message_id) not in (None, owner.partition):
            await self._warm_or_not_found(owner, room_id)
            raise MessageNotFound
        keys, partition = self._keys, owner.partition
        script_keys = [
            *self._room_keys(owner, room_id),
            self._lanes.stream_key(partition, owner.shard_id),
            keys.room_load(room_id, partition),
            keys.message_state(message_id, partition),
            keys.leases(partition),
            keys.turns(room_id, partition),
            keys.reply_stream(room_id, message_id, partition),
        ]
        event = payload(owner, room_id, message_id=message_id)
        ready_ms = round(self._settings.reply_lease_s * 1000)
        seq = ""
        for _ in range(_MAX_LOADS):
            answer = await self._cache.run_script(
                SCRIPTS["delete_message"], script_keys, [owner.db_key, room_id, message_id, seq, event, ready_ms]
            )
            match answer[0]:
                case Answer.OK:
                    self._lanes.noticed(partition, owner.shard_id, answer[1])
                    return
                case Answer.REPEAT:
                    return
                case Answer.LOST:
                    raise MessageNotFound
                case Answer.COLD:
                    await self._warm(owner, room_id)
                case Answer.UNSURE:
                    rows = await self._database.call_shard_procedure(
                        owner.shard_id, "fp_chat_message_find", (room_id, message_id)
                    )
                    if not rows:
                        raise MessageNotFound
                    if rows[0]["deleted"]:
                        return
                    seq = str(rows[0]["seq"])
                case _:
                    raise self._refusal(answer)
        raise _never_warm()

    async def _on_room(self, owner: Owner, room_id: str, script: str, keys: list[str], args: list[Any]) -> list[Any]:
        for _ in range(_MAX_LOADS):
            answer: list[Any] = await self._cache.run_script(SCRIPTS[script], keys, args)
            if answer[0] == Answer.OK:
                return answer
            if answer[0] != Answer.COLD:
                raise self._refusal(answer)
            await self._warm(owner, room_id)
        raise _never_warm()

    async def _warm(self, owner: Owner, room_id: str) -> None:
        if await self._loader.load_room(owner, room_id) is not Loaded.WARM:
            raise RoomNotFound

    async def _warm_or_not_found(self, owner: Owner, room_id: str) -> None:
        """Raise RoomNotFound unless the room is the owner's, loading it when need be."""
        record = await self._cache.execute("HGET", self._keys.room_record(room_id, owner.partition), "owner")
        if record is None:
            await self._warm(owner, room_id)
        elif record != str(owner.db_key):
            raise RoomNotFound

    def _room_keys(self, owner: Owner, room_id: str) -> list[str]:
        """Record, messages, card, epoch: how the KEYS of every room script begin."""
        keys, partition = self._keys, owner.partition
        return [
            keys.room_record(room_id, partition),
            keys.messages(room_id, partition),
            keys.room(room_id, partition),
            keys.epoch(partition),
        ]

    def _account_keys(self, owner: Owner) -> list[str]:
        """Record, rooms, order of the account."""
        keys, account_id, partition = self._keys, owner.account_id, owner.partition
        return [
            keys.account_record(account_id, partition),
            keys.account_rooms(account_id, partition),
            keys.account_order(account_id, partition),
        ]

    def _id_time(self, client_id: str | None) -> str:
        """ISO time of a UUIDv7 made by the client; '' when its id proves nothing by its time."""
        if not client_id:
            return ""
        ms = self._cache.partitions.id_time_ms(client_id)
        return "" if ms is None or ms > 253_402_300_799_000 else iso_of_ms(ms)

    def _refusal(self, answer: Sequence[Any]) -> Exception:
        """The one translator of a script's refusal into the error that the caller sees."""
        match answer[0]:
            case Answer.NOT_FOUND:
                return RoomNotFound()
            case Answer.BUSY:
                return RoomBusy("a reply is running in this room", retry_after_s=1.0, details={"message_id": answer[1]})
            case Answer.MISMATCH:
                return IdempotencyMismatch()
            case Answer.REFUSED:
                return NotAllowedInState("the message that this client_message_id sent, or its reply, was deleted")
            case Answer.FULL if answer[1] == "rooms":
                limit = self._settings.max_rooms_per_account
                return TooManyRequests(f"this account has {limit} rooms, the most that it may have")
            case Answer.FULL:
                return ServiceDown("too much is waiting to be written, try again", retry_after_s=5.0)
        return AssertionError(f"a chat script answered {list(answer)[:2]}")


def read_turn(text: str, owner: Owner, room_id: str) -> Turn:
    """A turn as lua/accept_send.lua writes it: token|reply id|reply seq|question id|deadline ms|persona as JSON."""
    token, reply_id, reply_seq, question_id, deadline_ms, persona = text.split("|", 5)
    return Turn(token, owner, room_id, reply_id, int(reply_seq), question_id, int(deadline_ms), from_json(persona))


def _room(card: str, state: str | None) -> ChatRoom:
    # A missing state of a listed room: settled longer ago than the state TTL.
    return ChatRoom(**from_json(card), state=state or "ACTIVE")


def _state(text: str | None) -> str | None:
    return text.partition("|")[0] if text else None


def _never_warm() -> ServiceUnavailable:
    return ServiceUnavailable("cache", "the record went cold again after every load")
