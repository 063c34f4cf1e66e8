"""The one seam through which every Redis call passes: send n commands, read n answers.

A caller's cancellation never reaches a shared connection (``auto_pipeline``). redis-py's own retries are
off; the only repeat is the one here, and only of calls that may be repeated.
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
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.auto_pipeline import Pipeline
from base_server.service.redis_client.calls import Call, Command, Effect, Lost, Unanswered
from base_server.service.redis_client.connection_pool import Pool

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
    "EXISTS", "GET", "GETEX", "GETRANGE", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HVALS", "INFO",
    "LINDEX", "LLEN", "LRANGE", "MGET", "PING", "PTTL", "SCARD", "SISMEMBER", "SMEMBERS", "SMISMEMBER", "STRLEN",
    "TIME", "TTL", "TYPE", "XINFO", "XLEN", "XRANGE", "XREAD", "XREVRANGE", "ZCARD", "ZCOUNT", "ZMSCORE", "ZRANGE",
    "ZRANGEBYSCORE", "ZRANK", "ZREVRANGE", "ZSCORE",
])
# fmt: on
"""Commands that may be sent again after a lost connection (GETEX: a read that pushes a TTL on)."""


def effect_of(commands: Sequence[Command]) -> Effect:
    """READ when all of them only read, else ONCE."""
    for command in commands:
        if str(command[0]).upper() not in _READS:
            return Effect.ONCE
    return Effect.READ


class Exchange:
    """With one server. ``gather``: calls of one tick share a write, which suits those that are answered at once."""

    def __init__(
        self,
        pool: Pool,
        tasks: TaskRegistry,
        waits: TaskRegistry,
        timeout_s: float,
        *,
        gather: bool = True,
    ) -> None:
        """``waits`` holds the calls that wait in the server (BLOCK): a stop need not wait for their end."""
        self.pool = pool
        self.tasks = tasks
        self._pipeline = Pipeline(pool, tasks, waits, timeout_s, gather=gather)

    @property
    def pools(self) -> list[Pool]:
        """All the connections."""
        return [self.pool]

    @property
    def round_trips(self) -> int:
        """Calls sent so far: what each caller waited for. Some of one tick share a write (:attr:`writes`)."""
        return self._pipeline.sent

    @property
    def writes(self) -> int:
        return self._pipeline.writes

    async def run(
        self, commands: Sequence[Command], effect: Effect, wait_s: float = 0.0
    ) -> list[Any]:
        """Send ``commands`` next to each other and return their answers; a refused command's answer is its error.

        ``wait_s``: how long the server itself may wait (BLOCK), on top of the time-out.
        Raises :class:`ServiceUnavailable` when certainly nothing was executed,
        :class:`OutcomeUnknown` when something may have been. Cancelled, it leaves the call to run to its end.
        """
        call = Call(commands, effect, self._settle, wait_s)
        self._pipeline.send(call)
        return await call.answers

    @property
    def nodes(self) -> list[str]:
        """The names of the servers that share the keys: one without a name."""
        return [""]

    async def run_on(self, node: str, commands: Sequence[Command], effect: Effect) -> list[Any]:
        """:meth:`run` on one of :attr:`nodes`."""
        return await self.run(commands, effect)

    def _settle(self, call: Call, outcome: list[Any] | ServiceUnavailable) -> None:
        if isinstance(outcome, list):
            finish(call, outcome)
        elif isinstance(outcome, Lost) and call.effect is not Effect.ONCE and not call.repeated:
            call.repeated = True
            self._pipeline.send(call)
        else:
            fail(call, outcome)


def finish(call: Call, answers: list[Any]) -> None:
    """Give the caller its answers."""
    if not call.wait_s:
        CALL_SECONDS.observe(time.monotonic() - call.begun_s)
    call.finish(answers)


def fail(call: Call, failure: ServiceUnavailable) -> None:
    """Tell the caller that there is no answer, and whether its call may have been executed."""
    # Whatever happened to a repeat, the first may have been executed.
    sent = call.repeated or isinstance(failure, Lost | Unanswered)
    unknown = sent and call.effect is not Effect.READ
    kind = (
        ServiceUnavailable
        if not unknown
        else ConnectionLostInFlight
        if isinstance(failure, Lost)
        else OutcomeUnknown
    )
    error = kind("cache", failure.reason)
    error.__cause__ = failure.__cause__
    FAILED_CALLS.add("unknown" if unknown else "unavailable")
    call.finish(error)
