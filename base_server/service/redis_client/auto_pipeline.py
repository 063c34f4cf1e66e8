"""The calls to one server: what is asked in one tick of the event loop goes out together, up to eight calls a write.

A batch has its connection for itself until its last answer, and no caller's cancellation reaches it: an abandoned
call's answer is read and dropped in its place. A connection that was not read to the end is closed. So a slow
or broken batch touches only the calls in it, and there are as many under way as the pool has connections.
"""

from __future__ import annotations

import asyncio

from redis.exceptions import RedisError

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.instruments import Counter
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.calls import Batch, Call, Lost, Unanswered
from base_server.service.redis_client.connection import WiredConnection
from base_server.service.redis_client.connection_pool import Pool

_ENOUGH_CALLS = 8
"""A batch that has so many does not wait for the end of the tick: Redis has work while the next is put together."""

ROUND_TRIPS = Counter("cache_round_trips", "Calls sent to Redis, repeats counted again.")
WRITES = Counter("cache_writes", "Writes that these calls went out in.")


class Pipeline:
    """``sent`` counts the calls that were sent, ``writes`` the batches that they went out in."""

    def __init__(
        self,
        pool: Pool,
        tasks: TaskRegistry,
        waits: TaskRegistry,
        timeout_s: float,
        *,
        gather: bool,
    ) -> None:
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
        self._open: _Trip | None = None

    def send(self, call: Call) -> None:
        """Send ``call`` with the others of this tick, or alone if it waits in the server."""
        if call.wait_s or not self._gather:
            registry = self._waits if call.wait_s else self._tasks
            _Trip(self, registry, self._timeout_s + call.wait_s).batch.add(call)
            return
        if self._open is None or not self._open.batch.takes(call):
            self._open = _Trip(self, self._tasks, self._timeout_s)
        self._open.batch.add(call)
        if len(self._open.batch.calls) == _ENOUGH_CALLS:
            self._open.start()

    def close(self, trip: _Trip) -> None:
        """Add no more to it."""
        if self._open is trip:
            self._open = None

    def count(self, calls: int) -> None:
        """So many went out in one write."""
        self.sent += calls
        self.writes += 1
        ROUND_TRIPS.add(amount=calls)
        WRITES.add()


class _Trip:
    """A batch from its first call to its last answer; it takes more calls until its connection is there.

    It needs no task while an idle connection is at hand. ``registry`` holds its end as it would a task: a stop
    waits for it, and cancels it when it takes too long.
    """

    __slots__ = (
        "_connection",
        "_end",
        "_is_started",
        "_limit_s",
        "_pipeline",
        "_registry",
        "_timer",
        "batch",
    )

    def __init__(self, pipeline: Pipeline, registry: TaskRegistry, limit_s: float) -> None:
        self.batch = Batch()
        self._pipeline = pipeline
        self._registry = registry
        self._limit_s = limit_s
        self._is_started = False
        self._connection: WiredConnection | None = None
        self._timer: asyncio.TimerHandle | None = None
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = loop.create_future()
        self._end.add_done_callback(self._stop)
        registry.track(self._end)
        loop.call_soon(self.start)

    def start(self) -> None:
        """Go out: at the end of the tick, or earlier. What is called meanwhile comes along while it has to wait for a
        connection."""
        if self._is_started or self._end.cancelled():
            return
        self._is_started = True
        connection = self._pipeline.pool.take_clean()
        if connection is not None:
            self._ask(connection)
        else:
            self._registry.spawn(self._connect(), "cache connection")

    async def _connect(self) -> None:
        try:
            connection = await self._pipeline.pool.take()
        except Exception as error:
            self._finish(_because(ServiceUnavailable, f"no connection: {error}", error))
            if not isinstance(error, RedisError | OSError):
                raise
        else:
            self._ask(connection)

    def _ask(self, connection: WiredConnection) -> None:
        self._pipeline.close(self)
        self._pipeline.count(len(self.batch.calls))
        self._connection = connection
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._late)
        try:
            connection.wire.ask(self.batch, self._ended)
        except Exception as error:  # of a transport: nobody knows how much of it went out
            self._ended(error)

    def _ended(self, error: Exception | None) -> None:
        self._finish(None if error is None else _because(Lost, f"connection lost: {error}", error))

    def _late(self) -> None:
        self._finish(Unanswered("cache", f"no answer within {self._limit_s:g} s"))

    def _stop(self, end: asyncio.Future[None]) -> None:
        if end.cancelled():
            self._finish(Unanswered("cache", "the service was stopped"))

    def _finish(self, failure: ServiceUnavailable | None) -> None:
        """Give the connection back, and tell the calls that have no answer."""
        self._pipeline.close(self)
        if self._timer is not None:
            self._timer.cancel()
        if (connection := self._connection) is not None:
            self._connection = None
            if failure is not None or not connection.wire.clean:
                connection.drop()
            pool = self._pipeline.pool
            pool.give(connection)
            if failure is not None or not self.batch.sound:
                # Those that idle beside it are most likely no better, and a write on a dead one is an unknown outcome.
                pool.drop_idle()
        if failure is not None:
            while self.batch.calls:
                call = self.batch.calls.popleft()
                call.settle(call, failure)
        if not self._end.done():
            self._end.set_result(None)


def _because(kind: type[ServiceUnavailable], reason: str, cause: Exception) -> ServiceUnavailable:
    error = kind("cache", reason)
    error.__cause__ = cause
    return error
