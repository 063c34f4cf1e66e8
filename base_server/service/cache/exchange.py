"""The one seam through which every Redis call passes: send n commands, read n answers, in a task of its own.

A caller's cancellation never reaches a shared connection: the task reads the answer to its end and
drops it. redis-py's own retries are off; the only repeat is the one here, and only of calls that may
be repeated.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from enum import Enum
from typing import Any

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.cache.cache_errors import CacheCommandError
from service.core.errors import OutcomeUnknown, ServiceUnavailable
from service.core.instruments import Counter, Histogram
from service.core.tasks import TaskRegistry

Command = Sequence[Any]

ROUND_TRIPS = Counter("cache_round_trips", "Writes to Redis whose answers were waited for.")
CALL_SECONDS = Histogram("cache_call_seconds", "Time of a call to Redis, waiting for a connection included.")
FAILED_CALLS = Counter(
    "cache_failed_calls", "Calls without an answer; outcome: unavailable (not executed) or unknown.", ("outcome",)
)


class Effect(Enum):
    """What it means that a call was sent and its answer was lost."""

    READ = "changes nothing: repeated once, never an unknown outcome"
    REPEATABLE = "carries its own ids, a repeat answers as the first did: repeated once"
    ONCE = "must not be repeated: the outcome is unknown"


# fmt: off
_READS = frozenset([
    "EXISTS", "GET", "GETEX", "GETRANGE", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HVALS", "INFO",
    "LINDEX", "LLEN", "LRANGE", "MGET", "PING", "PTTL", "SCARD", "SISMEMBER", "SMEMBERS", "SMISMEMBER", "STRLEN",
    "TIME", "TTL", "TYPE", "XINFO", "XLEN", "XRANGE", "XREAD", "XREVRANGE", "ZCARD", "ZCOUNT", "ZMSCORE", "ZRANGE",
    "ZRANGEBYSCORE", "ZRANK", "ZREVRANGE", "ZSCORE",
])
# fmt: on
"""Commands that may be sent again after a lost connection (GETEX: a read that pushes a TTL on)."""


def effect_of(commands: Sequence[Command]) -> Effect:
    """READ when all of them only read, else ONCE."""
    return Effect.READ if all(str(command[0]).upper() in _READS for command in commands) else Effect.ONCE


class Pool(BlockingConnectionPool):
    """redis-py's waiting pool, which can also wait for a server and forget its idle connections."""

    def __init__(self, *, patience_s: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._patience_s = patience_s

    async def take(self) -> AbstractConnection:
        """A connected, greeted, clean connection; raises redis-py's errors.

        Connecting executes nothing, so for ``patience_s`` it is tried again while the server starts.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._patience_s
        while True:
            try:
                connection: AbstractConnection = await self.get_connection()  # type: ignore[no-untyped-call]
                return connection
            except RedisConnectionError:
                if loop.time() >= deadline_s:
                    raise
                await asyncio.sleep(0.02)

    async def drop_idle(self) -> None:
        """Close the idle connections. They leave the pool first, so nobody can take one that is closing."""
        idle, self._available_connections = self._available_connections, []
        for connection in idle:
            await connection.disconnect(nowait=True)


class Exchange:
    """``round_trips`` counts network round trips. Errors: see :meth:`run`."""

    def __init__(self, pool: Pool, tasks: TaskRegistry, waits: TaskRegistry, timeout_s: float) -> None:
        """``waits`` holds the calls that wait in the server (BLOCK): a stop need not wait for their end."""
        self.pool = pool
        self.tasks = tasks
        self._waits = waits
        self.round_trips = 0
        self._timeout_s = timeout_s

    async def run(self, commands: Sequence[Command], effect: Effect, wait_s: float = 0.0) -> list[Any]:
        """Send ``commands`` in one write and return their answers; a refused command's answer is its ``ResponseError``.

        ``wait_s``: how long the server itself may wait (BLOCK), on top of the time-out.
        Raises :class:`ServiceUnavailable` when certainly nothing was executed,
        :class:`OutcomeUnknown` when something may have been.
        """
        registry = self._waits if wait_s else self.tasks
        begun_s = time.monotonic()
        task = registry.spawn(self._run(commands, effect, wait_s), "cache exchange")
        try:
            answers = await asyncio.shield(task)
        except ServiceUnavailable as error:
            FAILED_CALLS.add("unknown" if isinstance(error, OutcomeUnknown) else "unavailable")
            raise
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and caller is not None and not caller.cancelling():
                # Not the caller was cancelled, the call was, by the service's stop.
                raise OutcomeUnknown("cache", "the service was stopped") from None
            raise
        if not wait_s:
            CALL_SECONDS.observe(time.monotonic() - begun_s)
        return answers

    async def _run(self, commands: Sequence[Command], effect: Effect, wait_s: float) -> list[Any]:
        try:
            return await self._once(commands, effect, wait_s)
        except _ConnectionLost as lost:
            # Those that idle beside it are most likely dead too; a write on one would be an unknown outcome.
            await self.pool.drop_idle()
            if effect is Effect.ONCE:
                raise OutcomeUnknown("cache", lost.reason) from lost.__cause__
        try:
            return await self._once(commands, effect, wait_s)
        except ServiceUnavailable as again:
            # Whatever happened to the repeat, the first may have been executed.
            kind = ServiceUnavailable if effect is Effect.READ else OutcomeUnknown
            raise kind("cache", again.reason) from again.__cause__

    async def _once(self, commands: Sequence[Command], effect: Effect, wait_s: float) -> list[Any]:
        try:
            connection = await self.pool.take()
        except (RedisError, OSError) as error:
            raise ServiceUnavailable("cache", f"no connection: {error}") from error
        whole = False
        try:
            packed = _packed(commands)
            self.round_trips += 1
            ROUND_TRIPS.add()
            async with asyncio.timeout(self._timeout_s + wait_s):
                await connection.send_packed_command(packed)
                answers = [await _answer(connection) for _ in commands]
            whole = True
            return answers
        except UnicodeDecodeError as error:
            raise CacheCommandError("UNDECODABLE", "an answer is not UTF-8") from error
        except (BusyLoadingError, AuthenticationError) as error:
            raise ServiceUnavailable("cache", str(error)) from error
        except (TimeoutError, RedisTimeoutError) as error:
            # A slow server is not asked again: that would double its load.
            kind = ServiceUnavailable if effect is Effect.READ else OutcomeUnknown
            raise kind("cache", f"no answer within {self._timeout_s + wait_s:g} s") from error
        except (RedisError, OSError) as error:
            raise _ConnectionLost("cache", f"connection lost: {error}") from error
        finally:
            if not whole:
                # Answers may still be on their way: nobody else may ever read from this connection.
                await connection.disconnect(nowait=True)
            await self.pool.release(connection)


class _ConnectionLost(ServiceUnavailable):
    """The connection broke after the first byte was sent."""


def _packed(commands: Sequence[Command]) -> bytes:
    """``commands`` as they go over the wire; redis-py's asyncio connections pack in Python, in seven times the time."""
    try:
        return b"".join([pack_command((*str(command[0]).split(), *command[1:])) for command in commands])
    except TypeError as error:
        raise CacheCommandError("ARGUMENT", str(error)) from error


async def _answer(connection: AbstractConnection) -> Any:
    try:
        # No time-out of redis-py's here: the one around the whole exchange closes the connection.
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return error
