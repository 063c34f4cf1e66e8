"""The wire to one server: what is asked in one tick of the event loop goes out in one write on one connection.

The answers are read in order by a task of the batch's own, which no caller's cancellation reaches: an
abandoned call's answer is read and dropped in its place. A batch has its connection for itself until its
last answer is read, and a connection that was not read to the end is closed. So a slow or broken batch
touches only the calls in it, and there are as many under way as the pool has connections.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.cache.cache_errors import CacheCommandError
from service.cache.pool import Pool
from service.core.errors import ServiceUnavailable
from service.core.instruments import Counter
from service.core.tasks import TaskRegistry

Command = Sequence[Any]
Settle = Callable[["Call", list[Any] | ServiceUnavailable], None]

ROUND_TRIPS = Counter("cache_round_trips", "Calls sent to Redis, repeats counted again.")
WRITES = Counter("cache_writes", "Writes that these calls went out in.")

_MOST_COMMANDS = 256
_MOST_BYTES = 256 * 1024
"""A batch that has so much takes no more; what comes then is another batch, on another connection."""


class Effect(Enum):
    """What it means that a call was sent and its answer was lost."""

    READ = "changes nothing: repeated once, never an unknown outcome"
    REPEATABLE = "carries its own ids, a repeat answers as the first did: repeated once"
    ONCE = "must not be repeated: the outcome is unknown"


class Lost(ServiceUnavailable):
    """Sent, and then the connection broke before the answer was there."""


class Unanswered(ServiceUnavailable):
    """Sent, and no answer in time, or before the service stopped."""


class Call:
    """The commands of one caller, next to each other on the wire, and the future of their answers.

    ``settle(call, outcome)`` is told the outcome each time that it was sent: the answers; :class:`Lost` or
    :class:`Unanswered` when it went out; a plain :class:`ServiceUnavailable` when not. In place of the answer of
    a command that Redis refused stands redis-py's error; in place of bytes that are no text a
    ``UnicodeDecodeError``. ``wait_s``: how long the server itself may wait (BLOCK).
    Raises :class:`CacheCommandError` for arguments that cannot be sent.
    """

    __slots__ = ("answers", "begun_s", "commands", "effect", "packed", "repeated", "settle", "wait_s")

    def __init__(self, commands: Sequence[Command], effect: Effect, settle: Settle, wait_s: float = 0.0) -> None:
        self.commands = commands
        self.effect = effect
        self.settle = settle
        self.wait_s = wait_s
        self.repeated = False
        try:
            self.packed = b"".join([pack_command(tuple(command)) for command in commands])
        except (TypeError, UnicodeEncodeError) as error:
            raise CacheCommandError("ARGUMENT", str(error)) from error
        self.begun_s = time.monotonic()
        self.answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    @property
    def atomic(self) -> bool:
        """Its commands are executed together or not at all."""
        return bool(self.commands[0][0] == "MULTI")

    def finish(self, outcome: list[Any] | Exception) -> None:
        """Tell the caller, if it is still there."""
        if self.answers.done():
            return
        if isinstance(outcome, Exception):
            self.answers.set_exception(outcome)
        else:
            self.answers.set_result(outcome)


class _Batch:
    """Calls that go out together, those not yet answered; it takes more until its connection is there."""

    __slots__ = ("calls", "commands", "failure", "size")

    def __init__(self) -> None:
        self.calls: deque[Call] = deque()
        self.commands = 0
        self.size = 0
        self.failure: ServiceUnavailable = Unanswered("cache", "the service was stopped")

    def takes(self, call: Call) -> bool:
        return self.commands + len(call.commands) <= _MOST_COMMANDS and self.size + len(call.packed) <= _MOST_BYTES

    def add(self, call: Call) -> None:
        self.calls.append(call)
        self.commands += len(call.commands)
        self.size += len(call.packed)


class Pipeline:
    """``sent`` counts the calls that were sent, ``writes`` the batches that they went out in."""

    def __init__(self, pool: Pool, tasks: TaskRegistry, waits: TaskRegistry, timeout_s: float, *, gather: bool) -> None:
        """``gather`` false: each call has a connection for itself.
        ``waits`` holds the calls that wait in the server: a stop need not wait for their end.
        """
        self.pool = pool
        self.sent = 0
        self.writes = 0
        self._tasks = tasks
        self._waits = waits
        self._timeout_s = timeout_s
        self._gather = gather
        self._open: _Batch | None = None

    def send(self, call: Call) -> None:
        """Send ``call`` with the others of this tick, or alone if it waits in the server."""
        if call.wait_s or not self._gather:
            self._begin(self._waits if call.wait_s else self._tasks).add(call)
            return
        if self._open is None or not self._open.takes(call):
            self._open = self._begin(self._tasks)
        self._open.add(call)

    def _begin(self, registry: TaskRegistry) -> _Batch:
        batch = _Batch()
        # Also a task that is cancelled before its first step owes every call an outcome.
        registry.spawn(self._run(batch), "cache exchange").add_done_callback(lambda _: self._end(batch))
        return batch

    def _end(self, batch: _Batch) -> None:
        self._close(batch)
        for call in batch.calls:
            call.settle(call, batch.failure)

    def _close(self, batch: _Batch) -> None:
        if self._open is batch:
            self._open = None

    async def _run(self, batch: _Batch) -> None:
        try:
            connection = await self.pool.take()
        except (RedisError, OSError) as error:
            batch.failure = _because(ServiceUnavailable, f"no connection: {error}", error)
            return
        self._close(batch)
        limit_s = self._timeout_s + batch.calls[0].wait_s
        clean = False
        try:
            async with asyncio.timeout(limit_s):
                clean = await self._exchange(connection, batch.calls)
        except (TimeoutError, RedisTimeoutError) as error:
            batch.failure = _because(Unanswered, f"no answer within {limit_s:g} s", error)
        except (RedisError, OSError) as error:
            batch.failure = _because(Lost, f"connection lost: {error}", error)
        finally:
            if not clean:
                # Answers may still be on their way: nobody else may ever read from this connection.
                await connection.disconnect(nowait=True)
            self.pool.give(connection)
        if isinstance(batch.failure, Lost):
            # Those that idle beside it are most likely dead too; a write on one would be an unknown outcome.
            await self.pool.drop_idle()

    async def _exchange(self, connection: AbstractConnection, waiting: deque[Call]) -> bool:
        """Send the calls, take each out when it is answered. False: the connection should not be used again."""
        clean = True
        self.sent += len(waiting)
        self.writes += 1
        ROUND_TRIPS.add(amount=len(waiting))
        WRITES.add()
        await connection.send_packed_command([call.packed for call in waiting])
        while waiting:
            answers = [await _answer(connection) for _ in waiting[0].commands]
            call = waiting.popleft()
            call.settle(call, answers)
            clean = clean and not any(isinstance(answer, _OF_THE_CONNECTION) for answer in answers)
        return clean


_OF_THE_CONNECTION = (BusyLoadingError, AuthenticationError)
"""Refusals after which only a new connection, greeted anew, can be right."""


async def _answer(connection: AbstractConnection) -> Any:
    try:
        # No time-out of redis-py's here: the one around the whole exchange closes the connection.
        return await connection.read_response(timeout=math.inf, disconnect_on_error=False)
    except (ResponseError, UnicodeDecodeError, *_OF_THE_CONNECTION) as error:
        return error


def _because(kind: type[ServiceUnavailable], reason: str, cause: Exception) -> ServiceUnavailable:
    error = kind("cache", reason)
    error.__cause__ = cause
    return error
