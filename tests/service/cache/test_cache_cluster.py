"""A Redis Cluster that stays as it is: who is asked what, lost answers, settings, facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot

from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.partition import Partitions
from base_server.service.core.errors import OutcomeUnknown, StartError
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script import Script
from base_server.service.redis_client.slots import slot_of, tag_slot
from tests.backends_cluster import RedisCluster
from tests.backends_redis import free_port, make_cache, running_cache
from tests.service.cache.cluster_steps import append, lose_answers


@pytest.fixture
async def cache(redis_cluster: RedisCluster, app_id: str) -> AsyncIterator[CacheService]:
    async with running_cache(redis_cluster.settings(), app_id) as service:
        yield service


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
def test_the_slot_of_a_command_is_that_of_its_first_key(
    command: tuple[object, ...], key: str | bytes | None
) -> None:
    expected = None if key is None else key_slot(key.encode() if isinstance(key, str) else key)
    assert slot_of(command) == expected


@pytest.mark.parametrize(("masters", "most"), [(3, 6), (6, 3)])
def test_the_partitions_spread_evenly_over_masters(masters: int, most: int) -> None:
    partitions = Partitions(16)
    held = Counter(tag_slot(partitions.tag(p)) * masters // 16384 for p in range(16))
    assert len(held) == masters
    assert max(held.values()) == most


async def test_commands_of_many_partitions_cost_one_round_trip_per_node(
    cache: CacheService,
) -> None:
    """Commands of many partitions come back in order at one round trip a node."""
    redis = cache.get_client()
    count = cache.partitions.count
    await redis.execute_many([("SET", redis.key("n", p), p) for p in range(count)])
    before = redis.round_trips
    answers = await redis.execute_many(
        [("PING",), *(("GET", redis.key("n", p)) for p in range(count)), ("ECHO", "x")]
    )
    assert answers == ["PONG", *map(str, range(count)), "x"]
    assert redis.round_trips - before == 3
    before = redis.round_trips
    assert await append(redis, 3, "a") == 1
    assert redis.round_trips - before == 1


async def test_keys_are_on_their_partitions_node_and_scan_finds_all(
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


async def test_one_living_seed_is_enough_and_none_names_all_asked(
    redis_cluster: RedisCluster, app_id: str
) -> None:
    """One living seed is enough and without any the start says which were asked."""
    dead, living = f"127.0.0.1:{free_port()}", redis_cluster.masters[1].address
    async with running_cache(redis_cluster.settings(nodes=[dead, living]), app_id) as service:
        assert await service.get_client().set_string("a:1", "x")
    host, port = living.split(":")
    async with running_cache(
        redis_cluster.settings(nodes=[], host=host, port=int(port)), app_id
    ) as service:
        assert await service.get_client().get_string("a:1") == "x"
    with pytest.raises(StartError, match=dead):
        await make_cache(redis_cluster.settings(nodes=[dead]), app_id).start()


@pytest.mark.parametrize(
    "wrong",
    [{"db": 1}, {"unix_socket_path": "/tmp/s"}, {"nodes": ["127.0.0.1"]}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_a_cluster_cannot_have_are_refused(
    redis_cluster: RedisCluster, wrong: dict[str, object]
) -> None:
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
    stream = redis.key("x", 9)
    entry = await redis._client.xadd(stream, {"f": "v"})
    assert await redis._client.xread({stream: "0"}) == [[stream, [(entry, {"f": "v"})]]]
    with pytest.raises(CacheCommandError, match="each node"):
        await redis._client.flushdb()
    async with redis._client.pipeline() as pipe:
        with pytest.raises(CacheCommandError, match="WATCH"):
            await pipe.watch(a)


COUNT = Script("count", "return redis.call('INCR', KEYS[1])")
"""Not repeatable, which is how a test sees how often it ran."""


ONCE, TWICE = (True,), (True, True)
AFTER_VERIFYING_TWICE = (False, False, True, True)
VERIFYING = (False, True)


@pytest.mark.parametrize(
    ("losses", "repeatable", "answer", "executed"),
    [
        (ONCE, False, None, 1),
        (ONCE, True, 2, 2),
        (TWICE, True, None, 2),
        (AFTER_VERIFYING_TWICE, True, None, 2),
        (VERIFYING, False, 1, 1),
    ],
    ids=[
        "a write",
        "a repeatable script",
        "a repeatable script, twice",
        "the same on a node not yet verified",
        "not the call's, but that of what verifies the node",
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
    if losses in (VERIFYING, AFTER_VERIFYING_TWICE):
        cache._generation_of(3).verified.clear()
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
