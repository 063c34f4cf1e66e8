"""Rooms: create, list, rename, delete."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from base_server.service.core.errors import ServiceUnavailable
from base_server.template.base.errors import IdempotencyMismatch, RoomNotFound
from base_server.template.chat.cache.loader import Loaded
from base_server.template.chat.cache.records import UNNAMED_VERSION
from base_server.template.chat.cache.script_runner import RoomGone, ScriptRunner, state_name
from base_server.template.chat.cache.scripts import SCRIPTS, Answer
from base_server.template.chat.common.chat_model import ChatRoom
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import payload
from base_server.template.chat.domain.message_format import (
    body_hash,
    from_json,
    iso,
    ms_of,
    to_json,
)
from base_server.template.chat.domain.states import GONE, ROOM_STATE_CODES, RoomState

DEFAULT_TITLE = "New chat"
_MAX_REPAIRS = 3
# A call is repeated within its time-outs and a load.
_OPERATION_NOTE_MS = 300_000


@dataclass(frozen=True)
class RoomPage:
    """``texts`` are JSON as it goes to the client; ``total`` counts all live rooms of the account; ``stale``: from
    MySQL, Redis was away."""

    texts: list[str]
    total: int
    stale: bool = False

    @property
    def json(self) -> str:
        return f"[{','.join(self.texts)}]"

    def rooms(self) -> list[ChatRoom]:
        return [ChatRoom(**from_json(text)) for text in self.texts]


class RoomRepository(ScriptRunner):
    """The rooms of accounts."""

    async def create(
        self, caller: Caller, persona: str, title: str | None, client_request_id: str | None
    ) -> ChatRoom:
        """A new room, or the one that this client_request_id made before. Usable the moment this returns.

        ``title`` None: the default one until the first message names it."""
        room_id = self._keys.new_id(caller.partition)
        request_hash = body_hash(title, persona)
        version = UNNAMED_VERSION if title is None else 0
        keys, args = self._create_call(
            caller,
            room_id,
            persona,
            title or DEFAULT_TITLE,
            version,
            client_request_id,
            request_hash,
        )
        while (answer := await self._run("create_room", caller, room_id, keys, args))[
            0
        ] == Answer.UNSURE:
            made = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_room_find_request", (caller.db_key, client_request_id)
            )
            if made:
                if made[0]["request_hash"] != request_hash:
                    raise IdempotencyMismatch
                return await self.get(caller, made[0]["room_id"])
            args[9] = answer[1]
        if answer[0] == Answer.REPEAT:
            return await self.get(caller, answer[1])
        self._report_backlog(caller, answer[2])
        return _room(answer[1], "PENDING")

    def _create_call(
        self,
        caller: Caller,
        room_id: str,
        persona: str,
        title: str,
        title_version: int,
        client_request_id: str | None,
        request_hash: str,
    ) -> tuple[list[str], list[Any]]:
        keys = self._keys.partition(caller.partition)
        room, account = keys.room(room_id), keys.account(caller.account_id)
        event = payload(
            caller,
            room_id,
            title=title,
            title_version=title_version,
            ai_persona=persona,
            client_request_id=client_request_id,
            request_hash=request_hash if client_request_id else None,
        )
        script_keys = [
            account.record,
            account.rooms,
            account.order,
            keys.generation,
            room.record,
            room.json,
            room.state,
            self._stream(caller),
            account.load_token,
            room.load_token,
        ]
        return script_keys, [
            caller.db_key,
            caller.account_id,
            caller.shard_id,
            room_id,
            to_json(title),
            to_json(persona),
            event,
            client_request_id or "",
            request_hash,
            "",
            self._id_time(client_request_id),
            self._streams.max_backlog,
            self._settings.max_rooms_per_account,
            title_version,
            "",
            "",
            "",
            "",
        ]

    async def adopt(
        self, caller: Caller, room_id: str, persona: str, title: str | None, created_at: datetime
    ) -> None:
        """A room under an id of a host's own, from its event: usable, and in the list, the moment this returns. One
        that is there, or was deleted, stays as it is. ``title`` None: as for :meth:`create`."""
        self.check_room_id(caller, room_id)
        version = UNNAMED_VERSION if title is None else 0
        keys, args = self._create_call(
            caller, room_id, persona, title or DEFAULT_TITLE, version, None, ""
        )

        async def create(token: str, *, has_messages: bool) -> Loaded | None:
            # Asked for in MySQL under this token: if anything was written since, it is asked again.
            args[14:] = [iso(created_at), ms_of(created_at), token, "1" if has_messages else ""]
            try:
                answer = await self._run("create_room", caller, room_id, keys, args)
            except RoomNotFound:
                return Loaded.DELETED
            if answer[0] == Answer.OK:
                self._report_backlog(caller, answer[2])
            return None if answer[0] == Answer.WAIT else Loaded.WARM

        if await self._loader.load_or_create(caller, room_id, create) is Loaded.UNKNOWN:
            raise RoomNotFound

    async def get(self, caller: Caller, room_id: str) -> ChatRoom:
        """The room as it stands; raises RoomNotFound."""
        room = self._keys.room(room_id, caller.partition)
        for _ in range(_MAX_REPAIRS):
            card, state = await self._cache.execute_many(
                [
                    ("GET", room.json),
                    ("GET", room.state),
                ]
            )
            if state_name(state) in GONE:
                raise RoomNotFound
            if card is not None:
                try:
                    return _room(card, state_name(state))
                except ValueError:
                    await self._discard(room.json)
            await self._warm(caller, room_id)
        raise ServiceUnavailable("cache", "the room's card was gone after every load")

    async def page(self, caller: Caller, page: int, limit: int) -> RoomPage:
        """A page of the account's rooms, newest activity first; from MySQL, marked stale, when Redis is away."""
        try:
            return await self._cached_page(caller, page, limit)
        except ServiceUnavailable as outage:
            if outage.service != "cache":
                raise
            return await self._stale_page(caller, page, limit)

    async def _cached_page(self, caller: Caller, page: int, limit: int) -> RoomPage:
        names = self._keys.partition(caller.partition)
        account, rooms = names.account(caller.account_id), names.room("")
        keys = [
            account.record,
            account.rooms,
            account.order,
            names.generation,
            rooms.json,
            rooms.state,
        ]
        args = [caller.db_key, (page - 1) * limit, page * limit - 1]
        for _ in range(_MAX_REPAIRS):
            answer = await self._run("read_rooms", caller, "", keys, args)
            if answer[0] == Answer.OK:
                _, total, codes, *cards = answer
                states = map(ROOM_STATE_CODES.__getitem__, codes)
                return RoomPage(
                    [_wire_room(*of_one) for of_one in zip(cards, states, strict=True)], total
                )
            if answer[0] == Answer.DAMAGED:
                await self._discard_undecodable(caller, args)
                continue
            for room_id in answer[1:]:
                await self._loader.load_room(caller, room_id)
        raise ServiceUnavailable("cache", "cards of the list were gone after every load")

    async def _discard_undecodable(self, caller: Caller, ranks: list[int]) -> None:
        keys = self._keys.partition(caller.partition)
        order = keys.account(caller.account_id).order
        for room_id in await self._cache.execute("ZREVRANGE", order, *ranks[1:]):
            key = keys.room(room_id).json
            try:
                if (card := await self._cache.execute("GET", key)) is not None:
                    _room(card, None)
            except ValueError:
                await self._discard(key)

    async def _stale_page(self, caller: Caller, page: int, limit: int) -> RoomPage:
        rows = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_rooms_page", (caller.db_key, (page - 1) * limit, limit)
        )
        rooms = [
            ChatRoom(
                room_id=row["room_id"],
                title=row["title"],
                ai_persona=row["ai_persona"],
                created_at=iso(row["created_at"]),
                last_message_at=iso(row["last_message_at"]),
                message_count=row["message_count"],
                state="ACTIVE",
            ).model_dump_json()
            for row in rows
        ]
        if not rows and page > 1:
            # Past the end no row tells the total.
            return RoomPage([], (await self._stale_page(caller, 1, 1)).total, stale=True)
        return RoomPage(rooms, int(rows[0]["total_count"]) if rows else 0, stale=True)

    async def rename(
        self, caller: Caller, room_id: str, title: str, operation_id: str = ""
    ) -> None:
        """Change the title; the last one acknowledged wins. ``operation_id`` names the call to who repeats it."""
        self.check_room_id(caller, room_id)
        args = [
            caller.db_key,
            room_id,
            to_json(title),
            payload(caller, room_id, title=title),
            operation_id := operation_id or self._keys.new_id(caller.partition),
            self._settings.max_dead_letters_per_room,
            _OPERATION_NOTE_MS,
            self._streams.max_backlog,
        ]
        keys = self._keys.partition(caller.partition)
        script_keys = [
            *self._room_keys(caller, keys, keys.room(room_id)),
            self._held(caller),
            keys.operation(operation_id),
        ]
        answer = await self._run("update_room", caller, room_id, script_keys, args)
        self._report_backlog(caller, answer[2])

    async def delete(self, caller: Caller, room_id: str) -> None:
        """Delete a room for good, its running and waiting replies with it. Repeating it is no error."""
        self.check_room_id(caller, room_id)
        keys = self._keys.partition(caller.partition)
        room, account = keys.room(room_id), keys.account(caller.account_id)
        script_keys = [
            *self._room_keys(caller, keys, room),
            room.state,
            account.record,
            account.rooms,
            account.order,
            account.load_token,
            room.waiting,
            keys.leases,
            room.reply_stream(""),
            keys.message_state(""),
            keys.signals,
        ]
        args = [
            caller.db_key,
            room_id,
            payload(caller, room_id),
            self._settings.state_ttl_s * 1000,
            "",
        ]
        args.append(RoomState.DELETING.value)
        try:
            answer = await self._run("delete_room", caller, room_id, script_keys, args)
        except RoomGone:
            # Its state says so, and no record: if nothing but the state was set, the row is still to be deleted.
            args[4] = ",".join(GONE)
            answer = await self._cache.run_script(SCRIPTS["delete_room"], script_keys, args)
        if answer[0] == Answer.OK:
            self._report_backlog(caller, answer[1])


def _room(card: str, state: str | None) -> ChatRoom:
    """A stored card as the client sees it; raises ValueError for what is none."""
    return ChatRoom(**from_json(_wire_room(card, state)))


def _wire_room(card: str, state: str | None) -> str:
    """The same, not parsed."""
    if not (card.startswith('{"room_id":"') and card.endswith("}")):
        raise ValueError("not the card of a room")
    # A missing state of a listed room: settled longer ago than the state TTL.
    return f'{card[:-1]},"state":"{state or "ACTIVE"}"}}'
