"""fakeredis behind the same seam. It is a development dependency: whoever wants this module imports it only then."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from fakeredis.aioredis import FakeAsyncRedisConnection
from redis.exceptions import RedisError, ResponseError

from base_server.service.redis_client.calls import OF_THE_CONNECTION, Batch
from base_server.service.redis_client.connection import Ended, WiredConnection


class FakeConnection(FakeAsyncRedisConnection, WiredConnection):  # type: ignore[misc]
    """There is no transport behind it."""

    async def _connect(self) -> None:
        await super()._connect()
        self.wire = _FakeWire(self)


class _FakeWire:
    """A task reads the answers as redis-py does."""

    open = True

    def __init__(self, connection: FakeConnection) -> None:
        self.clean = False
        self._connection = connection
        self._reading: asyncio.Task[None] | None = None

    def ask(self, batch: Batch, ended: Ended) -> None:
        self.clean = False
        self._reading = asyncio.create_task(self._exchange(batch, ended))

    def close(self) -> None:
        self.clean = False
        if self._reading is not None:
            self._reading.cancel()

    async def _exchange(self, batch: Batch, ended: Ended) -> None:
        try:
            await self._connection.send_packed_command([call.packed for call in batch.calls])
            while batch.calls:
                batch.hear(await self._answer())
        except (RedisError, OSError) as error:
            ended(error)
        else:
            self.clean = batch.sound
            ended(None)

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response(timeout=math.inf, disconnect_on_error=False)
        except (ResponseError, UnicodeDecodeError, *OF_THE_CONNECTION) as error:
            return error
