"""A script with a precondition: asked in the same step, on every server that we run on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import PreconditionFailed, ServiceUnavailable
from base_server.service.redis_client.precondition import Precondition
from base_server.service.redis_client.script import Script
from tests.backends_redis import RedisServer, running_cache

# Answers what it was given, so that a precondition that stays among KEYS or ARGV shows.
NOTE = Script("note", "redis.call('SET', KEYS[1], ARGV[1]) return { #KEYS, #ARGV, ARGV[#ARGV] }")


@pytest.fixture
def redis(cache: CacheService) -> CacheClient:
    return cache.get_client()


@pytest.fixture
async def precondition(redis: CacheClient) -> Precondition:
    held = Precondition(redis.key("session:a", 0), "alice", 100, redis.key("run:a", 0), "7")
    await redis.execute("SET", held.key, held.text, "EX", 5)
    await redis.execute("SET", held.generation_key, held.generation)
    return held


async def test_script_runs_and_extends_the_key_of_its_precondition(
    redis: CacheClient, precondition: Precondition
) -> None:
    key = redis.key("note:a", 0)
    for text in ("first", "again"):
        before = redis.round_trips
        assert await redis.run_script(NOTE, [key], [text, "last"], precondition=precondition) == [
            1,
            2,
            "last",
        ]
        assert redis.round_trips - before <= (2 if text == "first" else 1)
        assert await redis.execute("GET", key) == text
    assert await redis.execute("TTL", precondition.key) > 90
    assert await redis.run_script(NOTE, [key], ["plain"]) == [1, 1, "plain"]


@pytest.mark.parametrize("change", ["gone", "other text", "other type", "other run", "no run"])
async def test_failed_precondition_runs_nothing(
    redis: CacheClient, precondition: Precondition, change: str
) -> None:
    match change:
        case "gone":
            await redis.execute("DEL", precondition.key)
        case "other text":
            precondition = replace(precondition, text="bob")
        case "other type":
            await redis.execute("DEL", precondition.key)
            await redis.execute("RPUSH", precondition.key, "alice")
        case "other run":
            await redis.execute("SET", precondition.generation_key, "8")
        case _:
            await redis.execute("DEL", precondition.generation_key)
    key = redis.key("note:a", 0)
    for _ in range(2):  # sent whole, and by its name
        with pytest.raises(PreconditionFailed):
            await redis.run_script(NOTE, [key], ["x"], precondition=precondition)
    assert await redis.execute("EXISTS", key) == 0


async def test_full_server_refuses_a_script_with_a_precondition(
    private_server: RedisServer, app_id: str
) -> None:
    """Redis checks its memory before a script's first write only: that must be the script's own."""
    async with running_cache(private_server.settings(), app_id) as cache:
        redis = cache.get_client()
        held = Precondition(redis.key("session:a", 0), "alice", 100, redis.key("run:a", 0), "7")
        await redis.execute("SET", held.key, held.text, "EX", 5)
        await redis.execute("SET", held.generation_key, held.generation)
        await redis.execute("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(ServiceUnavailable):
            await redis.run_script(NOTE, [redis.key("note:a", 0)], ["x"], precondition=held)
        await redis.execute("CONFIG", "SET", "maxmemory", "0")
        assert await redis.execute("GET", redis.key("note:a", 0)) is None
