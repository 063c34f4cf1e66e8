"""What callers see when Redis dies, comes back, stays away, refuses, or an answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable, StartError
from base_server.service.redis_client.connection import Connector
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.raw_client import make_redis_py_pool
from base_server.service.redis_client.script import Script
from tests.backends_redis import (
    CacheBackend,
    RedisServer,
    find_server,
    free_port,
    make_cache,
    running_cache,
)
from tests.flaky_proxy import FlakyProxy
from tests.waiting import PATIENCE_S, until

COUNT = Script("count", "return redis.call('INCR', KEYS[1])")


@pytest.fixture
async def on_private(private_server: RedisServer, app_id: str) -> AsyncIterator[CacheService]:
    async with running_cache(private_server.settings(), app_id) as service:
        yield service


async def test_start_without_a_server_names_address_and_fix(app_id: str) -> None:
    port = free_port()
    with pytest.raises(StartError, match=rf"127\.0\.0\.1:{port} .*BASE_SERVER__CACHECONFIG__HOST"):
        await make_cache(CacheSettings(type="redis", port=port), app_id).start()


async def test_a_wrong_password_stops_the_start_and_is_not_shown(app_id: str) -> None:
    server = RedisServer(find_server("redis"), "--requirepass", "right")
    try:
        server.start()
        with pytest.raises(StartError) as refused:
            await make_cache(server.settings(password="secret-wrong"), app_id).start()
        assert "secret-wrong" not in str(refused.value)
        service = make_cache(server.settings(password="right"), app_id)
        await service.start()
        assert await service.get_client().execute("PING") == "PONG"
        await service.stop()
    finally:
        server.remove()


async def test_host_and_port_work_as_the_socket_file_does(
    real_cache_backend: CacheBackend, app_id: str
) -> None:
    assert real_cache_backend.server is not None
    async with running_cache(
        real_cache_backend.server.settings(unix_socket_path=None), app_id
    ) as service:
        assert await service.get_client().execute("PING") == "PONG"


async def test_other_partition_count_stops_the_start_with_the_fix(
    cache: CacheService, cache_backend: CacheBackend, app_id: str
) -> None:
    with pytest.raises(
        StartError, match=r"partitions is 8, .* made with 16 .*set queueConfig.partitions to 16"
    ):
        await make_cache(cache_backend.settings, app_id, partitions=8).start()


async def test_after_a_restart_stale_connections_are_invisible(
    on_private: CacheService, private_server: RedisServer
) -> None:
    redis = on_private.get_client()
    await redis.set_string("a:1", "kept")
    await _leave_idle(redis, 5)
    private_server.kill()
    await asyncio.to_thread(private_server.start)
    answers = await asyncio.gather(
        *(redis.get_string("a:1") for _ in range(20)),
        *(redis.run_script(COUNT, [redis.key("n:1")], []) for _ in range(20)),
        *(redis._client.get(redis.key("a:1")) for _ in range(20)),
    )
    assert answers[:20] == answers[40:] == ["kept"] * 20
    assert sorted(answers[20:40]) == list(range(1, 21))


async def test_calls_during_an_outage_fail_at_once_and_work_afterwards(
    on_private: CacheService, private_server: RedisServer
) -> None:
    """While the server is away calls are refused at once and afterwards all is well."""
    redis = on_private.get_client()
    private_server.kill()
    for call in (
        redis.get_string("a:1"),
        redis.set_string("a:1", "x"),
        redis.run_script(COUNT, ["n"], []),
    ):
        with pytest.raises(ServiceUnavailable) as refused:
            await asyncio.wait_for(call, PATIENCE_S)
        assert not isinstance(refused.value, OutcomeUnknown)
        assert refused.value.service == "cache"
    await asyncio.to_thread(private_server.start)
    assert await redis.set_string("a:1", "x")
    assert not redis.redis_client.pools[0].in_use


async def test_each_server_run_raises_every_generation_before_any_read(
    on_private: CacheService, private_server: RedisServer
) -> None:
    redis = on_private.get_client()
    generations = [("GET", redis.key("epoch", p)) for p in range(16)]
    assert await redis.execute_many(generations) == ["1"] * 16
    first_run = on_private.server_facts()["run_id"]
    private_server.kill()
    await asyncio.to_thread(private_server.start)
    results = await asyncio.gather(*(redis.execute_many(generations) for _ in range(10)))
    assert results == [["2"] * 16] * 10
    assert on_private.server_facts()["run_id"] != first_run


async def test_other_process_of_the_same_run_keeps_the_generation(
    real_cache: CacheService, real_cache_backend: CacheBackend, app_id: str
) -> None:
    async with running_cache(real_cache_backend.settings, app_id) as other:
        assert await other.get_client().execute("GET", other.get_client().key("epoch", 3)) == "1"


async def test_server_that_comes_back_empty_begins_its_generations_again(
    on_private: CacheService, private_server: RedisServer
) -> None:
    redis = on_private.get_client()
    await redis.set_string("a:1", "x")
    private_server.kill()
    for file in private_server.folder.glob("appendonlydir/*"):
        file.unlink()
    await asyncio.to_thread(private_server.start)
    assert await redis.get_string("a:1") is None
    assert await redis.execute("GET", redis.key("epoch", 0)) == "1"


@pytest.mark.parametrize(
    ("call", "executed"),
    [
        (lambda redis: redis.execute("INCR", redis.key("n:1")), 1),
        (lambda redis: redis.execute_many([("INCR", redis.key("n:1")), ("PING",)]), 1),
        (lambda redis: redis.run_script(COUNT, [redis.key("n:1")], [], repeatable=False), 1),
    ],
    ids=["a write", "a pipeline with a write", "a script that must not be repeated"],
)
async def test_lost_answer_of_a_write_is_an_unknown_outcome(
    proxied: tuple[FlakyProxy, CacheClient], call: Any, executed: int
) -> None:
    """A lost answer of a write is an unknown outcome and is not repeated."""
    proxy, redis = proxied
    proxy.lose_next_answer()
    with pytest.raises(OutcomeUnknown):
        await call(redis)
    assert await redis.get_string("n:1") == str(executed)


async def test_lost_reply_of_a_repeatable_script_is_repeated_once(
    proxied: tuple[FlakyProxy, CacheClient],
) -> None:
    proxy, redis = proxied
    proxy.lose_next_answer()
    # COUNT is not repeatable, which is how the test sees that it ran twice.
    assert await redis.run_script(COUNT, [redis.key("n:1")], []) == 2


async def test_repeatable_script_that_loses_two_replies_is_unknown(
    proxied: tuple[FlakyProxy, CacheClient],
) -> None:
    proxy, redis = proxied
    proxy.lose_answers(
        True, False, True
    )  # what comes between is the greeting of the repeat's connection
    with pytest.raises(OutcomeUnknown):
        await redis.run_script(COUNT, [redis.key("n:1")], [])
    assert await redis.get_string("n:1") == "2", "it is sent twice and no more"


async def test_a_repeatable_script_that_cannot_be_repeated_is_unknown(
    proxied: tuple[FlakyProxy, CacheClient],
) -> None:
    proxy, redis = proxied
    proxy.lose_next_answer(2)  # the second is the greeting of the repeat's connection
    with pytest.raises(OutcomeUnknown):
        await redis.run_script(COUNT, [redis.key("n:1")], [])


async def test_a_lost_answer_of_a_read_is_invisible(
    proxied: tuple[FlakyProxy, CacheClient],
) -> None:
    proxy, redis = proxied
    await redis.set_string("a:1", "x")
    for read in (
        lambda: redis.get_string("a:1"),
        lambda: redis._client.get(redis.key("a:1")),
    ):
        proxy.lose_next_answer()
        assert await read() == "x"
    proxy.lose_next_answer()
    assert await redis.execute_many([("GET", redis.key("a:1")), ("TTL", redis.key("a:1"))]) == [
        "x",
        -1,
    ]


async def test_dead_idle_connections_fail_only_the_first_call(
    proxied: tuple[FlakyProxy, CacheClient],
) -> None:
    proxy, redis = proxied
    for n in range(10):
        await redis.set_string(f"a:{n}", n)
    await _leave_idle(redis, 5)
    proxy.doom_connections()
    assert await redis.get_string("a:1") == "1"
    # On dead connections these writes would be unknown outcomes.
    assert await asyncio.gather(
        *(redis.execute("INCR", redis.key(f"a:{n}")) for n in range(9))
    ) == list(range(1, 10))


async def test_timeout_is_unknown_for_a_write_and_an_outage_for_a_read(
    proxied: tuple[FlakyProxy, CacheClient],
) -> None:
    proxy, redis = proxied
    await redis.execute("PING")
    proxy.silent = True
    with pytest.raises(OutcomeUnknown, match=r"within 2 s"):
        await redis.run_script(COUNT, [redis.key("n:1")], [])
    proxy.silent = False
    assert await redis.get_string("n:1") == "1", "a slow server is not asked again"
    proxy.silent = True
    with pytest.raises(ServiceUnavailable) as refused:
        await redis.get_string("n:1")
    assert not isinstance(refused.value, OutcomeUnknown)
    proxy.silent = False
    # The answers that came too late reach nobody.
    assert await asyncio.gather(*(redis.execute("ECHO", n) for n in range(10))) == [
        str(n) for n in range(10)
    ]


async def test_exhausted_pool_is_an_outage_with_nothing_executed(
    real_cache_backend: CacheBackend, app_id: str
) -> None:
    settings = real_cache_backend.settings.model_copy(update={"max_bulk_connections": 2})
    async with running_cache(settings, app_id) as service:
        bulk = service.get_bulk_client()
        blocked = [
            asyncio.create_task(bulk.execute("BLPOP", bulk.key("l:1"), 0, wait_s=3600))
            for _ in range(2)
        ]
        await until(lambda: bulk.redis_client.pools[0].in_use == 2 and bulk.round_trips == 2)
        bulk.redis_client.pools[0].timeout_s = 0.1
        with pytest.raises(ServiceUnavailable, match="all connections are in use"):
            await bulk.set_string("a:1", "x")
        redis = service.get_client()
        assert await redis.exists("a:1") is False, "the hot path has connections of its own"
        await redis.list_push_right("l:1", "a", "b")
        await asyncio.gather(*blocked)


async def test_a_full_server_is_an_outage_and_still_reads_and_deletes(
    private_server: RedisServer, app_id: str
) -> None:
    async with running_cache(private_server.settings(), app_id) as service:
        redis = service.get_client()
        await redis.set_string("a:1", "x")
        await redis.execute("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(ServiceUnavailable, match="OOM") as refused:
            await redis.set_string("b:1", "x")
        assert not isinstance(refused.value, OutcomeUnknown)
        with pytest.raises(ServiceUnavailable, match="OOM"):
            await redis.run_script(COUNT, [redis.key("n:1")], [])
        with pytest.raises(OutcomeUnknown, match="a part of a pipeline"):
            await redis.execute_many([("DEL", redis.key("c:1")), ("SET", redis.key("b:1"), 1)])
        assert await redis.get_string("a:1") == "x"
        assert await redis.delete("a:1") == 1


async def test_a_replica_refuses_writes_as_an_outage(
    private_server: RedisServer, app_id: str
) -> None:
    async with running_cache(private_server.settings(), app_id) as service:
        redis = service.get_client()
        await redis.execute("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(ServiceUnavailable, match="READONLY"):
            await redis.set_string("a:1", "x")


async def test_a_failover_behind_one_address_is_followed(
    private_server: RedisServer, valkey_server: RedisServer, app_id: str
) -> None:
    async with (
        FlakyProxy(private_server.socket) as address,
        running_cache(
            private_server.settings(unix_socket_path=str(address.socket)), app_id
        ) as service,
    ):
        redis = service.get_client()
        await asyncio.gather(*(redis.set_string(f"a:{number}", "x") for number in range(100)))
        assert len(redis.redis_client.pools[0].idle) > 1
        await redis.execute("REPLICAOF", "127.0.0.1", free_port())
        address.target = valkey_server.socket
        with pytest.raises(ServiceUnavailable, match="READONLY"):
            await redis.set_string("a:1", "x")
        await asyncio.gather(*(redis.set_string(f"a:{number}", "y") for number in range(100)))


async def test_prod_refuses_a_redis_that_loses_acknowledged_writes(
    private_server: RedisServer, app_id: str
) -> None:
    async with running_cache(private_server.settings(), app_id) as plain:
        assert plain.server_facts()["appendonly"] == "yes"
        assert plain.server_facts()["appendfsync"] == "always"
        redis = plain.get_client()
        await redis.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(StartError, match=r"allkeys-lru.*accept_volatile"):
            await make_cache(private_server.settings(), app_id, env="PROD").start()
        await redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await redis.execute("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(StartError, match=r"append-only.*accept_volatile"):
            await make_cache(private_server.settings(), app_id, env="PROD").start()
        accepted = make_cache(private_server.settings(accept_volatile=True), app_id, env="PROD")
        await accepted.start()
        await accepted.stop()


async def test_facts_come_without_config_command_too(
    private_server: RedisServer, app_id: str
) -> None:
    async with running_cache(private_server.settings(), app_id) as service:
        await service.get_client().execute(
            "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-config"
        )
    async with running_cache(
        private_server.settings(username="app", password="pw"), app_id
    ) as limited:
        assert limited.server_facts()["appendfsync"] == "unknown"
        assert limited.server_facts()["appendonly"] == "yes"


async def test_a_script_that_runs_for_ever_makes_others_an_outage(
    private_server: RedisServer, app_id: str
) -> None:
    async with running_cache(private_server.settings(), app_id) as service:
        redis = service.get_client()
        await redis.execute("CONFIG", "SET", "busy-reply-threshold", "50")
        await _leave_idle(redis, 2)
        before = redis.round_trips
        endless = asyncio.create_task(redis.eval_script("while true do end"))
        await until(lambda: redis.round_trips > before, what="it is sent, alone")

        async def write_until_refused() -> None:
            while True:
                await redis.set_string("a:1", "x")

        with pytest.raises(ServiceUnavailable, match="BUSY"):
            await write_until_refused()
        await redis.execute("SCRIPT", "KILL")
        with pytest.raises(CacheCommandError):
            await endless


def test_redis_py_is_set_up_as_measured() -> None:
    pool = make_redis_py_pool(Connector(timeout_s=5.0), max_connections=3)
    connection = pool.make_connection()
    assert (connection.protocol, connection.retry.get_retries()) == (2, 0)
    # The time-outs are around whole calls; redis-py's would cost a task for each write and read.
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (None, 5.0)
    assert not pool.maint_notifications_enabled()
    assert (pool.max_connections, pool.timeout) == (3, 5.0)


async def _leave_idle(redis: CacheClient, count: int) -> None:
    """Have ``count`` connections idle in the pool."""
    pool = redis.redis_client.pools[0]
    taken = [await pool.take() for _ in range(count)]
    for connection in taken:
        pool.give(connection)
    assert len(pool.idle) >= count
