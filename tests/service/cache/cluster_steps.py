"""What the tests on a cluster do again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_service import CacheService
from base_server.service.redis_client.auto_pipeline import _InFlightBatch
from base_server.service.redis_client.calls import Batch
from base_server.service.redis_client.connection import RedisConnection
from base_server.service.redis_client.script import Script

APPEND = Script(
    "append_once",
    """if redis.call('SADD', KEYS[1], ARGV[1]) == 0 then return 0 end
    redis.call('DEL', KEYS[3])
    redis.call('SET', KEYS[3], ARGV[1])
    return redis.call('RPUSH', KEYS[2], ARGV[1])""",
)
"""Repeatable by its id; it deletes a key and makes it again, as a lock does."""


def append(redis: CacheClient, partition: int, word: str) -> Awaitable[object]:
    keys = [redis.key(name, partition) for name in ("seen", "words", "last")]
    return redis.run_script(APPEND, keys, [word])


async def words(redis: CacheClient, partition: int) -> list[str]:
    return list(await redis.execute("LRANGE", redis.key("words", partition), 0, -1))


async def generations(service: CacheService) -> list[int]:
    stored = await service.generations()
    assert all(is_of_this_run for _, is_of_this_run in stored)
    return [epoch for epoch, _ in stored]


def lose_answers(
    monkeypatch: pytest.MonkeyPatch, *losses: bool, on_loss: Callable[[], None] | None = None
) -> None:
    """The connection breaks, for each coming reply to a call, when it was executed, read and counts
    as lost. What a new connection asks first is not counted."""
    on_reply, send, left = Batch.on_reply, _InFlightBatch._send, list(losses)
    sent: list[Batch] = []

    def noted(in_flight: _InFlightBatch, connection: RedisConnection) -> None:
        sent.append(in_flight.batch)
        send(in_flight, connection)

    def lossy(batch: Batch, reply: object) -> None:
        if left and any(batch is one for one in sent) and left.pop(0):
            if on_loss is not None:
                on_loss()
            raise RedisConnectionError("lost on its way")
        on_reply(batch, reply)

    monkeypatch.setattr(_InFlightBatch, "_send", noted)
    monkeypatch.setattr(Batch, "on_reply", lossy)
