"""The client of one server: send n commands, get n replies.

A caller's cancellation never reaches a connection (``auto_pipeline``). The only repeat is the one
here, and only of calls that may be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from base_server.service.core.errors import (
    ConnectionLostInFlight,
    OutcomeUnknown,
    ServiceUnavailable,
)
from base_server.service.core.instruments import Counter, Histogram
from base_server.service.redis_client.auto_pipeline import AutoPipeline, CallOptions
from base_server.service.redis_client.calls import Command, Effect, RedisCall
from base_server.service.redis_client.connection_pool import ConnectionPool

CALL_SECONDS = Histogram(
    "cache_call_seconds", "Time of a call to Redis, waiting for a connection included."
)
FAILED_CALLS = Counter(
    "cache_failed_calls",
    "Calls without an answer; outcome: unavailable (not executed) or unknown.",
    ("outcome",),
)

# fmt: off
_READS = frozenset([
    "EXISTS", "GET", "GETEX", "GETRANGE", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET",
    "HVALS", "INFO", "LINDEX", "LLEN", "LRANGE", "MGET", "PING", "PTTL", "SCARD", "SISMEMBER",
    "SMEMBERS", "SMISMEMBER", "STRLEN", "TIME", "TTL", "TYPE", "XINFO", "XLEN", "XRANGE", "XREAD",
    "XREVRANGE", "ZCARD", "ZCOUNT", "ZMSCORE", "ZRANGE", "ZRANGEBYSCORE", "ZRANK", "ZREVRANGE",
    "ZSCORE",
])
# fmt: on
"""Commands that may be sent again after a lost connection (GETEX only extends a TTL)."""


def effect_of(commands: Sequence[Command]) -> Effect:
    """READ when all of them only read, else ONCE."""
    for command in commands:
        if str(command[0]).upper() not in _READS:
            return Effect.ONCE
    return Effect.READ


class RedisClient:
    """Calls to one server; :class:`base_server.service.redis_client.cluster_client.ClusterClient`
    has the same interface."""

    def __init__(self, pool: ConnectionPool, options: CallOptions) -> None:
        self._pipeline = AutoPipeline(pool, options)

    @property
    def pools(self) -> list[ConnectionPool]:
        return [self._pipeline.pool]

    @property
    def round_trips(self) -> int:
        """Calls sent so far; several of one loop iteration share one of :attr:`writes`."""
        return self._pipeline.sent

    @property
    def writes(self) -> int:
        return self._pipeline.writes

    async def run(
        self, commands: Sequence[Command], effect: Effect, wait_s: float = 0.0
    ) -> list[Any]:
        """Send ``commands`` next to each other, not as a transaction; returns their replies.

        The reply of a refused command is its error. ``wait_s``: how long the server itself may wait
        (BLOCK), on top of the time-out. Raises :class:`ServiceUnavailable` when certainly nothing
        was executed, :class:`OutcomeUnknown` when something may have been. When the caller is
        cancelled, the call still runs to its end.
        """
        call = RedisCall(commands, effect, self._on_outcome, wait_s)
        self._pipeline.send(call)
        return await call.replies

    @property
    def nodes(self) -> list[str]:
        """The names of the servers that share the keys: one without a name."""
        return [""]

    async def run_on(self, node: str, commands: Sequence[Command], effect: Effect) -> list[Any]:
        """:meth:`run` on one of :attr:`nodes`."""
        return await self.run(commands, effect)

    def _on_outcome(self, call: RedisCall, outcome: list[Any] | ServiceUnavailable) -> None:
        if isinstance(outcome, list):
            succeed(call, outcome)
        elif (
            isinstance(outcome, ConnectionLostInFlight)
            and call.effect is not Effect.ONCE
            and not call.repeated
        ):
            call.repeated = True
            self._pipeline.send(call)
        else:
            fail(call, outcome)


def succeed(call: RedisCall, replies: list[Any]) -> None:
    """Give the caller its replies."""
    if not call.wait_s:
        CALL_SECONDS.observe(time.monotonic() - call.started_s)
    call.complete(replies)


def fail(call: RedisCall, failure: ServiceUnavailable) -> None:
    """Raise to the caller that there is no reply, and whether the call may have been executed."""
    # Whatever happened to the repeat: the first may have been executed.
    was_sent = call.repeated or isinstance(failure, OutcomeUnknown)
    kind: type[ServiceUnavailable] = ServiceUnavailable
    if was_sent and call.effect is not Effect.READ:
        kind = type(failure) if isinstance(failure, OutcomeUnknown) else OutcomeUnknown
    error = kind("cache", failure.reason)
    error.__cause__ = failure.__cause__
    FAILED_CALLS.add("unavailable" if kind is ServiceUnavailable else "unknown")
    call.complete(error)
