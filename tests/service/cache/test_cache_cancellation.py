"""Cancel storms: whatever moment callers are cancelled at, nobody ever reads another's answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable
from base_server.service.redis_client.script import Script
from tests.backends_redis import CacheBackend, make_cache, running_cache
from tests.waiting import PATIENCE_S, until

ECHO = Script("echo", "for i = 1, 2000 do redis.sha1hex(i) end return ARGV[1]")
CALLS = 400

Call = Callable[[CacheClient, str], Awaitable[object]]


async def _pipeline(redis: CacheClient, word: str) -> object:
    async with redis._client.pipeline(transaction=True) as pipe:
        pipe.eval(ECHO.source, 0, "x")
        pipe.eval(ECHO.source, 0, word)
        return (await pipe.execute())[1]


WAYS: dict[str, Call] = {
    "a command": lambda redis, word: redis.execute("ECHO", word),
    "many commands": lambda redis, word: _last(redis.execute_many([("ECHO", "x"), ("ECHO", word)])),
    "a slow script": lambda redis, word: redis.run_script(ECHO, [], [word]),
    "the raw client": lambda redis, word: redis._client.echo(word),
    "the raw client's pipeline": _pipeline,
}


async def _last(answers: Awaitable[list[object]]) -> object:
    return (await answers)[-1]


async def cancel_storm(
    call: Callable[[str], Awaitable[object]],
) -> tuple[int, int, list[tuple[str, object]]]:
    """``CALLS`` calls by 16 callers, four of five cancelled at a random moment.

    Returns how many were answered, how many cancelled, and the wrong answers.
    """
    chance = random.Random(7)
    answered, cancelled, wrong = 0, 0, []
    numbers = iter(range(CALLS))

    async def caller() -> None:
        nonlocal answered, cancelled
        for n in numbers:
            word = f"word-{n}"
            try:
                async with asyncio.timeout(
                    None if n % 5 == 0 else chance.uniform(0, chance.choice((0.0005, 0.003)))
                ):
                    answer = await call(word)
            except TimeoutError:
                cancelled += 1
                continue
            answered += 1
            if answer != word:
                wrong.append((word, answer))

    await asyncio.gather(*(caller() for _ in range(16)))
    return answered, cancelled, wrong


@pytest.mark.parametrize("way", WAYS)
async def test_no_caller_reads_anothers_answer(
    real_cache_backend: CacheBackend, app_id: str, way: str
) -> None:
    settings = real_cache_backend.settings.model_copy(update={"max_connections": 4})
    async with running_cache(settings, app_id) as service:
        redis = service.get_client()
        answered, cancelled, wrong = await cancel_storm(lambda word: WAYS[way](redis, word))
        assert wrong == []
        assert answered >= CALLS / 5
        assert cancelled > CALLS / 10, "nobody was cancelled: this was no storm"
        assert redis.writes < redis.round_trips * 0.9, (
            "they did not share connections with each other"
        )
        pool = redis.redis_client.pools[0]
        await until(
            lambda: not pool.in_use and not len(service._tasks),
            what="everything comes back",
        )
        assert len(pool.idle) <= 4
        assert await asyncio.gather(*(redis.execute("ECHO", n) for n in range(20))) == [
            str(n) for n in range(20)
        ]


async def test_positive_control_shared_connection_mixes_answers_up(
    real_cache: CacheService,
) -> None:
    """The storm would find its bug: a connection used again after a half-read answer."""
    pool = real_cache.get_client().redis_client.pools[0]
    connection = await pool.take()
    chance = random.Random(7)
    wrong = 0
    answers: asyncio.Queue[object] = asyncio.Queue()
    connection.listen(answers.put_nowait)
    for n in range(100):
        connection.write("EVAL", ECHO.source, 0, n)
        try:
            async with asyncio.timeout(chance.uniform(0, 0.002)):
                answer = await answers.get()
        except TimeoutError:
            continue
        wrong += answer != str(n)
    connection.close()
    pool.give(connection)
    assert wrong > 0


async def test_a_connection_with_an_unread_answer_is_never_used_again(
    real_cache: CacheService,
) -> None:
    redis = real_cache.get_client()
    await redis.execute("PING")
    redis.redis_client._pipeline.timeout_s = 0.02
    with pytest.raises(OutcomeUnknown):
        await redis.eval_script("for i = 1, 200000 do redis.sha1hex(i) end return 'of another'")
    redis.redis_client._pipeline.timeout_s = 20.0
    assert await redis.execute("ECHO", "mine") == "mine"


async def test_begun_call_runs_to_its_end_when_its_caller_is_cancelled(
    real_cache: CacheService,
) -> None:
    """A call that was begun runs to its end when its caller is cancelled."""
    redis = real_cache.get_client()
    calls = [asyncio.create_task(redis.execute("INCR", redis.key("n:1"))) for _ in range(10)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert all(call.cancelled() for call in calls)
    await until(lambda: _is(redis, "n:1", "10"), what="all ten are executed")


async def test_stopping_waits_for_calls_that_were_begun(
    real_cache_backend: CacheBackend, app_id: str
) -> None:
    async with running_cache(real_cache_backend.settings, app_id) as service:
        redis = service.get_client()
        call = asyncio.create_task(redis.run_script(ECHO, [], ["x"]))
        await asyncio.sleep(0)
    assert await call == "x"


async def test_stop_does_not_wait_for_blocking_calls(
    real_cache_backend: CacheBackend, app_id: str
) -> None:
    service = make_cache(real_cache_backend.settings, app_id)
    await service.start()
    bulk = service.get_bulk_client()
    waiting = asyncio.create_task(bulk.execute("BLPOP", bulk.key("l:1"), 0, wait_s=3600))
    await until(lambda: bulk.round_trips)
    await asyncio.wait_for(service.stop(), PATIENCE_S)
    with pytest.raises(ServiceUnavailable, match="stopped"):
        await waiting


async def _is(redis: CacheClient, key: str, value: str) -> bool:
    return await redis.get_string(key) == value
