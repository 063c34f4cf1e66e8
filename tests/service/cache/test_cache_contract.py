"""The cache's port, the same on Valkey, Redis and a cluster."""

from __future__ import annotations

import asyncio

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import ServiceNotRunning, StartError
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script import Script
from tests.backends_redis import CacheBackend, make_cache
from tests.waiting import until


@pytest.fixture
def redis(cache: CacheService) -> CacheClient:
    return cache.get_client()


async def test_a_string_comes_back_as_it_was_set(redis: CacheClient) -> None:
    for text in ("안녕하세요 👋", "", "line\r\nbreak\0nul", "{}:*"):
        assert await redis.set_string("room:1", text) is True
        assert await redis.get_string("room:1") == text
    assert await redis.get_string("room:2") is None


async def test_a_string_with_expiry_goes_away_and_one_without_stays(redis: CacheClient) -> None:
    await redis.set_string("a:1", "x", expire=0.05)
    await redis.set_string("b:1", "x", 3600)
    await redis.set_string("c:1", "x")
    assert 3590 < await redis.execute("TTL", redis.key("b:1")) <= 3600
    assert await redis.execute("TTL", redis.key("c:1")) == -1
    await until(lambda: _gone(redis, "a:1"), what="a:1 expires")
    assert await redis.exists("b:1")


async def test_set_expire_tells_whether_there_is_such_a_key(redis: CacheClient) -> None:
    await redis.set_string("a:1", "x")
    assert await redis.set_expire("a:1", 0.05) is True
    assert await redis.set_expire("a:2", 10) is False
    await until(lambda: _gone(redis, "a:1"), what="a:1 expires")


async def test_delete_counts_what_there_was(redis: CacheClient) -> None:
    await redis.set_string("a:1", "x")
    await redis.set_string("b:2", "x")
    assert await redis.delete("a:1", "b:2", "c:3") == 2
    assert await redis.delete("a:1") == 0
    assert await redis.exists("a:1") is False


async def test_a_list_keeps_its_order(redis: CacheClient) -> None:
    assert await redis.list_push_right("l:1", "a") == 1
    assert await redis.list_push_right("l:1", "b", "c") == 3
    assert await redis.list_range("l:1") == ["a", "b", "c"]
    assert await redis.list_range("l:1", -2, -1) == ["b", "c"]
    assert await redis.list_range("l:2", 0, -1) == []


async def test_a_set_knows_its_members(redis: CacheClient) -> None:
    assert await redis.set_add("s:1", "a", "b") == 2
    assert await redis.set_add("s:1", "b") == 0
    assert await redis.set_remove("s:1", "a", "z") == 1
    assert await redis.set_members("s:1") == {"b"}
    assert await redis.set_members("s:2") == set()


async def test_eval_script_runs_on_logical_keys(redis: CacheClient) -> None:
    script = "redis.call('SET', KEYS[1], ARGV[1]); return {redis.call('GET', KEYS[1]), 7, false}"
    assert await redis.eval_script(script, ["a:1"], ["값"]) == ["값", 7, None]
    assert await redis.get_string("a:1") == "값"


async def test_the_raw_client_answers_in_redis_pys_shapes_on_full_keys(redis: CacheClient) -> None:
    await redis.set_add("rooms:me", "a", "b")
    assert await redis._client.smembers(redis._get_key("rooms:me")) == {"a", "b"}
    await redis._client.hset(redis._get_key("h:1"), mapping={"f": "값"})
    assert await redis._client.hgetall(redis._get_key("h:1")) == {"f": "값"}
    async with redis._client.pipeline() as pipe:
        pipe.set(redis._get_key("n:1"), 1)
        pipe.incr(redis._get_key("n:1"))
        assert await pipe.execute() == [True, 2]


async def test_commands_answer_in_the_shapes_of_resp2(redis: CacheClient) -> None:
    stream = redis.key("x:1")
    entry = await redis.execute("XADD", stream, "*", "f", "값")
    assert await redis.execute("XRANGE", stream, "-", "+") == [[entry, ["f", "값"]]]
    await redis.execute("HSET", redis.key("h:1"), "f", 1)
    assert await redis.execute("HGETALL", redis.key("h:1")) == ["f", "1"]
    assert await redis.execute("GET", redis.key("none:1")) is None


async def test_many_commands_cost_one_round_trip(redis: CacheClient) -> None:
    before = redis.round_trips
    answers = await redis.execute_many(
        [("SET", redis.key("a:1"), 1), ("INCR", redis.key("a:1")), ("PING",)]
    )
    assert answers == ["OK", 2, "PONG"]
    assert redis.round_trips - before == 1
    assert await redis.execute_many([]) == []


