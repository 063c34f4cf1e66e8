"""A Redis Cluster that changes: slots that move, masters that die, generations afterwards."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable, StartError
from base_server.service.redis_client.slots import tag_slot
from tests.backends_cluster import RedisCluster
from tests.backends_redis import make_cache, running_cache
from tests.service.cache.cluster_steps import append, generations, lose_answers, words
from tests.service.cache.test_cache_cancellation import cancel_storm
from tests.waiting import PATIENCE_S, until


@pytest.fixture
async def moving_cache(moving_cluster: RedisCluster, app_id: str) -> AsyncIterator[CacheService]:
    async with running_cache(moving_cluster.settings(timeout_s=2.0), app_id) as service:
        yield service


@pytest.fixture
async def private_cache(private_cluster: RedisCluster, app_id: str) -> AsyncIterator[CacheService]:
    async with running_cache(private_cluster.settings(timeout_s=2.0), app_id) as service:
        yield service


async def test_the_facts_are_the_worst_of_all_masters(
    moving_cluster: RedisCluster, app_id: str
) -> None:
    async with running_cache(moving_cluster.settings(), app_id) as service:
        durability = await service.durability()
        assert (
            durability.safe,
            durability.settings["masters"],
            durability.settings["replicas"],
        ) == (True, "3", "1")
        assert "failover loses" in durability.sentence
        moving_cluster.masters[2].client.config_set("appendonly", "no")
        durability = await service.durability()
        assert not durability.safe
        moving_cluster.masters[2].client.config_set("appendonly", "yes")
        moving_cluster.masters[1].client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StartError, match="allkeys-lru"):
            await make_cache(moving_cluster.settings(), app_id, env="PROD").start()
        moving_cluster.masters[1].client.config_set("maxmemory-policy", "noeviction")


async def test_moving_slot_mixes_no_answers_up(moving_cluster: RedisCluster, app_id: str) -> None:
    """The storm of test_cache_cancellation, over three nodes and through redirections."""
    async with running_cache(
        moving_cluster.settings(max_connections=4, timeout_s=20), app_id
    ) as service:
        redis, slot = service.get_client(), tag_slot(service.partitions.tag(2))
        a, b, _ = moving_cluster.masters
        partitions = itertools.cycle((2, 7, 2, 12))

        async def call(word: str) -> object:
            key = redis.key(f"word:{word}", next(partitions))
            set_, text, _ = await redis.execute_many(
                [("SET", key, word), ("GET", key), ("GET", redis.key("x", 7))]
            )
            assert set_ == "OK"
            return text

        async def move() -> None:
            for source, target in ((a, b), (b, a)):
                await asyncio.to_thread(moving_cluster.move_slot, slot, source, target)

        moving = asyncio.create_task(move())
        while not moving.done():
            answered, cancelled, wrong = await cancel_storm(call)
            assert wrong == []
            assert answered
            assert cancelled
        await moving
        await until(
            lambda: not any(pool.in_use for pool in redis.redis_client.pools),
            what="all come back",
        )


async def test_moved_slot_alone_begins_a_new_generation(
    moving_cache: CacheService, moving_cluster: RedisCluster
) -> None:
    """A slot that moved begins a new generation where it is and the others do not."""
    redis, slot = moving_cache.get_client(), tag_slot(moving_cache.partitions.tag(2))
    before = await generations(moving_cache)
    await append(redis, 2, "before")
    source, target = moving_cluster.masters[0], moving_cluster.masters[2]
    await asyncio.to_thread(moving_cluster.move_slot, slot, source, target)
    assert await redis.execute("GET", redis.key("epoch", 2)) == str(before[2] + 1), (
        "raised before anything is read"
    )
    assert await append(redis, 2, "after") == 2
    assert await append(moving_cache.get_bulk_client(), 2, "bulk") == 3
    async with running_cache(
        moving_cluster.settings(), redis.key("x", 0).partition(":")[0]
    ) as other:
        assert await words(other.get_client(), 2) == ["before", "after", "bulk"]
        assert await generations(other) == [*before[:2], before[2] + 1, *before[3:]]
    await asyncio.to_thread(moving_cluster.move_slot, slot, target, source)
    assert await redis.execute("GET", redis.key("epoch", 2)) == str(before[2] + 2), (
        "and when it comes back"
    )


async def test_moving_slot_serves_keys_and_makes_scripts_wait(
    moving_cache: CacheService, moving_cluster: RedisCluster
) -> None:
    redis, slot = moving_cache.get_client(), tag_slot(moving_cache.partitions.tag(2))
    source, target = moving_cluster.masters[0], moving_cluster.masters[2]
    await append(redis, 2, "before")
    await redis.execute("SET", redis.key("text", 2), "x")
    moving_cluster.open_move(slot, source, target)
    for step in range(
        20
    ):  # more than there are keys: none, some, all of them are on the other side
        assert await redis.execute("GET", redis.key("text", 2)) == "x"
        assert await redis.execute("GET", redis.key("nothing", 2)) is None
        redis.redis_client.timeout_s = 0.05
        with pytest.raises(ServiceUnavailable, match=r"TRYAGAIN|ASK") as refused:
            await append(redis, 2, f"during {step}")
        assert not isinstance(refused.value, OutcomeUnknown)
        redis.redis_client.timeout_s = 5.0
        if not moving_cluster.move_keys(slot, source, target, count=1):
            break
    assert step > 5
    waiting = asyncio.create_task(append(redis, 2, "waited"))
    reading = asyncio.create_task(redis.execute("GET", redis.key("text", 2)))
    assert await reading == "x"
    assert not waiting.done()
    moving_cluster.close_move(slot, target)
    assert await waiting == 2
    assert await words(redis, 2) == ["before", "waited"]
    await asyncio.to_thread(moving_cluster.move_slot, slot, target, source)


Storm = Callable[[Callable[[], Awaitable[None]]], Awaitable[tuple[list[str], list[str]]]]


@pytest.fixture
def storm(private_cache: CacheService) -> Storm:
    """Writers on four partitions while something happens: the words that were acknowledged, and
    those with an unknown outcome."""

    async def run(accident: Callable[[], Awaitable[None]]) -> tuple[list[str], list[str]]:
        acknowledged, unknown, over = [], [], False

        async def write(partition: int) -> None:
            n = 0
            while not over:
                n += 1
                word = f"{partition}-{n}"
                try:
                    await append(private_cache.get_client(), partition, word)
                    acknowledged.append(word)
                except OutcomeUnknown:
                    unknown.append(word)
                except ServiceUnavailable:
                    continue

        writers = [asyncio.create_task(write(partition)) for partition in (0, 2, 7, 12)]
        await until(lambda: len(acknowledged) > 100)
        await accident()
        before = len(acknowledged)

        def all_write_again() -> bool:
            return {word.partition("-")[0] for word in acknowledged[before:]} == {
                "0",
                "2",
                "7",
                "12",
            }

        await until(all_write_again)
        over = True
        await asyncio.gather(*writers)
        return acknowledged, unknown

    return run


async def stored(redis: CacheClient) -> list[str]:
    return [word for partition in (0, 2, 7, 12) for word in await words(redis, partition)]


async def test_moves_under_load_lose_nothing_and_double_nothing(
    private_cache: CacheService, private_cluster: RedisCluster, storm: Storm
) -> None:
    slot = tag_slot(private_cache.partitions.tag(2))
    a, b, c = private_cluster.masters

    before = await generations(private_cache)

    async def move_around() -> None:
        redis = private_cache.get_client()
        for source, target in ((a, b), (b, c), (c, a)):
            await asyncio.to_thread(private_cluster.move_slot, slot, source, target)
            length = len(await words(redis, 2))
            await until(lambda length=length: _longer(redis, 2, length), what="it is written there")

    acknowledged, unknown = await storm(move_around)
    kept = await stored(private_cache.get_client())
    assert unknown == []
    assert sorted(kept) == sorted(acknowledged)
    assert await generations(private_cache) == [*before[:2], before[2] + 3, *before[3:]]


async def test_planned_failover_loses_nothing_and_begins_new_generations(
    private_cache: CacheService, private_cluster: RedisCluster, storm: Storm
) -> None:
    before = await generations(private_cache)

    async def fail_over() -> None:
        replica = private_cluster.replicas[0]
        replica.client.execute_command("CLUSTER", "FAILOVER")
        await until(lambda: replica.client.info("replication")["role"] == "master")

    acknowledged, unknown = await storm(fail_over)
    kept = Counter(await stored(private_cache.get_client()))
    assert set(kept.values()) == {1}
    assert set(acknowledged) <= kept.keys() <= {*acknowledged, *unknown}
    after = await generations(private_cache)
    assert after == _raised(private_cache, before), "those of the first master and no others"


async def test_master_death_under_load_keeps_what_its_replica_had_once(
    private_cache: CacheService, private_cluster: RedisCluster, storm: Storm
) -> None:
    """A masters death under load is waited out and what its replica had is there once."""
    before = await generations(private_cache)
    at_death: list[int] = []

    async def die() -> None:
        redis = private_cache.get_client()
        # From here on a word is acknowledged only after the replica has it: nothing may be lost.
        await until(lambda: private_cluster.masters[0].client.wait(1, 1000))
        at_death.append(len(await stored(redis)))
        private_cluster.masters[0].kill()

    acknowledged, unknown = await storm(die)
    kept = Counter(await stored(private_cache.get_client()))
    assert set(kept.values()) == {1}, "nothing twice, though calls were repeated"
    assert set(kept) <= {*acknowledged, *unknown}
    lost = set(acknowledged) - kept.keys()
    assert all(word.partition("-")[0] in ("0", "2") for word in lost), (
        "only the dead master's, only what was behind"
    )
    after = await generations(private_cache)
    assert after == _raised(private_cache, before)


async def test_dead_master_without_replica_takes_only_its_partitions(
    private_cluster: RedisCluster, app_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in private_cluster.nodes:
        node.client.config_set("cluster-require-full-coverage", "no")
    async with running_cache(private_cluster.settings(timeout_s=1.0), app_id) as service:
        redis = service.get_client()
        await append(redis, 0, "before")
        private_cluster.replicas[0].kill()
        lose_answers(monkeypatch, True, on_loss=private_cluster.masters[0].kill)
        with pytest.raises(OutcomeUnknown):
            await append(redis, 0, "it died with the answer")
        with pytest.raises(ServiceUnavailable) as refused:
            await append(redis, 0, "x")
        assert not isinstance(refused.value, OutcomeUnknown)
        assert await append(redis, 7, "x") == 1
        for _ in range(10):
            assert await redis.execute("PING") == "PONG", "any living node answers"
        with pytest.raises(OutcomeUnknown, match="a part"):
            await redis.execute_many([("SET", redis.key("a", 0), 1), ("SET", redis.key("a", 7), 1)])
        with pytest.raises(ServiceUnavailable) as refused:
            await redis.execute_many([("GET", redis.key("a", 0)), ("GET", redis.key("a", 7))])
        assert not isinstance(refused.value, OutcomeUnknown)
        await asyncio.to_thread(private_cluster.masters[0].start)
        await until(lambda: _appended(redis, 0, "back"))


def _raised(service: CacheService, before: list[int]) -> list[int]:
    """Epochs after the first of three masters was replaced."""
    tag = service.partitions.tag
    return [
        epoch + (tag_slot(tag(partition)) < 16384 // 3) for partition, epoch in enumerate(before)
    ]


async def _longer(redis: CacheClient, partition: int, length: int) -> bool:
    return len(await words(redis, partition)) > length


async def test_a_stop_ends_calls_that_wait_for_a_dead_master(
    private_cluster: RedisCluster, app_id: str
) -> None:
    service = make_cache(private_cluster.settings(timeout_s=1.0, bulk_timeout_s=60.0), app_id)
    await service.start()
    for node in (private_cluster.replicas[0], private_cluster.masters[0]):
        node.kill()
    bulk = service.get_bulk_client()
    waiting = asyncio.create_task(bulk.execute("GET", bulk.key("a", 0)))
    await until(
        lambda: any(task.get_name() == "cache cluster call" for task in asyncio.all_tasks())
    )
    await service.stop()
    with pytest.raises(ServiceUnavailable):
        await asyncio.wait_for(waiting, PATIENCE_S)


async def _appended(redis: CacheClient, partition: int, word: str) -> bool:
    try:
        return bool(await append(redis, partition, word))
    except ServiceUnavailable:
        return False
