"""What pages and sends cost in a room of a million messages and in an account of 10,000 rooms,
beside small ones."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp

from base_server.service.db.db_settings import DatabaseSettings
from benchmarks.bench import Bench, Row
from benchmarks.load import Ask, Contender
from benchmarks.ours import our_server
from benchmarks.population import TEXT
from benchmarks.processes import Child
from benchmarks.seed import run as seed
from tests.server_process import Client

SMALL_ROOM, SMALL_ACCOUNT, LARGE_ACCOUNT = 2_000, 20, 10_000
_DEEP = 30  # page; beyond the window of 200
_AT_MOST = 1.5


@dataclass(frozen=True)
class Grown:
    """An account with ``rooms`` rooms, the first of ``messages`` messages."""

    token: str
    room_id: str
    messages: int

    def page(self, number: int) -> Ask:
        return Ask(
            "/api/chat/messages", self.token, {"room_id": self.room_id, "page": number, "limit": 50}
        )

    def room_list(self) -> Ask:
        return Ask("/api/chat/rooms", self.token, {"limit": 20})


def run(bench: Bench) -> None:
    large_room = int(
        1_000_200 * bench.seconds
    )  # a million with the seconds that it has if nobody says otherwise
    with our_server(bench, "growth", "stub") as server:
        small = asyncio.run(_grow(bench, server, "small", SMALL_ACCOUNT, SMALL_ROOM))
        large = asyncio.run(_grow(bench, server, "large", LARGE_ACCOUNT, large_room))
        _written_out(bench)
        first = asyncio.run(_first_looks(server, small, large))
        middle = large.messages // 50 // 2
        sides = {
            f"page {_DEEP} of a room": (small.page(_DEEP), large.page(_DEEP)),
            f"page {_DEEP} against page {middle:,}": (small.page(_DEEP), large.page(middle)),
            "page 1 of an account's rooms": (small.room_list(), large.room_list()),
        }
        asked = {
            f"{work}, {size}": Contender(f"{work}, {size}", server, [ask], bench.folder)
            for work, pair in sides.items()
            for size, ask in zip(("small", "large"), pair, strict=True)
        }
        found = bench.contest(list(asked.values()))
        few_s, many_s = asyncio.run(_sends(server, small, large, int(300 * bench.seconds)))
    sizes = f"{SMALL_ROOM:,} and {large.messages:,} messages, {SMALL_ACCOUNT} and {LARGE_ACCOUNT:,} rooms"
    for work in sides:
        few, many = found[f"{work}, small"], found[f"{work}, large"]
        ratio, by_cpu = few.per_s / many.per_s, many.cpu_ms / few.cpu_ms
        bench.add(Row(f"{work}: large over small", many.per_s, "req/s", many.cpu_ms, "the small one", ratio, by_cpu,
                      target=_AT_MOST, bound="at most", note=sizes))  # fmt: skip
    bench.add(Row("send, one after the other: large over small", many_s * 1e3, "ms", None, "the small one",
                  many_s / few_s, target=_AT_MOST, bound="at most", note=sizes))  # fmt: skip
    for what, (small_s, large_s) in first.items():
        bench.add(
            Row(
                f"first look at {what}, cold",
                large_s * 1e3,
                "ms",
                note=f"{small_s * 1e3:.0f} ms of the small",
            )
        )


async def _grow(bench: Bench, server: Child, name: str, rooms: int, messages: int) -> Grown:
    shards = [{"shard_id": n, "database": f"growth_shard_{n}"} for n in (1, 2)]
    databases = DatabaseSettings.model_validate(
        {"type": "mysql", "port": bench.backends.mariadb.port, "database": "growth_global", "shards": shards,
         "timeout_s": 60}
    )  # fmt: skip
    async with aiohttp.ClientSession() as http:
        client = Client(http, server.url)
        await client.sign_in(name)
        room_id = await seed(
            databases, Path("/nonexistent"), 16, name, rooms=rooms, messages=messages
        )
        assert client.token is not None
        return Grown(client.token, room_id, messages)


def _written_out(bench: Bench) -> None:
    """Wait until MariaDB has written to its files what was sown: no room grows to a million
    messages in a minute."""
    mariadb, deadline_s = bench.backends.mariadb, time.monotonic() + 180

    def dirty_pages() -> int:
        return int(
            mariadb.sql("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")[0]["Value"]
        )

    mariadb.sql("SET GLOBAL innodb_max_dirty_pages_pct = 0")
    while dirty_pages() > 100 and time.monotonic() < deadline_s:
        time.sleep(1)
    mariadb.sql("SET GLOBAL innodb_max_dirty_pages_pct = 90")


async def _sends(server: Child, small: Grown, large: Grown, count: int) -> tuple[float, float]:
    """Median seconds of a send in the small and in the large room, in turns: a room answers one
    question at a time."""
    took: tuple[list[float], list[float]] = ([], [])
    async with aiohttp.ClientSession() as http:
        for _ in range(count):
            for grown, seconds in zip((small, large), took, strict=True):
                client = Client(http, server.url)
                client.token = grown.token
                begun_s = time.perf_counter()
                await client.ok("/api/chat/message/send", room_id=grown.room_id, content=TEXT)
                seconds.append(time.perf_counter() - begun_s)
    return median(took[0]), median(took[1])


async def _first_looks(server: Child, small: Grown, large: Grown) -> dict[str, tuple[float, float]]:
    """Seconds that the first list of rooms and of messages took: they are read from MySQL into
    Redis."""
    took: dict[str, list[float]] = {}
    async with aiohttp.ClientSession() as http:
        for grown in (small, large):
            for what, ask in (("an account's rooms", grown.room_list()), ("a room", grown.page(1))):
                client = Client(http, server.url)
                client.token = grown.token
                begun_s = time.perf_counter()
                await client.ok(ask.path, **ask.fields)
                took.setdefault(what, []).append(time.perf_counter() - begun_s)
    return {what: (few, many) for what, (few, many) in took.items()}
