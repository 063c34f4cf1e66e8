"""What the repositories share: running a script until what it needs is loaded, and its refusals
as errors.

Every write is one script, every read Redis first and MySQL behind. A script that answers NOT_LOADED
names what it misses; the loader brings it and the script runs again. Operations are safe to call
again with the ids they were given (``lua/*.lua`` answer what they answered first).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script_call import Answer, ScriptCall
from base_server.template.base.errors import (
    ApiError,
    IdempotencyMismatch,
    NotAllowedInState,
    RoomBusy,
    RoomNotFound,
    ServerError,
    ServiceDown,
    TooManyRequests,
)
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.load import Loaded
from base_server.template.chat.cache.loaders import Loaders
from base_server.template.chat.cache.scripts import ScriptStatus
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.message_format import LAST_MS, iso_of_ms
from base_server.template.chat.domain.ports import ShardDatabase
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.settings import ChatSettings

# A record can be gone again between its load and the script; more often than this it is an outage.
_MAX_LOADS = 6


_NO_REFUSAL = (
    ScriptStatus.NEEDS_DATABASE,
    ScriptStatus.SUPERSEDED,
    ScriptStatus.PARTIAL,
    ScriptStatus.DUPLICATE,
    ScriptStatus.DAMAGED,
    ScriptStatus.WAIT,
)


class RoomGone(RoomNotFound):
    """The room was the caller's and is deleted: to the client the same as not found, but repeating
    a delete is 0."""


class ScriptRunner:
    """Base of :class:`RoomRepository`, :class:`MessageRepository` and :class:`ChatReader`. Raises
    ApiError, and ServiceUnavailable on an outage."""

    def __init__(
        self,
        cache: CacheClient,
        database: ShardDatabase,
        loaders: Loaders,
        streams: EventStreams,
        settings: ChatSettings,
    ) -> None:
        self._cache = cache
        self._partitions = cache.partitions
        self._database = database
        self._loaders = loaders
        self._streams = streams
        self._settings = settings
        self._keys = ChatKeys(cache)

    def check_room_id(self, caller: Caller, room_id: str) -> None:
        """An id of ours that carries another partition is of another account: not found, without a
        look."""
        if self._partitions.is_own_id(room_id) not in (None, caller.partition):
            raise RoomNotFound

    async def _call(self, call: ScriptCall[Answer], caller: Caller, room_id: str) -> Answer:
        """What the script answers once the room and the account are loaded; refusals are raised."""
        run_script = caller.run_script or self._cache.run_script
        keys, args = call.keys(), call.args()
        for _ in range(_MAX_LOADS):
            try:
                answer: list[Any] = await run_script(call.script, keys, args)
            except CacheCommandError as error:
                # A key of another type counts as missing.
                if error.code != "WRONGTYPE":
                    raise
                await self._loaders.drop_wrong_types(caller, room_id)
                continue
            if answer[0] != ScriptStatus.NOT_LOADED:
                if answer[0] != ScriptStatus.OK and (refusal := _refusal(answer)) is not None:
                    raise refusal
                return call.read(answer)
            if answer[1] == "account":
                await self._loaders.accounts.load(caller)
            else:
                await self._load_room(caller, room_id)
        raise ServiceUnavailable("cache", "the record was gone after every load")

    async def _discard(self, key: str) -> None:
        """A stored value cannot be decoded: it counts as missing, and its record as not whole."""
        Logger.error("undecodable value in Redis, read again from the database", key=key)
        await self._cache.execute("DEL", key)

    async def _load_room(self, caller: Caller, room_id: str) -> None:
        match await self._loaders.rooms.load(caller, room_id):
            case Loaded.DELETED:
                raise RoomGone
            case Loaded.UNKNOWN:
                raise RoomNotFound

    def _report_backlog(self, caller: Caller, backlog: int) -> None:
        self._streams.report_backlog(caller.partition, caller.shard_id, backlog)

    def _id_time(self, client_id: str) -> str:
        """ISO time of a UUIDv7 made by the client; '' when its id proves nothing by its time."""
        ms = self._partitions.id_time_ms(client_id)
        return "" if ms is None or ms > LAST_MS else iso_of_ms(ms)


def _refusal(answer: Sequence[Any]) -> ApiError | None:
    """The one translator of a script's refusal into the error that the client sees; None for what
    is none."""
    refusal: ApiError | None = None
    match answer:
        case [ScriptStatus.NOT_FOUND, *_]:
            refusal = RoomNotFound()
        case [ScriptStatus.BUSY, running_id, on_busy]:
            refusal = RoomBusy(
                "a reply is running in this room; wait for it, stop it, or send with on_busy queue"
                if on_busy == "reject"
                else "too many messages are already queued in this room; retry later",
                retry_after_s=1.0,
                details={"message_id": running_id},
            )
        case [ScriptStatus.MISMATCH]:
            refusal = IdempotencyMismatch()
        case [ScriptStatus.REFUSED, *_]:
            refusal = NotAllowedInState(
                "the message that this client_message_id sent, or its reply, was deleted"
            )
        case [ScriptStatus.FULL, "sends", wait_ms]:
            refusal = TooManyRequests(
                "too many messages; retry later", retry_after_s=wait_ms / 1000
            )
        case [ScriptStatus.FULL, "replies", wait_ms]:
            refusal = TooManyRequests(
                "too many replies of this account are running or waiting",
                retry_after_s=wait_ms / 1000,
            )
        case [ScriptStatus.FULL, "rooms"]:
            refusal = TooManyRequests("room limit reached; delete a room first")
        case [ScriptStatus.FULL, "dead"]:
            refusal = ServiceDown(
                "the database refused messages of this room; it takes no more until an operator"
                " has looked at them",
                retry_after_s=60.0,
            )
        case [ScriptStatus.FULL, *_]:
            refusal = ServiceDown(
                "too much is waiting to be written; retry later", retry_after_s=5.0
            )
        case [code, *_] if code not in _NO_REFUSAL:
            refusal = ServerError(f"unexpected answer {code} of a script")
    return refusal
