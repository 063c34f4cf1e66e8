"""Deletes without a session: state calls that set DELETING or DELETED, and delete events that hosts
send.

They run the scripts of the handlers' own deletes (``delete_room.lua``,
``delete_message.lua``): state, record, list and event in one step, and one event however often
and by whichever way it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from base_server.service.cache.cache_client import CacheClient
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script_call import Answer, ScriptCall
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.load import Loaded
from base_server.template.chat.cache.loaders import Loaders
from base_server.template.chat.cache.scripts import (
    DeletedBefore,
    NeedsDatabase,
    NotFound,
    NotLoaded,
    StateRefused,
)
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.states import MessageState, RoomState, state_name
from base_server.template.chat.messages.calls import DeleteMessage, MessageDeleted, NoSuchMessage
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.rooms.calls import DeleteRoom, RoomDeleted
from base_server.template.chat.rooms.directory import ChatDirectory, FoundMessage, FoundRoom
from base_server.template.chat.settings import ChatSettings

ANY_STATE = tuple(sorted({state.value for states in (RoomState, MessageState) for state in states}))
_MAX_TRIES = 6
# A script is repeated, when its answer was lost, within the call's time-outs.
_OPERATION_NOTE_MS = 300_000


class DeleteOutcome(Enum):
    """``DONE``: deleted by this call. ``BEFORE``: it was deleted already. ``REFUSED``: not from its
    present state. ``UNKNOWN``: neither Redis nor a shard knows the id. ``FOREIGN``: it is another
    account's than the caller said."""

    DONE = "done"
    BEFORE = "before"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Deletion:
    """``before``: the state that it was in, '' when not known; ``after``: the one that a DONE
    delete set."""

    outcome: DeleteOutcome
    before: str = ""
    after: str = ""


