"""The documented ``_client``: redis-py's own client, whose calls pass the same seam as ours."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from service.cache.exchange import Exchange, effect_of
from service.core.errors import ServiceUnavailable


class RawClient(Redis):
    """Commands and pipelines run to their end whatever happens to the caller; only reads are repeated."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(connection_pool=exchange.pool)
        self._exchange = exchange

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            (answer,) = await self._exchange.run([args], effect_of([args]))
        except ServiceUnavailable as error:
            # Users of redis-py expect its errors.
            raise error.__cause__ if isinstance(error.__cause__, RedisError) else error from None
        if isinstance(answer, ResponseError):
            raise answer
        options.pop("keys", None)
        callback = self.response_callbacks.get(args[0])
        return callback(answer, **options) if callback else answer

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _ShieldedPipeline(self._exchange, self, transaction, shard_hint)


class _ShieldedPipeline(Pipeline):
    def __init__(self, exchange: Exchange, client: RawClient, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._exchange = exchange

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        self._exchange.round_trips += 1
        work = self._exchange.tasks.spawn(super().execute(raise_on_error), "cache pipeline")
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # Leaving `async with` gives the connection back: not before its answers were read.
            await asyncio.wait([work])
            raise
