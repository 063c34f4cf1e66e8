"""The cost of a Redis call: redis-py's own pool, ours without and with batches, in one run.

    python -m benchmarks.redis_calls [--seconds 1.0] [--callers 1,8,32,128]

Every caller sends one GET of 100 bytes after the other. Starts a Redis of its own; needs
redis-server on PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

import uvloop
from redis.asyncio import BlockingConnectionPool, Redis

from base_server.service.cache.cache_client import CacheClient
from tests.backends_redis import RedisServer, find_server, running_cache

Ask = Callable[[], Awaitable[object]]

WAYS = {
    "pool": "redis-py's pool",
    "call": "ours, a connection for each call",
    "batch": "ours, one write per iteration",
}


@dataclass(frozen=True)
class Figure:
    way: str
    callers: int
    calls_per_s: float
    cpu_us_per_call: float


async def _load(ask: Ask, callers: int, seconds: float) -> tuple[float, float]:
    """Calls a second, and microseconds of this process' CPU for each."""
    calls = 0

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < until_s:
            await ask()
            calls += 1

    until_s = time.perf_counter() + seconds / 10
    await asyncio.gather(*(caller() for _ in range(callers)))
    calls, begun_s, cpu_s = 0, time.perf_counter(), time.process_time()
    until_s = begun_s + seconds
    await asyncio.gather(*(caller() for _ in range(callers)))
    return calls / (time.perf_counter() - begun_s), (time.process_time() - cpu_s) / calls * 1e6


async def measure(callers: list[int], seconds: float) -> list[Figure]:
    """All ways one after the other for each number of callers."""
    server = RedisServer(find_server("redis"), "--io-threads", "1")
    try:
        server.start()
        async with AsyncExitStack() as stack:
            cache = await stack.enter_async_context(running_cache(server.settings(), "bench"))
            redis = cache.get_client()
            key = redis.key("text:1")
            await redis.execute("SET", key, "x" * 100)
            pool = BlockingConnectionPool.from_url(
                f"unix://{server.socket}", max_connections=50, decode_responses=True, protocol=2
            )
            plain = await stack.enter_async_context(Redis(connection_pool=pool))
            stack.push_async_callback(pool.disconnect)
            asks: dict[str, Ask] = {
                "pool": lambda: plain.get(key),
                "call": _get(cache.get_bulk_client(), key),
                "batch": _get(redis, key),
            }
            return [
                Figure(way, n, *(await _load(asks[way], n, seconds)))
                for n in callers
                for way in asks
            ]
    finally:
        server.remove()


def _get(client: CacheClient, key: str) -> Ask:
    return lambda: client.execute("GET", key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--callers", default="1,8,32,128")
    parser.add_argument(
        "--json", action="store_true", help="one object a line instead of the table"
    )
    options = parser.parse_args()
    figures = uvloop.run(measure([int(n) for n in options.callers.split(",")], options.seconds))
    pool = {figure.callers: figure.calls_per_s for figure in figures if figure.way == "pool"}
    for figure in figures:
        if options.json:
            print(json.dumps(asdict(figure)))
        else:
            ratio = figure.calls_per_s / pool[figure.callers]
            print(
                f"{figure.callers:4} callers  {WAYS[figure.way]:34} "
                f"{figure.calls_per_s:8.0f} calls/s {figure.cpu_us_per_call:6.1f} us CPU  "
                f"{ratio:4.2f} x pool"
            )


if __name__ == "__main__":
    main()