class ChatDeletes:
    """``db_key`` where a caller gives it: the account that it believes to be the owner.

    Raises ServiceUnavailable when Redis, or a database that has to be asked, is away: nothing was
    done then."""

    def __init__(
        self,
        cache: CacheClient,
        directory: ChatDirectory,
        loaders: Loaders,
        streams: EventStreams,
        settings: ChatSettings,
    ) -> None:
        self._cache = cache
        self._directory = directory
        self._loaders = loaders
        self._streams = streams
        self._settings = settings
        self._keys = ChatKeys(cache)

    async def room(
        self,
        room_id: str,
        to: RoomState,
        allowed: Iterable[str] = ANY_STATE,
        db_key: int | None = None,
    ) -> Deletion:
        """Delete a room that is in one of the ``allowed`` states (ACTIVE when its state has
        expired)."""
        partition = await self._directory.partition_of(room_id)
        found = await self._directory.find_room(room_id, partition, with_awaited=True)
        if found is None:
            return Deletion(DeleteOutcome.UNKNOWN)
        if db_key is not None and found.owner.db_key != db_key:
            return Deletion(DeleteOutcome.FOREIGN)
        if found.awaited:
            return Deletion(DeleteOutcome.UNKNOWN)
        if found.deleted:
            return Deletion(DeleteOutcome.BEFORE, RoomState.DELETED.value)
        # Its partition may be another one than the id's: a host's room lies with its account.
        caller = found.owner
        keys = self._keys.partition(caller.partition)
        call = DeleteRoom.of(
            keys,
            self._streams.stream_key(caller.partition, caller.shard_id),
            caller,
            room_id,
            self._settings.state_ttl_s * 1000,
            to,
        )
        call.allowed_states = ",".join(allowed)
        call.done_note = keys.operation(self._keys.new_id(caller.partition))
        call.note_ttl_ms = _OPERATION_NOTE_MS
        match await self._run(call, caller, room_id):
            case RoomDeleted(backlog, before):
                self._streams.report_backlog(caller.partition, caller.shard_id, backlog)
                return Deletion(DeleteOutcome.DONE, before, to.value)
            case answer:
                return _not_done(answer)

    async def message(
        self,
        message_id: str,
        to: MessageState | None,
        allowed: Iterable[str] = ANY_STATE,
        room_id: str = "",
        db_key: int | None = None,
    ) -> Deletion:
        """Delete a message that is in one of the ``allowed`` states (SENT when its state has
        expired). ``to`` None: to DELETED what is not in MySQL yet, to DELETING the rest.
        ``room_id`` '': the message's state or MySQL says it."""
        text = await self._directory.text(self._keys.message_state(message_id))
        state, in_room = state_name(text) or "", room_id or _room_of(text)
        stored: FoundMessage | None = None
        if not in_room:
            if (stored := await self._directory.find_message(message_id)) is None:
                return Deletion(DeleteOutcome.UNKNOWN, state)
            in_room = stored.room_id
        partition = await self._directory.partition_of(in_room)
        if (found := await self._directory.find_room(in_room, partition)) is None:
            # Messages may come before their room.
            stored = stored or await self._directory.find_message(message_id)
            if stored is None or stored.room_id != in_room:
                return Deletion(DeleteOutcome.UNKNOWN, state)
            name = await self._directory.account_name(stored.account_db_key, partition)
            found = FoundRoom(
                Caller(name, stored.account_db_key, stored.shard_id, partition), deleted=False
            )
        is_elsewhere = self._cache.partitions.of_id(message_id) != found.owner.partition
        if is_elsewhere and (state or MessageState.SENT.value) not in allowed:
            return Deletion(DeleteOutcome.REFUSED, state)
        if db_key is not None and found.owner.db_key != db_key:
            return Deletion(DeleteOutcome.FOREIGN)
        if found.deleted or (stored is not None and stored.deleted):
            return Deletion(DeleteOutcome.BEFORE, MessageState.DELETED.value)
        states = allowed
        if is_elsewhere:
            # The script sees the state in the room's partition, this is the one that counts.
            states = ANY_STATE
            early = state in (MessageState.COMPOSING.value, MessageState.PENDING.value)
            to = to or (MessageState.DELETED if early else MessageState.DELETING)
        return await self._delete_message(found.owner, in_room, message_id, to, states, stored)

    async def _delete_message(
        self,
        caller: Caller,
        room_id: str,
        message_id: str,
        to: MessageState | None,
        allowed: Iterable[str],
        stored: FoundMessage | None,
    ) -> Deletion:
        keys = self._keys.partition(caller.partition)
        call = DeleteMessage.of(
            keys,
            self._streams.stream_key(caller.partition, caller.shard_id),
            caller,
            room_id,
            message_id,
            self._settings.ready_lease_ms,
        )
        call.allowed_states = ",".join(allowed)
        call.new_state = "" if to is None else to.value
        call.done_note = keys.operation(self._keys.new_id(caller.partition))
        call.note_ttl_ms = _OPERATION_NOTE_MS
        for _ in range(_MAX_TRIES):
            call.stored_seq = None if stored is None else stored.seq
            answer = await self._run(call, caller, room_id)
            if isinstance(answer, MessageDeleted):
                self._streams.report_backlog(caller.partition, caller.shard_id, answer.backlog)
                return Deletion(DeleteOutcome.DONE, answer.before, answer.after)
            if not isinstance(answer, NotLoaded | NeedsDatabase | NoSuchMessage):
                return _not_done(answer)
            # Not loaded, or not in the window: MySQL may know it.
            if stored is None and (stored := await self._directory.find_message(message_id)):
                if stored.deleted or stored.room_id != room_id:
                    return _not_done(DeletedBefore() if stored.deleted else NotFound())
            elif isinstance(answer, NotLoaded) and caller.account_id:
                if await self._loaders.rooms.load(caller, room_id) is not Loaded.LOADED:
                    break
            else:
                break
        return Deletion(DeleteOutcome.UNKNOWN)

    async def _run(self, call: ScriptCall[Answer], caller: Caller, room_id: str) -> Answer:
        try:
            return await call.run(self._cache)
        except CacheCommandError as error:
            # A key of another type counts as missing.
            if error.code != "WRONGTYPE":
                raise
            await self._loaders.drop_wrong_types(caller, room_id)
            return await call.run(self._cache)


def _not_done(answer: StateRefused | NotFound | DeletedBefore) -> Deletion:
    """Why a script deleted nothing."""
    match answer:
        case StateRefused(state):
            return Deletion(DeleteOutcome.REFUSED, state)
        case NotFound():
            return Deletion(DeleteOutcome.FOREIGN)
    return Deletion(DeleteOutcome.BEFORE, MessageState.DELETED.value)


def _room_of(text: str) -> str:
    """The room in the state of a message that is not in MySQL yet ('PENDING|P1764000000000|<room
    id>'), else ''.

    A host may have set it to SENT before. A process of the version before appends its log behind
    the room (',R1764000000003'), also when it is SENT: then MySQL may have the message."""
    parts = text.split("|")
    if len(parts) < 3 or parts[0] == MessageState.DELETED.value:
        return ""
    return parts[2].partition(",")[0]
