"""The lock's port, the same on Valkey, Redis and a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_holder import LockHolder
from base_server.service.lock.lock_service import LockService
from tests.backends_redis import CacheBackend, RedisServer, make_cache, running_cache
from tests.flaky_proxy import FlakyProxy
from tests.waiting import PATIENCE_S, until


@pytest.fixture
async def locks(cache: CacheService) -> AsyncIterator[LockService]:
    service = LockService(cache)
    yield service
    await service.stop()


async def test_one_holds_it_until_it_is_given_back(locks: LockService) -> None:
    token = await locks.acquire("room:1", 30, 0)
    assert token
    assert await locks.acquire("room:1", 30, 0) is None
    assert await locks.acquire("room:2", 30, 0), "another lock is free"
    assert await locks.release("room:1", token) is True
    assert await locks.acquire("room:1", 30, 0)


async def test_another_token_neither_releases_nor_extends_it(locks: LockService) -> None:
    token = await locks.acquire("room:1", 30, 0)
    assert token
    assert await locks.release("room:1", "another") is False
    assert await locks.extend("room:1", "another", 60) is False
    assert await locks.acquire("room:1", 30, 0) is None
    assert await locks.release("room:1", token) is True
    assert await locks.release("room:1", token) is False


async def test_it_is_free_when_its_time_ends_and_the_late_holder_learns_it(
    locks: LockService,
) -> None:
    late = await locks.acquire("room:1", 0.05, 0)
    assert late
    next_one = await locks.acquire("room:1", 30, 5)
    assert next_one
    assert await locks.extend("room:1", late, 30) is False
    assert await locks.release("room:1", late) is False
    assert await locks.extend("room:1", next_one, 30) is True


async def test_extending_holds_it_longer(locks: LockService, cache: CacheService) -> None:
    token = await locks.acquire("room:1", 1, 0)
    assert token
    assert await locks.extend("room:1", token, 60) is True
    redis = cache.get_client()
    assert (
        await redis.execute("PTTL", redis.key("lock:room:1", redis.partitions.of_text("1")))
        > 50_000
    )


async def test_a_lock_of_the_dead_ends_though_the_servers_clock_was_set_back(
    locks: LockService, cache: CacheService
) -> None:
    """U10's kind: the time at which a key expires stays where it was, an hour further away."""
    assert await locks.acquire("room:1", 0.2, 0)
    redis = cache.get_client()
    await redis.execute(
        "PEXPIRE", redis.key("lock:room:1", redis.partitions.of_text("1")), 3_600_000
    )
    # Nobody extends it.
    assert await locks.acquire("room:1", 30, PATIENCE_S)


async def test_living_holder_keeps_its_lock_when_the_clock_is_set_back(
    locks: LockService, cache: CacheService
) -> None:
    """A holder that lives keeps its lock though the servers clock was set back."""
    held = await locks.acquire("room:1", 60, 0)
    assert held
    redis = cache.get_client()
    name = redis.key("lock:room:1", redis.partitions.of_text("1"))
    await redis.execute("PEXPIRE", name, 3_600_000)
    assert await locks.acquire("room:1", 1, 0) is None
    assert 50_000 < await redis.execute("PTTL", name) <= 60_000, (
        "its own time from now on, not that of who asks"
    )
    assert await locks.extend("room:1", held, 90) is True
    assert await locks.acquire("room:1", 1, 0) is None
    assert await redis.execute("PTTL", name) > 80_000
    assert await locks.release("room:1", held) is True


async def test_who_waits_gets_it_when_it_is_given_back(locks: LockService) -> None:
    token = await locks.acquire("room:1", 3600, 0)
    assert token
    waiting = asyncio.create_task(locks.acquire("room:1", 3600, 3600))
    await asyncio.sleep(0)
    await locks.release("room:1", token)
    assert await asyncio.wait_for(waiting, PATIENCE_S)


async def test_who_waits_in_vain_gets_none_after_the_time_out(locks: LockService) -> None:
    assert await locks.acquire("room:1", 30, 0)
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    assert await locks.acquire("room:1", 30, 0.1) is None
    assert loop.time() - begun_s >= 0.1


async def test_many_who_ask_at_once_hold_it_one_after_the_other(locks: LockService) -> None:
    holders = most = 0

    async def work() -> None:
        nonlocal holders, most
        token = await locks.acquire("room:1", 30, 20)
        assert token
        holders += 1
        most = max(most, holders)
        await asyncio.sleep(0)
        holders -= 1
        await locks.release("room:1", token)

    await asyncio.gather(*(work() for _ in range(20)))
    assert most == 1