async def test_refused_command_of_many_raises_after_the_others_ran(
    redis: CacheClient,
) -> None:
    await redis.set_add("s:1", "a")
    with pytest.raises(CacheCommandError) as refused:
        await redis.execute_many(
            [("SET", redis.key("a:1"), 1), ("GET", redis.key("s:1")), ("INCR", redis.key("a:1"))]
        )
    assert refused.value.code == "WRONGTYPE"
    assert await redis.get_string("a:1") == "2"


async def test_a_script_costs_one_round_trip_also_the_first_time(redis: CacheClient) -> None:
    script = Script("one", "return {KEYS[1], ARGV[1]}")
    before = redis.round_trips
    for n in range(3):
        assert await redis.run_script(script, [redis.key("k:1")], [n]) == [redis.key("k:1"), str(n)]
    assert redis.round_trips - before == 3


async def test_a_script_that_the_server_forgot_is_sent_again(redis: CacheClient) -> None:
    script = Script("counted", "return redis.call('INCR', KEYS[1])")
    assert await redis.run_script(script, [redis.key("n:1")], [], repeatable=False) == 1
    await redis.execute("SCRIPT", "FLUSH")
    assert await redis.run_script(script, [redis.key("n:1")], [], repeatable=False) == 2
    assert await redis.run_script(script, [redis.key("n:1")], [], repeatable=False) == 3


async def test_a_wrong_type_is_an_error_of_the_command_not_an_outage(redis: CacheClient) -> None:
    await redis.set_add("s:1", "a")
    with pytest.raises(CacheCommandError) as refused:
        await redis.get_string("s:1")
    assert refused.value.code == "WRONGTYPE"
    with pytest.raises(CacheCommandError):
        await redis.eval_script("return nonsense(", [], [])
    with pytest.raises(CacheCommandError) as refused:
        await redis.execute("SET", redis.key("a:1"), None)
    assert refused.value.code == "ARGUMENT"
    assert await redis.execute("PING") == "PONG"


async def test_bytes_that_are_not_utf8_are_an_error_of_the_command(
    real_cache: CacheService,
) -> None:
    redis = real_cache.get_client()
    await redis.execute("SET", redis.key("a:1"), b"\xff\xfe")
    with pytest.raises(CacheCommandError) as refused:
        await redis.get_string("a:1")
    assert refused.value.code == "UNDECODABLE"
    assert await redis.get_string("b:1") is None


async def test_entering_opens_no_connection_and_clients_share_data(
    cache: CacheService,
) -> None:
    async with cache.get_client() as redis, cache.get_bulk_client() as bulk:
        before = redis.round_trips
        async with cache.get_client():
            assert redis.round_trips == before
        await redis.set_string("a:1", "x")
        assert await bulk.get_string("a:1") == "x"
        assert bulk.key("a:1") == redis._get_key("a:1")


async def test_a_blocking_read_may_wait_longer_than_the_time_out(cache: CacheService) -> None:
    bulk, redis = cache.get_bulk_client(), cache.get_client()
    stream = redis.key("x:1")
    reading = asyncio.create_task(
        bulk.execute("XREAD", "BLOCK", 20_000, "STREAMS", stream, "$", wait_s=20)
    )
    await until(lambda: bulk.round_trips > 0)
    while not reading.done():
        await redis.execute("XADD", stream, "*", "f", "v")
        await asyncio.sleep(0)
    assert (await reading)[0][0] == stream


async def test_each_partition_has_a_generation_of_at_least_one(cache: CacheService) -> None:
    redis = cache.get_client()
    for partition in range(cache.partitions.count):
        assert int(await redis.execute("GET", redis.key("epoch", partition))) >= 1


async def test_the_class_speaks_to_the_installed_service(cache: CacheService) -> None:
    with pytest.raises(ServiceNotRunning):
        CacheService.get_client()
    cache.install()
    try:
        async with CacheService.get_client() as redis:
            await redis.set_string("a:1", "x")
        assert await cache.get_client().get_string("a:1") == "x"
    finally:
        cache.uninstall()


async def test_a_stopped_service_hands_out_nothing(
    cache_backend: CacheBackend, app_id: str
) -> None:
    service = make_cache(cache_backend.settings, app_id)
    with pytest.raises(ServiceNotRunning):
        service.get_client()
    await service.start()
    await service.stop()
    await service.stop()
    with pytest.raises(ServiceNotRunning):
        service.get_bulk_client()


@pytest.mark.parametrize("name", ["", "a b", "a{b}", "a:b", "ä"])
def test_application_name_that_would_break_keys_is_refused(name: str) -> None:
    with pytest.raises(StartError, match="appId"):
        make_cache(CacheSettings(), name)


async def _gone(redis: CacheClient, key: str) -> bool:
    return not await redis.exists(key)
