"""Calls that share a write: each gets its own answer, whatever happens to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable
from base_server.service.redis_client import calls as call
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script import Script
from tests.backends_redis import CacheBackend, make_cache
from tests.flaky_proxy import FlakyProxy
from tests.waiting import PATIENCE_S, until

COUNT = Script("count", "return redis.call('INCR', KEYS[1])")


ON_ONE_SERVER = pytest.mark.parametrize("cache_backend", ["valkey", "redis"], indirect=True)
"""On a cluster ECHO goes to any node, and so in several writes."""


@pytest.fixture
def redis(cache: CacheService) -> CacheClient:
    return cache.get_client()


@ON_ONE_SERVER
async def test_calls_of_one_iteration_share_writes_not_replies(
    redis: CacheClient,
) -> None:
    await redis.execute("ECHO", "so that a connection is there")
    writes, calls = redis.writes, redis.round_trips
    single = [redis.execute("ECHO", n) for n in range(20)]
    several = [redis.execute_many([("ECHO", f"{n}a"), ("ECHO", f"{n}b")]) for n in range(21)]
    answers = await asyncio.gather(*single, *several)
    assert answers == [str(n) for n in range(20)] + [[f"{n}a", f"{n}b"] for n in range(21)]
    assert redis.round_trips - calls == 41
    assert redis.writes - writes <= 6, (
        "eight calls a write, unless they had to wait for a connection"
    )


@pytest.mark.parametrize("cache_backend", ["valkey", "redis"], indirect=True)
async def test_eight_calls_do_not_wait_for_the_end_of_the_iteration(redis: CacheClient) -> None:
    async def writes_so_far() -> int:
        return redis.writes

    await asyncio.gather(
        *(redis.execute("ECHO", n) for n in range(20))
    )  # so that two connections are there
    writes = redis.writes
    *answers, seen = await asyncio.gather(
        *(redis.execute("ECHO", n) for n in range(20)), writes_so_far()
    )
    assert answers == [str(n) for n in range(20)]
    assert (seen - writes, redis.writes - writes) == (2, 3)


async def test_calls_of_the_bulk_client_share_nothing(cache: CacheService) -> None:
    bulk = cache.get_bulk_client()
    writes = bulk.writes
    assert await asyncio.gather(*(bulk.execute("ECHO", n) for n in range(5))) == list("01234")
    assert bulk.writes - writes == 5


async def test_a_call_that_waits_in_the_server_holds_up_nobody(real_cache: CacheService) -> None:
    redis = real_cache.get_client()
    waiting = asyncio.create_task(redis.execute("BLPOP", redis.key("l:1"), 0, wait_s=3600))
    await asyncio.sleep(0)  # what is asked now could still join it
    assert await redis.execute("ECHO", "1") == "1"
    await redis.list_push_right("l:1", "a")
    assert (await waiting)[1] == "a"


async def test_so_does_one_of_the_raw_client_that_waits(real_cache: CacheService) -> None:
    redis = real_cache.get_client()
    raw, key = redis._client, redis.key("l:1")
    waits: list[Callable[[], Awaitable[Any]]] = [
        lambda: raw.blpop([key], timeout=60),
        lambda: raw.blmpop(60, 1, key, direction="LEFT"),
        lambda: raw.xread({redis.key("x:1"): "$"}, block=60_000),
        lambda: raw.bzpopmin([redis.key("z:1")], timeout=60),
        lambda: raw.execute_command("BLMOVE", key, key, "LEFT", "LEFT", 60),
    ]
    for wait in waits:
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        assert await redis.execute("ECHO", "1") == "1", "it would time out"
        await redis.execute_many(
            [
                ("RPUSH", key, "a"),
                ("XADD", redis.key("x:1"), "*", "f", "v"),
                ("ZADD", redis.key("z:1"), 1, "m"),
            ]
        )
        assert await waiting
        await redis.delete("l:1", "x:1", "z:1")
    assert await raw.blpop([key], timeout=0.05) is None


@pytest.mark.parametrize(
    "command",
    [
        ("BLPOP", "l", 0),
        ("BZMPOP", "0", 1, "z", "MIN"),
        ("XREAD", "BLOCK", 0, "STREAMS", "x", "$"),
        ("WAIT", 1, 0),
        ("SELECT", 1),
        ("SUBSCRIBE", "c"),
        ("CLIENT", "REPLY", "OFF"),
        ("multi",),
    ],
)
async def test_raw_command_that_changes_a_connection_is_refused(
    redis: CacheClient, command: tuple[Any, ...]
) -> None:
    writes = redis.writes
    with pytest.raises(CacheCommandError, match=r"would wait for ever|they are shared"):
        await redis._client.execute_command(*command)
    with pytest.raises(CacheCommandError):
        await redis._client.pipeline(transaction=False).execute_command(*command).execute()
    assert redis.writes == writes


async def test_in_a_transaction_nothing_waits(real_cache: CacheService) -> None:
    redis = real_cache.get_client()
    async with redis._client.pipeline() as pipe:
        assert await pipe.blpop([redis.key("l:1")], timeout=0).set(
            redis.key("a:1"), "x"
        ).execute() == [None, True]
    with pytest.raises(CacheCommandError, match="they are shared"):
        await redis._client.pipeline().execute_command("SELECT", 1).execute()


@pytest.mark.parametrize("command", ["CLIENT", "BLPOP", "BLMPOP", "XREAD", "WAIT"])
async def test_a_command_without_its_arguments_is_refused_as_any_other(
    redis: CacheClient, command: str
) -> None:
    with pytest.raises((CacheCommandError, ResponseError)):
        await redis._client.execute_command(command)


@ON_ONE_SERVER
async def test_a_batch_is_bounded_in_commands_and_in_bytes(
    redis: CacheClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "_MOST_COMMANDS", 10)
    writes = redis.writes
    assert await asyncio.gather(*(redis.execute("ECHO", n) for n in range(25))) == [
        str(n) for n in range(25)
    ]
    assert redis.writes - writes == 3
    monkeypatch.setattr(call, "_MOST_BYTES", 1000)
    writes = redis.writes
    sizes = [400, 400, 400, 5000, 1]
    assert await asyncio.gather(*(redis.execute("ECHO", "x" * n) for n in sizes)) == [
        "x" * n for n in sizes
    ]
    assert redis.writes - writes == 4, "400 + 400, 400, one alone that is longer than all, 1"


async def test_calls_that_wait_for_a_connection_share_a_write(
    proxied: tuple[FlakyProxy, CacheClient],
) -> None:
    _, redis = proxied
    redis.redis_client.pools[0].close_idle()
    writes, calls = redis.writes, []
    for n in range(3):
        calls.append(asyncio.create_task(redis.execute("ECHO", n)))
        await asyncio.sleep(0)
    assert redis.writes == writes, "it is being connected"
    assert await asyncio.gather(*calls) == ["0", "1", "2"]
    assert redis.writes - writes == 1


async def test_refusals_touch_only_the_call_that_was_refused(redis: CacheClient) -> None:
    await redis.set_add("s:1", "a")
    calls = [
        redis.set_string("a:1", "x"),
        redis.get_string("s:1"),
        redis.execute("SET", "only a key"),
        redis.exists("s:1"),
    ]
    set_, wrong_type, wrong_arguments, exists = await asyncio.gather(*calls, return_exceptions=True)
    assert (set_, exists) == (True, True)
    assert isinstance(wrong_type, CacheCommandError)
    assert wrong_type.code == "WRONGTYPE"
    assert isinstance(wrong_arguments, CacheCommandError)


@pytest.mark.parametrize(
    "argument", [None, object(), "\ud800"], ids=["None", "an object", "half a character"]
)
async def test_unsendable_argument_fails_only_its_own_call(
    redis: CacheClient, argument: object
) -> None:
    bad, good = await asyncio.gather(
        redis.execute("ECHO", argument), redis.execute("ECHO", "good"), return_exceptions=True
    )
    assert isinstance(bad, CacheCommandError)
    assert bad.code == "ARGUMENT"
    assert good == "good"


async def test_reply_that_is_not_utf8_fails_only_its_own_call(
    real_cache: CacheService,
) -> None:
    redis = real_cache.get_client()
    await redis.execute("SET", redis.key("a:1"), b"\xff\xfe")
    await redis.execute("RPUSH", redis.key("l:1"), "good", b"\xff", "good")
    connection = redis.redis_client.pools[0].idle[-1]
    answers = await asyncio.gather(
        redis.execute("ECHO", 1),
        redis.get_string("a:1"),
        redis.execute("ECHO", 2),
        redis.list_range("l:1"),
        redis.execute("ECHO", 3),
        return_exceptions=True,
    )
    assert answers[::2] == ["1", "2", "3"]
    for bad in answers[1::2]:
        assert isinstance(bad, CacheCommandError)
        assert bad.code == "UNDECODABLE"
    assert redis.redis_client.pools[0].idle[-1] is connection, "it was read to its end"


async def test_lost_connection_fails_each_call_by_its_own_effect(
    proxied: tuple[FlakyProxy, CacheClient],
) -> None:
    proxy, redis = proxied
    await redis.set_string("a:1", "x")
    await redis.run_script(COUNT, [redis.key("n:1")], [])
    proxy.lose_next_answer()
    read, repeatable, once, write = await asyncio.gather(
        redis.get_string("a:1"),
        redis.run_script(COUNT, [redis.key("n:2")], []),
        redis.run_script(COUNT, [redis.key("n:3")], [], repeatable=False),
        redis.execute("INCR", redis.key("n:4")),
        return_exceptions=True,
    )
    assert read == "x"
    assert repeatable == 2, "COUNT is not repeatable, which is how the test sees that it ran twice"
    assert isinstance(once, OutcomeUnknown)
    assert isinstance(write, OutcomeUnknown)
    assert await redis.execute_many([("GET", redis.key(f"n:{n}")) for n in (3, 4)]) == ["1", "1"]


async def test_call_answered_before_the_connection_broke_keeps_its_answer(
    real_cache: CacheService,
) -> None:
    """A call that was answered before the connection broke keeps its answer."""
    redis = real_cache.get_client()
    own_id = await redis.execute("CLIENT", "ID")
    first, killed = await asyncio.gather(
        redis.execute("INCR", redis.key("n:1")),
        redis.execute("CLIENT", "KILL", "ID", own_id, "SKIPME", "no"),
        return_exceptions=True,
    )
    assert first == 1
    assert killed == 1 or isinstance(killed, OutcomeUnknown)


async def test_late_batch_delays_no_other(
    proxied: tuple[FlakyProxy, CacheClient],
) -> None:
    proxy, redis = proxied
    await redis.execute("PING")
    proxy.silent = True
    late = asyncio.gather(
        redis.execute("INCR", redis.key("n:1")), redis.get_string("a:1"), return_exceptions=True
    )
    writes = redis.writes
    await until(lambda: redis.writes > writes)
    redis.redis_client.pools[0].close_idle()
    proxy.silent = False
    proxy_answers_again = [await redis.execute("ECHO", n) for n in range(5)]
    assert proxy_answers_again == list("01234")
    assert not late.done()
    write, read = await late
    assert isinstance(write, OutcomeUnknown)
    assert isinstance(read, ServiceUnavailable)
    assert not isinstance(read, OutcomeUnknown)
    assert await redis.get_string("n:1") == "1"


async def test_stop_fails_calls_whose_batch_was_not_sent(
    real_cache_backend: CacheBackend,
) -> None:
    service = make_cache(real_cache_backend.settings, "stopped")
    await service.start()
    bulk = service.get_bulk_client()
    waiting = asyncio.create_task(bulk.execute("BLPOP", bulk.key("l:1"), 0, wait_s=3600))
    await asyncio.sleep(0)  # its batch has a task, which has not taken its first step
    await asyncio.wait_for(service.stop(), PATIENCE_S)
    with pytest.raises(OutcomeUnknown, match="stopped"):
        await asyncio.wait_for(waiting, PATIENCE_S)
