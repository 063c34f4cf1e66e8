"""A Redis Cluster: slots that move, masters that die, and what is believed afterwards."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from service.cache import pipeline
from service.cache.cache_client import CacheClient
from service.cache.cache_errors import CacheCommandError
from service.cache.cache_service import CacheService
from service.cache.partition import Partitions
from service.cache.script import Script
from service.cache.slots import slot_of, tag_slot
from service.core.errors import OutcomeUnknown, ServiceUnavailable, StartError
from tests.backends_cluster import RedisCluster
from tests.backends_redis import free_port, make_cache, running_cache
from tests.service.cache.test_cache_cancellation import cancel_storm
from tests.waiting import until

APPEND = Script(
    "append_once",
    """if redis.call('SADD', KEYS[1], ARGV[1]) == 0 then return 0 end
    redis.call('DEL', KEYS[3])
    redis.call('SET', KEYS[3], ARGV[1])
    return redis.call('RPUSH', KEYS[2], ARGV[1])""",
)
"""Repeatable by its id; it deletes a key and makes it again, as a lock does."""


@pytest.fixture
async def cache(redis_cluster: RedisCluster, app_id: str) -> AsyncIterator[CacheService]:
    async with running_cache(redis_cluster.settings(), app_id) as service:
        yield service


@pytest.fixture
async def moving_cache(moving_cluster: RedisCluster, app_id: str) -> AsyncIterator[CacheService]:
    async with running_cache(moving_cluster.settings(timeout_s=2.0), app_id) as service:
        yield service


@pytest.fixture
async def private_cache(private_cluster: RedisCluster, app_id: str) -> AsyncIterator[CacheService]:
    async with running_cache(private_cluster.settings(timeout_s=2.0), app_id) as service:
        yield service


def append(redis: CacheClient, partition: int, word: str) -> Awaitable[object]:
    keys = [redis.key(name, partition) for name in ("seen", "words", "last")]
    return redis.run_script(APPEND, keys, [word])


async def words(redis: CacheClient, partition: int) -> list[str]:
    return list(await redis.execute("LRANGE", redis.key("words", partition), 0, -1))


async def epochs(service: CacheService) -> list[int]:
    stored = await service.epochs()
    assert all(is_of_this_run for _, is_of_this_run in stored)
    return [epoch for epoch, _ in stored]


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "a{07}b"), "a{07}b"),
        (("EVAL", "return 1", 2, "{x}1", "{x}2", "{y}"), "{x}1"),
        (("evalsha", "0" * 40, "1", "{x}1"), "{x}1"),
        (("EVAL", "return 1", 0), None),
        (("XREAD", "COUNT", 1, "BLOCK", 5, "STREAMS", "{s}a", "{s}b", "0", "0"), "{s}a"),
        (("XINFO", "STREAM", "{s}a"), "{s}a"),
        (("OBJECT", "ENCODING", "k"), "k"),
        (("PUBLISH", "{07}:stop", "x"), "{07}:stop"),
        (("PING",), None),
        (("INFO", "server"), None),
        (("CONFIG", "GET", "appendfsync"), None),
        (("GET", "{}"), "{}"),
        (("GET", "{}{a}"), "{}{a}"),
        (("GET", "}{a}"), "}{a}"),
        (("GET", "{a"), "{a"),
        (("GET", b"\xff{b}\xff"), b"\xff{b}\xff"),
        (("SET", "값{방}", 1), "값{방}"),
    ],
)
def test_the_slot_of_a_command_is_that_of_its_first_key(command: tuple[object, ...], key: str | bytes | None) -> None:
    expected = None if key is None else key_slot(key.encode() if isinstance(key, str) else key)
    assert slot_of(command) == expected


@pytest.mark.parametrize(("masters", "most"), [(3, 6), (6, 3)])
def test_the_partitions_spread_evenly_over_masters(masters: int, most: int) -> None:
    partitions = Partitions(16)
    held = Counter(tag_slot(partitions.tag(p)) * masters // 16384 for p in range(16))
    assert len(held) == masters
    assert max(held.values()) == most


async def test_commands_of_many_partitions_come_back_in_order_at_one_round_trip_a_node(cache: CacheService) -> None:
    redis = cache.get_client()
    count = cache.partitions.count
    await redis.execute_many([("SET", redis.key("n", p), p) for p in range(count)])
    before = redis.round_trips
    answers = await redis.execute_many([("PING",), *(("GET", redis.key("n", p)) for p in range(count)), ("ECHO", "x")])
    assert answers == ["PONG", *map(str, range(count)), "x"]
    assert redis.round_trips - before == 3
    before = redis.round_trips
    assert await append(redis, 3, "a") == 1
    assert redis.round_trips - before == 1


async def test_every_key_is_on_the_node_of_its_partition_and_scan_finds_them_all(
    cache: CacheService, redis_cluster: RedisCluster
) -> None:
    redis = cache.get_client()
    names = {redis.key(f"room:{n}", n) for n in range(16)}
    await redis.execute_many([("SET", name, 1) for name in names])
    assert await redis.scan(redis.key("room:*", 0).replace(redis.partitions.tag(0), "*")) == names
    for n in range(16):
        owner = redis_cluster.owner(redis.partitions.tag(n))
        assert owner.client.get(redis.key(f"room:{n}", n)) == "1"
    with pytest.raises(CacheCommandError, match="each node"):
        await redis.execute("KEYS", "*")


async def test_one_living_seed_is_enough_and_without_any_the_start_says_which_were_asked(
    redis_cluster: RedisCluster, app_id: str
) -> None:
    dead, living = f"127.0.0.1:{free_port()}", redis_cluster.masters[1].address
    async with running_cache(redis_cluster.settings(nodes=[dead, living]), app_id) as service:
        assert await service.get_client().set_string("a:1", "x")
    host, port = living.split(":")
    async with running_cache(redis_cluster.settings(nodes=[], host=host, port=int(port)), app_id) as service:
        assert await service.get_client().get_string("a:1") == "x"
    with pytest.raises(StartError, match=dead):
        await make_cache(redis_cluster.settings(nodes=[dead]), app_id).start()


@pytest.mark.parametrize(
    "wrong", [{"db": 1}, {"unix_socket_path": "/tmp/s"}, {"nodes": ["127.0.0.1"]}], ids=lambda wrong: next(iter(wrong))
)
def test_settings_that_a_cluster_cannot_have_are_refused(redis_cluster: RedisCluster, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"redis_cluster has only db 0|nodes are host:port"):
        redis_cluster.settings(**wrong)


async def test_the_raw_client_works_within_a_partition(cache: CacheService) -> None:
    redis = cache.get_client()
    a, b, elsewhere = redis.key("a", 1), redis.key("b", 1), redis.key("c", 9)
    async with redis._client.pipeline() as pipe:
        assert await pipe.set(a, 1).incr(a).get(b).execute() == [True, 2, None]
    async with redis._client.pipeline(transaction=False) as pipe:
        assert await pipe.set(a, 1).set(elsewhere, 2).get(elsewhere).execute() == [True, True, "2"]
    async with redis._client.pipeline() as pipe:
        with pytest.raises(CacheCommandError, match="one partition"):
            await pipe.set(a, 1).set(elsewhere, 3).execute()
    assert await redis._client.get(elsewhere) == "2"
    with pytest.raises(CacheCommandError, match="each node"):
        await redis._client.flushdb()
    async with redis._client.pipeline() as pipe:
        with pytest.raises(CacheCommandError, match="WATCH"):
            await pipe.watch(a)


COUNT = Script("count", "return redis.call('INCR', KEYS[1])")
"""Not repeatable, which is how a test sees how often it ran."""


def lose_answers(monkeypatch: pytest.MonkeyPatch, *losses: bool, on_loss: Callable[[], None] | None = None) -> None:
    """The connection breaks, for each coming answer, when it was executed, read and counts as lost."""
    read, left = pipeline._answer, list(losses)

    async def lossy(connection: AbstractConnection) -> object:
        answer = await read(connection)
        if left and left.pop(0):
            if on_loss is not None:
                on_loss()
            raise RedisConnectionError("lost on its way")
        return answer

    monkeypatch.setattr(pipeline, "_answer", lossy)


ONCE, TWICE = (True,), (True, True)
AFTER_ADOPTING_TWICE = (False, False, True, True)
ADOPTING = (False, True)


@pytest.mark.parametrize(
    ("losses", "repeatable", "answer", "executed"),
    [
        (ONCE, False, None, 1),
        (ONCE, True, 2, 2),
        (TWICE, True, None, 2),
        (AFTER_ADOPTING_TWICE, True, None, 2),
        (ADOPTING, False, 1, 1),
    ],
    ids=[
        "a write",
        "a repeatable script",
        "a repeatable script, twice",
        "the same on a node not yet believed",
        "not the call's, but that of what makes the node believed",
    ],
)
async def test_a_lost_answer_is_what_it_is_with_one_server(
    cache: CacheService,
    monkeypatch: pytest.MonkeyPatch,
    losses: tuple[bool, ...],
    repeatable: bool,
    answer: int | None,
    executed: int,
) -> None:
    redis, key = cache.get_client(), cache.get_client().key("n", 3)
    assert await redis.execute("GET", key) is None
    if losses in (ADOPTING, AFTER_ADOPTING_TWICE):
        cache._epoch_of(3).adopted.clear()
    lose_answers(monkeypatch, *losses)
    call = redis.run_script(COUNT, [key], [], repeatable=repeatable)
    if answer is None:
        with pytest.raises(OutcomeUnknown):
            await call
    else:
        assert await call == answer
    assert await redis.execute("GET", key) == str(executed)
    lose_answers(monkeypatch, True)
    assert await redis.execute("GET", key) == str(executed), "a read is asked for again"


async def test_no_caller_reads_anothers_answer_while_a_slot_moves_to_and_fro(
    moving_cluster: RedisCluster, app_id: str
) -> None:
    """The storm of test_cache_cancellation, over three nodes and through redirections."""
    async with running_cache(moving_cluster.settings(max_connections=4, timeout_s=20), app_id) as service:
        redis, slot = service.get_client(), tag_slot(service.partitions.tag(2))
        a, b, _ = moving_cluster.masters
        partitions = itertools.cycle((2, 7, 2, 12))

        async def call(word: str) -> object:
            key = redis.key(f"word:{word}", next(partitions))
            set_, text, _ = await redis.execute_many([("SET", key, word), ("GET", key), ("GET", redis.key("x", 7))])
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
        await until(lambda: not any(pool._in_use_connections for pool in redis._exchange.pools), what="all come back")


async def test_the_facts_are_the_worst_of_all_masters(moving_cluster: RedisCluster, app_id: str) -> None:
    async with running_cache(moving_cluster.settings(), app_id) as service:
        durability = await service.durability()
        assert (durability.safe, durability.settings["masters"], durability.settings["replicas"]) == (True, "3", "1")
        assert "failover loses" in durability.sentence
        moving_cluster.masters[2].client.config_set("appendonly", "no")
        durability = await service.durability()
        assert not durability.safe
        moving_cluster.masters[2].client.config_set("appendonly", "yes")
        moving_cluster.masters[1].client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StartError, match="allkeys-lru"):
            await make_cache(moving_cluster.settings(), app_id, env="PROD").start()
        moving_cluster.masters[1].client.config_set("maxmemory-policy", "noeviction")


async def test_a_slot_that_moved_begins_a_new_epoch_where_it_is_and_the_others_do_not(
    moving_cache: CacheService, moving_cluster: RedisCluster
) -> None:
    redis, slot = moving_cache.get_client(), tag_slot(moving_cache.partitions.tag(2))
    before = await epochs(moving_cache)
    await append(redis, 2, "before")
    source, target = moving_cluster.masters[0], moving_cluster.masters[2]
    await asyncio.to_thread(moving_cluster.move_slot, slot, source, target)
    assert await redis.execute("GET", redis.key("epoch", 2)) == str(before[2] + 1), "raised before anything is read"
    assert await append(redis, 2, "after") == 2
    assert await append(moving_cache.get_bulk_client(), 2, "bulk") == 3
    async with running_cache(moving_cluster.settings(), redis.key("x", 0).partition(":")[0]) as other:
        assert await words(other.get_client(), 2) == ["before", "after", "bulk"]
        assert await epochs(other) == [*before[:2], before[2] + 1, *before[3:]]
    await asyncio.to_thread(moving_cluster.move_slot, slot, target, source)
    assert await redis.execute("GET", redis.key("epoch", 2)) == str(before[2] + 2), "and when it comes back"


async def test_while_a_slot_moves_single_keys_are_served_and_scripts_wait_and_are_never_done_by_half(
    moving_cache: CacheService, moving_cluster: RedisCluster
) -> None:
    redis, slot = moving_cache.get_client(), tag_slot(moving_cache.partitions.tag(2))
    source, target = moving_cluster.masters[0], moving_cluster.masters[2]
    await append(redis, 2, "before")
    await redis.execute("SET", redis.key("text", 2), "x")
    moving_cluster.open_move(slot, source, target)
    for step in range(20):  # more than there are keys: none, some, all of them are on the other side
        assert await redis.execute("GET", redis.key("text", 2)) == "x"
        assert await redis.execute("GET", redis.key("nothing", 2)) is None
        redis._exchange._timeout_s = 0.05
        with pytest.raises(ServiceUnavailable, match=r"TRYAGAIN|ASK") as refused:
            await append(redis, 2, f"during {step}")
        assert not isinstance(refused.value, OutcomeUnknown)
        redis._exchange._timeout_s = 5.0
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
    """Writers on four partitions while something happens: the words acknowledged, and those of unknown outcome."""

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
            return {word.partition("-")[0] for word in acknowledged[before:]} == {"0", "2", "7", "12"}

        await until(all_write_again, 30)
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

    before = await epochs(private_cache)

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
    assert await epochs(private_cache) == [*before[:2], before[2] + 3, *before[3:]]


async def test_a_planned_failover_under_load_loses_nothing_and_begins_new_epochs(
    private_cache: CacheService, private_cluster: RedisCluster, storm: Storm
) -> None:
    before = await epochs(private_cache)

    async def fail_over() -> None:
        replica = private_cluster.replicas[0]
        replica.client.execute_command("CLUSTER", "FAILOVER")
        await until(lambda: replica.client.info("replication")["role"] == "master")

    acknowledged, unknown = await storm(fail_over)
    kept = Counter(await stored(private_cache.get_client()))
    assert set(kept.values()) == {1}
    assert set(acknowledged) <= kept.keys() <= {*acknowledged, *unknown}
    after = await epochs(private_cache)
    assert after == _raised(private_cache, before), "those of the first master and no others"


async def test_a_masters_death_under_load_is_waited_out_and_what_its_replica_had_is_there_once(
    private_cache: CacheService, private_cluster: RedisCluster, storm: Storm
) -> None:
    before = await epochs(private_cache)
    at_death: list[int] = []

    async def die() -> None:
        redis = private_cache.get_client()
        # What follows is acknowledged only after the replica has it, so the test knows what may be lost: nothing.
        await until(lambda: private_cluster.masters[0].client.wait(1, 1000))
        at_death.append(len(await stored(redis)))
        private_cluster.masters[0].kill()

    acknowledged, unknown = await storm(die)
    kept = Counter(await stored(private_cache.get_client()))
    assert set(kept.values()) == {1}, "nothing twice, though calls were repeated"
    assert set(kept) <= {*acknowledged, *unknown}
    lost = set(acknowledged) - kept.keys()
    assert all(word.partition("-")[0] in ("0", "2") for word in lost), "only the dead master's, only what was behind"
    after = await epochs(private_cache)
    assert after == _raised(private_cache, before)


async def test_without_a_replica_only_the_dead_masters_partitions_are_away(
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
        await until(lambda: _appended(redis, 0, "back"), 20)


def _raised(service: CacheService, before: list[int]) -> list[int]:
    """Epochs after the first of three masters was replaced."""
    tag = service.partitions.tag
    return [epoch + (tag_slot(tag(partition)) < 16384 // 3) for partition, epoch in enumerate(before)]


async def _longer(redis: CacheClient, partition: int, length: int) -> bool:
    return len(await words(redis, partition)) > length


async def test_a_stop_ends_calls_that_wait_for_a_dead_master(private_cluster: RedisCluster, app_id: str) -> None:
    service = make_cache(private_cluster.settings(timeout_s=1.0, bulk_timeout_s=60.0), app_id)
    await service.start()
    for node in (private_cluster.replicas[0], private_cluster.masters[0]):
        node.kill()
    bulk = service.get_bulk_client()
    waiting = asyncio.create_task(bulk.execute("GET", bulk.key("a", 0)))
    await until(lambda: any(task.get_name() == "cache cluster call" for task in service._tasks._tasks))
    await service.stop()
    with pytest.raises(ServiceUnavailable):
        await asyncio.wait_for(waiting, 5)


async def _appended(redis: CacheClient, partition: int, word: str) -> bool:
    try:
        return bool(await append(redis, partition, word))
    except ServiceUnavailable:
        return False
