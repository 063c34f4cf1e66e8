"""What a room and a message take in Redis, everything counted: lists, records, states, logs,
claims."""

from __future__ import annotations

import asyncio

from redis import Redis

from benchmarks.bench import Bench, Row
from benchmarks.ours import our_server
from benchmarks.population import TEXT, populate, quiet

_ACCOUNTS, _ROOMS, _MESSAGES = 10, 20, 40


def run(bench: Bench) -> None:
    with (
        our_server(bench, "memory", "stub") as server,
        Redis(unix_socket_path=str(bench.backends.redis.socket)) as redis,
    ):

        def used() -> int:
            asyncio.run(quiet(server.url))
            return int(redis.info("memory")["used_memory_dataset"])

        asyncio.run(
            populate(server.url, accounts=64, rooms=1, messages=2)
        )  # scripts and all streams are there
        before = used()
        asyncio.run(populate(server.url, accounts=_ACCOUNTS, rooms=_ROOMS))
        empty = used()
        asyncio.run(populate(server.url, accounts=_ACCOUNTS, rooms=_ROOMS, messages=_MESSAGES))
        full = used()
    rooms = _ACCOUNTS * _ROOMS
    room = (empty - before) / rooms
    message = (full - empty - rooms * room) / (rooms * _MESSAGES)
    bench.add(Row("Redis: a room without messages", room, "bytes"))
    bench.add(
        Row(
            f"Redis: a message of {len(TEXT)} characters",
            message,
            "bytes",
            note="half of them replies",
        )
    )