async def test_a_lock_lies_in_the_partition_of_what_it_names_or_in_the_one_given(
    locks: LockService, cache: CacheService
) -> None:
    redis = cache.get_client()
    room_id = cache.partitions.new_id(5)
    await locks.acquire(f"room:{room_id}", 30, 0)
    assert await redis.execute("EXISTS", redis.key(f"lock:room:{room_id}", 5)) == 1
    assert await redis.exists(f"room:{room_id}") is False, "a lock is no data key"
    token = await locks.acquire("lock:queue:x:1", 30, 0, partition=9)
    assert token
    assert await redis.execute("EXISTS", redis.key("lock:queue:x:1", 9)) == 1
    assert await locks.acquire("queue:x:1", 30, 0, partition=9) is None
    assert await locks.extend("queue:x:1", token, 30, partition=9)
    assert await locks.release("queue:x:1", token, partition=9)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
async def test_a_cancelled_caller_leaves_no_lock_behind(locks: LockService, rounds: int) -> None:
    for _ in range(10):
        asking = asyncio.create_task(locks.acquire("room:1", 30, 10))
        for _ in range(rounds):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: not len(locks._tasks))
        token = await locks.acquire("room:1", 30, 0)
        assert token, "free at once"
        await locks.release("room:1", token)


@pytest.mark.parametrize("ttl", [0, -1])
async def test_a_time_to_live_must_be_positive(locks: LockService, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        await locks.acquire("room:1", ttl, 0)


async def test_an_outage_is_an_error_and_not_a_refusal(
    private_server: RedisServer, app_id: str
) -> None:
    async with running_cache(private_server.settings(), app_id) as cache:
        locks = LockService(cache)
        token = await locks.acquire("room:1", 30, 0)
        assert token
        private_server.kill()
        for call in (
            locks.acquire("room:2", 30, 5),
            locks.release("room:1", token),
            locks.extend("room:1", token, 30),
        ):
            with pytest.raises(ServiceUnavailable):
                await call
        await asyncio.to_thread(private_server.start)
        # The lock ended with the Redis run: its holder may be dead too, and its TTL is not waited
        # for.
        assert await locks.release("room:1", token) is False
        assert await locks.acquire("room:1", 30, 0)
        await locks.stop()


async def test_a_lost_answer_leaves_the_lock_with_its_asker_or_free(
    real_cache_backend: CacheBackend, app_id: str
) -> None:
    assert real_cache_backend.server is not None
    async with FlakyProxy(real_cache_backend.server.socket) as proxy:
        cache = make_cache(
            real_cache_backend.server.settings(unix_socket_path=str(proxy.socket)), app_id
        )
        await cache.start()
        locks = LockService(cache)
        proxy.lose_next_answer()
        token = await locks.acquire("room:1", 30, 0)
        assert token, "asked again with the same token"
        await locks.release("room:1", token)
        proxy.lose_next_answer(2)
        with pytest.raises(OutcomeUnknown):
            await locks.acquire("room:1", 30, 0)
        await until(lambda: not len(locks._tasks))
        assert await locks.acquire("room:1", 30, 0), "what was taken for nobody was given back"
        await cache.stop()


@pytest.mark.parametrize("was_held", [False, True], ids=["asked for", "held"])
async def test_lock_that_a_standstill_left_taken_is_given_back(
    private_server: RedisServer, app_id: str, was_held: bool
) -> None:
    """cases/faults.md U1: Redis runs an attempt that nobody waits for any more; or the first
    release is lost."""
    async with (
        running_cache(private_server.settings(timeout_s=0.5), app_id) as cache,
        running_cache(private_server.settings(), app_id) as other,
    ):
        locks, tasks = LockService(cache), TaskRegistry()
        release, failures = locks.release, []

        async def noted(key: str, token: str, *, partition: int | None = None) -> bool:
            try:
                return await release(key, token, partition=partition)
            except ServiceUnavailable:
                failures.append(key)
                raise

        locks.release = noted  # type: ignore[method-assign]
        try:
            async with AsyncExitStack() as held:
                if was_held:
                    holding = LockHolder(locks, tasks).acquired("room:1", ttl_s=3600, timeout_s=0)
                    assert await held.enter_async_context(holding)
                os.kill(private_server.pid, signal.SIGSTOP)
                # With "room:2" the connection is lost: the release cannot be sent.
                with pytest.raises(OutcomeUnknown):
                    await locks.acquire("room:2" if was_held else "room:1", 3600, 0)
            await until(lambda: "room:1" in failures)
        finally:
            os.kill(private_server.pid, signal.SIGCONT)
        assert await LockService(other).acquire("room:1", 30, PATIENCE_S)
        await locks.stop()
        await tasks.drain(PATIENCE_S)


async def test_the_class_speaks_to_the_installed_service(locks: LockService) -> None:
    locks.install()
    try:
        token = await LockService.acquire("room:1", 30, 0)
        assert token
        assert await LockService.extend("room:1", token, 30)
        assert await LockService.release("room:1", token)
    finally:
        locks.uninstall()
