"""Redis for the rest of the server: the documented calls on logical keys, ours on full names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

from base_server.service.cache.keyspace import Keyspace
from base_server.service.cache.partition import Partitions
from base_server.service.core.errors import OutcomeUnknown, PreconditionFailed, ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.tracing import span
from base_server.service.redis_client.calls import Command, Effect
from base_server.service.redis_client.client import effect_of
from base_server.service.redis_client.cluster_client import AnyClient
from base_server.service.redis_client.errors import (
    ERROR_REPLIES,
    NEWER_FORMAT,
    CacheCommandError,
    command_error,
    is_script_missing,
)
from base_server.service.redis_client.precondition import (
    Precondition,
    is_refusal,
    with_precondition,
)
from base_server.service.redis_client.raw_client import RawClient
from base_server.service.redis_client.script import Script

T = TypeVar("T")
_REPORT_EVERY_S = 60.0


class CacheClient:
    """A handle on the connections of the service; making, entering or leaving it opens none.

    Every call raises :class:`~base_server.service.core.errors.ServiceUnavailable` when Redis
    certainly did not execute it, its subclass :class:`~base_server.service.core.errors.
    OutcomeUnknown` when it may have, and
    :class:`~base_server.service.redis_client.errors.CacheCommandError` when Redis refused the
    command itself. When a caller is cancelled, a call that was begun still runs to its end.
    """

    def __init__(
        self,
        client: AnyClient,
        raw: RawClient,
        keyspace: Keyspace,
        script_guard: str = "",
    ) -> None:
        """``script_guard`` is put before every script."""
        self.redis_client = client
        self.keyspace = keyspace
        self._guard = script_guard
        self._variants: dict[tuple[str, bool], Script] = {}
        self._evaluated: set[str] = set()
        self._newer_reported_s = -_REPORT_EVERY_S
        self._client = raw
        """The documented ``redis.asyncio`` client with ``decode_responses=True``: it takes full key
        names and raises redis-py's errors."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    @property
    def partitions(self) -> Partitions:
        return self.keyspace.partitions

    @property
    def round_trips(self) -> int:
        """Calls so far on these connections, a repeat counted again. Each costs its caller the time
        of one round trip, also when calls share a write. Greetings are not counted."""
        return self.redis_client.round_trips

    @property
    def writes(self) -> int:
        """Writes to the network that these calls went out in."""
        return self.redis_client.writes

    def key(self, logical: str, partition: int | None = None) -> str:
        """The full name of ``kind:id[:rest]``, in the partition of ``id`` or in the given one."""
        return self.keyspace.key(logical, partition)

    def _get_key(self, logical: str) -> str:
        """The documented name of :meth:`key`."""
        return self.keyspace.key(logical)

    # Internal calls, on full key names. Replies have the shapes of RESP2, text decoded: HGETALL is
    # [field, value, …], SMEMBERS a list, XRANGE [[entry id, [field, value, …]], …], a missing value
    # is None.

    async def execute(self, *command: Any, wait_s: float = 0.0) -> Any:
        """One command. ``wait_s``: how long it may wait in the server (BLOCK), on top of the
        time-out."""
        return (await self._run([command], effect_of([command]), wait_s))[0]

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Independent commands in one round trip, not a transaction. All are executed; then the
        error of the first refused one is raised."""
        return await self._run(commands, effect_of(commands)) if commands else []

    async def run_script(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        *,
        repeatable: bool = True,
        precondition: Precondition | None = None,
    ) -> Any:
        """Run ``script`` atomically, in one round trip once the server knows it.

        ``repeatable``: it carries its own ids, so a second run with the same arguments returns what
        the first did, and it is sent once more when the connection was lost. With a
        ``precondition`` it is not repeated, for the precondition may not hold any more: that raises
        ``ConnectionLostInFlight``. A precondition that does not hold raises ``PreconditionFailed``.
        """
        effect = Effect.REPEATABLE if repeatable and precondition is None else Effect.ONCE
        operands = (
            [len(keys), *keys, *args] if precondition is None else precondition.operands(keys, args)
        )
        if self._guard or precondition is not None:
            script = self._variant(script, has_precondition=precondition is not None)
        with span("redis script", script=script.name):
            try:
                # EVALSHA only after an EVAL of our own: a script's first call costs one round
                # trip, too. A restarted server replies NOSCRIPT, and gets the source again.
                if script.sha1 in self._evaluated:
                    replies = await self.redis_client.run(
                        [("EVALSHA", script.sha1, *operands)], effect
                    )
                    if not is_script_missing(replies[0]):
                        return _result(replies, effect)[0]
                (reply,) = await self._run([("EVAL", script.source, *operands)], effect)
            except CacheCommandError as error:
                if precondition is not None and is_refusal(error.code):
                    raise PreconditionFailed(
                        f"the precondition of {script.name} does not hold"
                    ) from None
                raise CacheCommandError(error.code, script.explain(error.reason)) from error
            except ServiceUnavailable as error:
                self._report_newer(error)
                raise
            self._evaluated.add(script.sha1)
            return reply

    def _report_newer(self, error: ServiceUnavailable) -> None:
        """Log, once a minute, that a script met a record of a newer version."""
        now_s = time.monotonic()
        if (
            error.reason.startswith(NEWER_FORMAT)
            and now_s - self._newer_reported_s > _REPORT_EVERY_S
        ):
            self._newer_reported_s = now_s
            Logger.error(
                "a newer version has written records that this server does not know",
                reason=error.reason,
            )

    async def ask_partitions(
        self, partitions: Iterable[int], ask: Callable[[int], Awaitable[T]]
    ) -> dict[int, T]:
        """The result of ``ask`` for each partition. A partition whose master is away is left out,
        with a warning. Raises ServiceUnavailable when all are away."""
        asked = list(partitions)
        answers = await asyncio.gather(*map(ask, asked), return_exceptions=True)
        found: dict[int, T] = {}
        away: dict[int, ServiceUnavailable] = {}
        for partition, answer in zip(asked, answers, strict=True):
            if isinstance(answer, ServiceUnavailable):
                away[partition] = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[partition] = answer
        if away:
            outage = next(iter(away.values()))
            if not found:
                raise outage
            Logger.warn(
                "cache partitions are left out", partitions=list(away), reason=outage.reason
            )
        return found

    async def execute_on_each(self, *command: Any) -> dict[str, Any]:
        """One command on every server that has a part of the keys: the masters of a cluster, else
        the one server, whose name is ''. Returns the replies by the server's name."""
        effect = effect_of([command])
        nodes = self.redis_client.nodes
        answers = await asyncio.gather(
            *(self.redis_client.run_on(node, [command], effect) for node in nodes)
        )
        return {
            node: _result(answer, effect)[0] for node, answer in zip(nodes, answers, strict=True)
        }

    async def scan(self, pattern: str) -> set[str]:
        """The full names of all keys that match the glob ``pattern``. It reads through all names:
        not for a hot path."""
        found: set[str] = set()
        for node in self.redis_client.nodes:
            cursor = "0"
            while True:
                page = ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                ((cursor, names),) = _result(
                    await self.redis_client.run_on(node, [page], Effect.READ), Effect.READ
                )
                found.update(names)
                if str(cursor) == "0":
                    break
        return found

    async def publish(self, channel: str, text: str, partition: int | None = None) -> None:
        """Signal ``text`` on the logical ``channel`` to all processes that have subscribed to it by
        :meth:`CacheService.subscribe`.

        A script does it by PUBLISH, with the channel's full name (:meth:`key`) among its KEYS.
        """
        await self._run([("PUBLISH", self.key(channel, partition), text)], Effect.REPEATABLE)

    # The documented calls, on logical keys.

    async def get_string(self, key: str) -> str | None:
        value: str | None = await self.execute("GET", self.key(key))
        return value

    async def set_string(
        self, key: str, value: str | bytes | int | float, expire: float | None = None
    ) -> bool:
        """Set ``key``; it lives ``expire`` seconds, or permanently."""
        ttl = () if expire is None else ("PX", _ms(expire))
        return bool(await self.execute("SET", self.key(key), value, *ttl) == "OK")

    async def delete(self, *keys: str) -> int:
        """Delete keys; returns how many there were."""
        return sum(await self.execute_many([("DEL", self.key(key)) for key in keys]))

    async def exists(self, key: str) -> bool:
        return bool(await self.execute("EXISTS", self.key(key)))

    async def set_expire(self, key: str, seconds: float) -> bool:
        """Let ``key`` expire in ``seconds``; false when there is no such key."""
        return bool(await self.execute("PEXPIRE", self.key(key), _ms(seconds)))

    async def list_push_right(self, key: str, *values: str | bytes | int | float) -> int:
        """Append values; returns the list's length."""
        return int(await self.execute("RPUSH", self.key(key), *values))

    async def list_range(self, key: str, start: int = 0, end: int = -1) -> list[str]:
        """Entries ``start`` to ``end``, both included, negative ones counted from the end."""
        return list(await self.execute("LRANGE", self.key(key), start, end))

    async def set_add(self, key: str, *members: str | bytes | int | float) -> int:
        """Add members; returns how many were new."""
        return int(await self.execute("SADD", self.key(key), *members))

    async def set_remove(self, key: str, *members: str | bytes | int | float) -> int:
        """Remove members; returns how many there were."""
        return int(await self.execute("SREM", self.key(key), *members))

    async def set_members(self, key: str) -> set[str]:
        return set(await self.execute("SMEMBERS", self.key(key)))

    async def eval_script(
        self, script: str | Script, keys: Iterable[str] = (), args: Iterable[Any] = ()
    ) -> Any:
        """Run Lua source (or a script) on logical ``keys`` of one partition; not repeated."""
        if isinstance(script, str):
            script = Script("eval_script", script)
        return await self.run_script(
            script, [self.key(key) for key in keys], list(args), repeatable=False
        )

    def _variant(self, script: Script, *, has_precondition: bool) -> Script:
        """``script`` with the guard before it and, if it has one, the check of its precondition."""
        key = script.sha1, has_precondition
        if (variant := self._variants.get(key)) is None:
            checked = with_precondition(script) if has_precondition else script
            variant = self._variants[key] = replace(checked, body=self._guard + checked.body)
        return variant

    async def _run(
        self, commands: Sequence[Command], effect: Effect, wait_s: float = 0.0
    ) -> list[Any]:
        return _result(await self.redis_client.run(commands, effect, wait_s), effect)


def _result(replies: list[Any], effect: Effect) -> list[Any]:
    """The replies, or the caller's error for the first refused command."""
    refused = [reply for reply in replies if isinstance(reply, ERROR_REPLIES)]
    if not refused:
        return replies
    error = command_error(refused[0])
    if (
        isinstance(error, ServiceUnavailable)
        and len(refused) < len(replies)
        and effect is not Effect.READ
    ):
        # "Nothing was executed" would be wrong: the other commands were.
        error = OutcomeUnknown("cache", f"a part of a pipeline was refused: {error.reason}")
    raise error from refused[0]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
