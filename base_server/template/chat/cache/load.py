"""What loading a room and loading an account's list share: a token, once the backlog is written.

A load begins with a token that any write deletes, so that no load undoes a write. It is shared with
the loaders of other processes. It is given only when nothing of the record is still on its way to
MySQL; ``lua/loading/begin_load.lua`` decides, this module waits.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.tasks import TaskRegistry
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.load_calls import (
    AlreadyLoaded,
    BeginLoad,
    EventsWait,
    LoadBegun,
    LoadDone,
    LoadUnit,
    NotWhole,
)
from base_server.template.chat.cache.scripts import NeedsDatabase, NotFound
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.message_format import LAST_MS
from base_server.template.chat.domain.ports import ShardDatabase
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.settings import ChatSettings

_TOKEN_TTL_MS = 30_000


class Loaded(Enum):
    """How a load ended: in Redis now; unknown (or another account's); deleted permanently, and it
    was the caller's."""

    LOADED = "loaded"
    UNKNOWN = "unknown"
    DELETED = "deleted"


# What a load was overtaken by has changed what it read: it begins again.
ENDS = {LoadDone: Loaded.LOADED, NotFound: Loaded.DELETED}


@dataclass(frozen=True)
class LoadContext:
    """What loads work with. ``cache`` is the bulk client: fills do not queue before requests."""

    cache: CacheClient
    database: ShardDatabase
    streams: EventStreams
    settings: ChatSettings

    async def wait_until_written(self, partition: int, shard_id: int) -> bool:
        """Have the events written that wait in a stream now; False when none does."""
        timeout_s = self.settings.load_timeout_s
        return await self.streams.wait_until_written(partition, shard_id, timeout_s)


class Load(ABC):
    """One load of a caller's room or list."""

    def __init__(self, caller: Caller, unit: LoadUnit) -> None:
        self.caller = caller
        self.unit = unit

    async def prepare(self) -> bool:
        """Before the first token; False: it is not the caller's."""
        return True

    @abstractmethod
    async def fill(self, begun: LoadBegun) -> Loaded | None:
        """Read from MySQL and fill Redis, if the token still stands; None: begin again."""

    async def stored_last_seq(self) -> int:
        """How far MySQL knows it; the script asks for rooms alone."""
        return 0

    async def end_lost_reply(self, slot: str) -> bool:
        """End a reply whose slot was lost with its record; rooms alone have some. False: the room
        is another account's."""
        return True


class LoadRunner:
    """Runs loads, one for each record and process. ``check_mark`` (shard, partition) has written
    again what the shard's database lost, if it came back older."""

    def __init__(
        self,
        context: LoadContext,
        check_mark: Callable[[int, int], Awaitable[None]],
        tasks: TaskRegistry,
    ) -> None:
        self._cache = context.cache
        self._streams = context.streams
        self._check_mark = check_mark
        self._timeout_s = context.settings.load_timeout_s
        self._tasks = tasks
        self._keys = ChatKeys(context.cache)
        self._running: dict[tuple[str, int], asyncio.Task[Loaded]] = {}

    async def run_once(self, load: Load) -> Loaded:
        """As :meth:`run`; callers that come while it runs share its result."""
        key = load.unit.record, load.caller.db_key
        if (task := self._running.get(key)) is None:
            task = self._running[key] = self._tasks.spawn(self.run(load), f"load {load.unit.kind}")
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def run(self, load: Load) -> Loaded:
        """Raises ServiceUnavailable when Redis or MySQL is away, or the record's backlog is not
        written in time."""
        if not await load.prepare():
            return Loaded.UNKNOWN
        caller, unit = load.caller, load.unit
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
        deadline = time.monotonic() + self._timeout_s
        pause_s = 0.01
        while time.monotonic() < deadline:
            call.token = secrets.token_hex(8)
            match await call.run(self._cache):
                case AlreadyLoaded():
                    return Loaded.LOADED
                case LoadBegun() as begun:
                    if (loaded := await load.fill(begun)) is not None:
                        return loaded
                case NeedsDatabase(None):
                    # An older record: is all that it knows in MySQL?
                    call.stored_last_seq = await load.stored_last_seq()
                case NeedsDatabase(generation):
                    # The first load of a Redis run: the database may be what came back older.
                    await self._check_mark(caller.shard_id, caller.partition)
                    call.compared_in = generation
                case NotWhole():
                    raise ServiceUnavailable(
                        "database",
                        "it refused events of this room, and the room is not whole in Redis",
                    )
                case EventsWait(lost):
                    # What its end appends has to be written first, as the other events have.
                    if lost and not await load.end_lost_reply(lost):
                        return Loaded.UNKNOWN
                    self._streams.flush(caller.partition, caller.shard_id)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, 0.25)
        raise ServiceUnavailable(
            "database", f"the {unit.kind}'s backlog was not written within the load timeout"
        )


def time_bound_ms(client_id: str) -> int:
    """No id that sorts before this one, and has the form of a time-ordered UUID, is of a later
    time."""
    try:
        return min(int(client_id[:8] + client_id[9:13], 16), LAST_MS)
    except ValueError:
        return LAST_MS
