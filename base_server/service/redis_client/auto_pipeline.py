"""The calls to one server: those of one loop iteration go out together, up to eight in a write.

A batch has its connection for itself until its last reply, and no caller's cancellation reaches it:
the reply of an abandoned call is read and dropped. A connection that was not read to the end is
closed. So a slow or broken batch touches only its own calls, and as many batches are in flight as
the pool has connections.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from redis.exceptions import RedisError

from base_server.service.core.errors import ConnectionLostInFlight, ServiceUnavailable
from base_server.service.core.instruments import Counter
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.calls import Batch, RedisCall, ResponseTimeout
from base_server.service.redis_client.connection import RedisConnection
from base_server.service.redis_client.connection_pool import ConnectionPool

_ENOUGH_CALLS = 8
"""So many calls do not wait for the end of the iteration: Redis works while more are packed."""

ROUND_TRIPS = Counter("cache_round_trips", "Calls sent to Redis, repeats counted again.")
WRITES = Counter("cache_writes", "Writes that these calls went out in.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How the calls of a client are sent, and which registry a stop finds them in."""

    timeout_s: float
    """Longest wait for the reply of a call that was sent."""
    shared: bool = True
    """Calls of one loop iteration share a write, which suits calls that Redis answers at once. Else
    each call has a connection for itself."""
    tasks: TaskRegistry
    waits: TaskRegistry
    """For the calls that wait in the server (BLOCK): a stop need not wait for their end."""


class AutoPipeline:
    """``sent`` counts the calls that were sent, ``writes`` the batches that they went out in."""

    def __init__(self, pool: ConnectionPool, options: CallOptions) -> None:
        self.pool = pool
        self.timeout_s = options.timeout_s
        self.sent = 0
        self.writes = 0
        self._options = options
        self._open: _InFlightBatch | None = None

    def send(self, call: RedisCall) -> None:
        """Send ``call`` with the others of this iteration, or alone if it waits in the server."""
        options = self._options
        if call.wait_s or not options.shared:
            registry = options.waits if call.wait_s else options.tasks
            _InFlightBatch(self, registry, self.timeout_s + call.wait_s).batch.add(call)
            return
        if self._open is None or not self._open.batch.has_room_for(call):
            self._open = _InFlightBatch(self, options.tasks, self.timeout_s)
        self._open.batch.add(call)
        if len(self._open.batch.calls) == _ENOUGH_CALLS:
            self._open.start()

    def close(self, batch: _InFlightBatch) -> None:
        """Add no more calls to it."""
        if self._open is batch:
            self._open = None

    def count(self, calls: int) -> None:
        """So many calls went out in one write."""
        self.sent += calls
        self.writes += 1
        ROUND_TRIPS.add(amount=calls)
        WRITES.add()


class _InFlightBatch:
    """A batch from its first call to its last reply; it takes calls until it has a connection.

    It needs no task while an idle connection is at hand. ``registry`` holds its end as if it were a
    task: a stop waits for it, and cancels it when it takes too long.
    """

    __slots__ = (
        "_connection",
        "_end",
        "_is_started",
        "_pipeline",
        "_registry",
        "_timeout_s",
        "_timer",
        "batch",
    )

    def __init__(self, pipeline: AutoPipeline, registry: TaskRegistry, timeout_s: float) -> None:
        self.batch = Batch()
        self._pipeline = pipeline
        self._registry = registry
        self._timeout_s = timeout_s
        self._is_started = False
        self._connection: RedisConnection | None = None
        self._timer: asyncio.TimerHandle | None = None
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = loop.create_future()
        self._end.add_done_callback(self._on_stop)
        registry.track(self._end)
        # At the end of this iteration every task that was ready has added its calls.
        loop.call_soon(self.start)

    def start(self) -> None:
        """Called at the end of the iteration, or earlier by the eighth call. While the batch waits
        for a connection, further calls still join it."""
        if self._is_started or self._end.cancelled():
            return
        self._is_started = True
        connection = self._pipeline.pool.take_idle()
        if connection is not None:
            self._send(connection)
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
            self._send(connection)

    def _send(self, connection: RedisConnection) -> None:
        self._pipeline.close(self)
        self._pipeline.count(len(self.batch.calls))
        self._connection = connection
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._on_timeout)
        try:
            connection.send(self.batch, self._on_end)
        except Exception as error:  # of the transport: how much of the batch went out is unknown
            self._on_end(error)

    def _on_end(self, error: Exception | None) -> None:
        self._finish(
            None
            if error is None
            else _because(ConnectionLostInFlight, f"connection lost: {error}", error)
        )

    def _on_timeout(self) -> None:
        self._finish(ResponseTimeout("cache", f"no answer within {self._timeout_s:g} s"))

    def _on_stop(self, end: asyncio.Future[None]) -> None:
        if end.cancelled():
            self._finish(ResponseTimeout("cache", "the service was stopped"))

    def _finish(self, failure: ServiceUnavailable | None) -> None:
        """Give the connection back, and complete the calls that have no reply with ``failure``."""
        self._pipeline.close(self)
        if self._timer is not None:
            self._timer.cancel()
        if (connection := self._connection) is not None:
            self._connection = None
            pool = self._pipeline.pool
            if failure is not None:
                connection.close()
            pool.give(connection)
            if failure is not None or not self.batch.reusable:
                # The idle ones are most likely no better (a restart, a failover), and a write on a
                # dead connection has an unknown outcome.
                pool.close_idle()
        if failure is not None:
            # First out of the batch: `on_outcome` may send the call again.
            while self.batch.calls:
                call = self.batch.calls.popleft()
                call.on_outcome(call, failure)
        if not self._end.done():
            self._end.set_result(None)


def _because(kind: type[ServiceUnavailable], reason: str, cause: Exception) -> ServiceUnavailable:
    error = kind("cache", reason)
    error.__cause__ = cause
    return error
