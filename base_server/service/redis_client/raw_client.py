"""The documented ``_client``: redis-py's own client, whose calls pass the same seam as ours. What makes the server wait
(BLPOP, XREAD with BLOCK, …) has a connection for itself meanwhile, and needs a time-out; what changes a connection
(SELECT, MULTI by hand, …) is refused.

On a cluster too: commands and pipelines go to the nodes of their keys, a transaction's keys must be of one
partition. Refused there: WATCH, and what concerns each node by itself (SCAN, KEYS, FLUSHDB, …). Its own pub/sub stays
with one node, dead or alive: use :meth:`CacheService.subscribe`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ExecAbortError, RedisError

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.redis_client.calls import REFUSED, Command
from base_server.service.redis_client.client import Exchange, effect_of
from base_server.service.redis_client.cluster_client import ClusterExchange
from base_server.service.redis_client.raw_commands import refuse_changes, wait_s_of
from base_server.service.redis_client.redis_errors import CacheCommandError


class RawClient(Redis):
    """Commands and pipelines run to their end whatever happens to the caller; only reads are repeated."""

    def __init__(self, exchange: Exchange | ClusterExchange) -> None:
        super().__init__(connection_pool=exchange.pool)
        self._exchange = exchange

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        (answer,) = await _run(self._exchange, [_words(args)])
        if isinstance(answer, REFUSED):
            raise answer
        return _shaped(self, answer, args[0], options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _SeamPipeline(self._exchange, self, transaction, shard_hint)


class _SeamPipeline(Pipeline):
    """All in one call of the seam, with MULTI and EXEC around it; only WATCH takes a connection for itself."""

    def __init__(
        self,
        exchange: Exchange | ClusterExchange,
        client: RawClient,
        transaction: bool,
        shard_hint: str | None,
    ) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._exchange = exchange

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        if isinstance(self._exchange, ClusterExchange):
            raise CacheCommandError("CLUSTER", f"{args[0]} is for a single server: use a script")
        return await super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        if self.watching:
            return await self._execute_watching(raise_on_error)
        stack, self.command_stack = self.command_stack, []
        if not stack:
            return []
        commands = [_words(args) for args, _ in stack]
        if self.is_transaction:
            answers = _executed(await _run(self._exchange, commands, atomic=True))
        else:
            answers = await _run(self._exchange, commands)
        if raise_on_error:
            self.raise_first_error(stack, answers)
        return [
            answer if isinstance(answer, REFUSED) else _shaped(self, answer, args[0], options)
            for answer, (args, options) in zip(answers, stack, strict=True)
        ]

    async def _execute_watching(self, raise_on_error: bool) -> list[Any]:
        deadline = asyncio.wait_for(super().execute(raise_on_error), self._exchange.pool.timeout_s)
        work = self._exchange.tasks.spawn(deadline, "cache pipeline")
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # Leaving `async with` gives the connection back: not before its answers were read.
            await asyncio.wait([work])
            raise


async def _run(
    exchange: Exchange | ClusterExchange, commands: list[Command], *, atomic: bool = False
) -> list[Any]:
    for command in commands:
        refuse_changes(command)
    wait_s = 0.0 if atomic else sum(map(wait_s_of, commands))  # in a transaction nothing waits
    if atomic:
        commands = [("MULTI",), *commands, ("EXEC",)]
    try:
        return await exchange.run(commands, effect_of(commands), wait_s)
    except ServiceUnavailable as error:
        # Users of redis-py expect its errors.
        raise error.__cause__ if isinstance(error.__cause__, RedisError) else error from None


def _words(args: tuple[Any, ...]) -> Command:
    return (*args[0].split(), *args[1:])  # redis-py gives some commands in two words


def _shaped(client: Redis, answer: Any, name: Any, options: Mapping[str, Any]) -> Any:
    callback = client.response_callbacks.get(name)
    return (
        callback(answer, **{key: value for key, value in options.items() if key != "keys"})
        if callback
        else answer
    )


def _executed(answers: list[Any]) -> list[Any]:
    """What EXEC answered; raises the reason when it executed nothing."""
    *queued, executed = answers
    if isinstance(executed, ExecAbortError):
        raise next((answer for answer in queued if isinstance(answer, REFUSED)), executed)
    if isinstance(executed, REFUSED):
        raise executed
    return list(executed)
