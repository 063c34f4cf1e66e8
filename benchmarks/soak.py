"""Hours in minutes: players of whom every fifth misbehaves, while memory, descriptors and open
streams are watched.

``python -m benchmarks.soak --minutes 5``, on the embedded default with short TTLs, so that what may
leave Redis does so during the run. Ends with exit code 1 unless all is flat: memory of server and
Redis, descriptors and tasks are no more in the last quarter than in the second one, and when the
players are gone nothing of theirs is left, descriptors and tasks included.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import aiohttp
from redis import Redis
from tqdm import tqdm

from base_server.service.cache.cache_settings import CacheSettings
from tests.server_process import Client, ServerProcess, running_server
from tests.waiting import until

Look = Mapping[str, float]
"""How much there is of what, by its label in the table."""
_LOOKS = {
    "process_resident_memory_bytes": "server, MiB",
    "process_open_fds": "descriptors",
    "base_server_tasks": "tasks",
    "base_server_streams_open": "open streams",
    "base_server_chat_open_replies": "open replies",
    "base_server_queue_waiting": "events waiting",
}
_MIB = 2**20
_POOLS = CacheSettings().max_connections + CacheSettings().max_bulk_connections
_BY_ITSELF = 5
"""Tasks of a server that is alone: it looks at readiness and sessions, does a job of its clock,
renews a lock."""
_FLOOD = 30
_NOISE = {"server, MiB": 2, "Redis, MiB": 2, "descriptors": _FLOOD, "tasks": _FLOOD}
"""What must not grow, and how much, beside a tenth, means nothing: a flood is as many connections,
and a task each."""
_SETTINGS = {
    "BASE_SERVER__CHATCONFIG__WINDOW": "20",
    "BASE_SERVER__CHATCONFIG__ROOM_LIST_TTL_S": "5",
    "BASE_SERVER__CHATCONFIG__MESSAGE_LIST_TTL_S": "5",
    "BASE_SERVER__CHATCONFIG__STREAM_TTL_S": "5",
    "BASE_SERVER__CHATCONFIG__STATE_TTL_S": "5",
    "BASE_SERVER__CHATCONFIG__BATCH_INTERVAL_S": "0.5",
    "BASE_SERVER__LLMCONFIG__DEMO_WORD_DELAY_S": "0.01",
    "BASE_SERVER__NETCONFIG__LOG_LEVEL": "error",
}


@dataclass
class Player:
    """Somebody with an account and a room, and how often what was answered."""

    client: Client
    http: aiohttp.ClientSession
    answers: Counter[str]
    chance: random.Random = field(default_factory=random.Random)
    room_id: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.client.token}"}

    async def arrive(self, name: str) -> None:
        await self.client.sign_in(name)
        self.room_id = (await self.client.ok("/api/chat/room/create", ai_persona="GPT4O"))["room"][
            "room_id"
        ]

    async def behave(self) -> None:
        """One thing that people do."""
        what = self.chance.choice(
            [self._send, self._send, self._stream, self._list, self._rooms, self._move]
        )
        await what()

    async def _say(self, path: str, **fields: object) -> dict[str, object]:
        answer = await self.client.post(path, **fields)
        self.answers[str(answer["errorCode"])] += 1
        return answer

    async def _send(self) -> None:
        await self._say("/api/chat/message/send", room_id=self.room_id, content="hello")

    async def _list(self) -> None:
        await self._say("/api/chat/messages", room_id=self.room_id, page=self.chance.randint(1, 3))

    async def _rooms(self) -> None:
        await self._say("/api/chat/rooms")

    async def _move(self) -> None:
        """A new room instead of the old one."""
        await self._say("/api/chat/room/delete", room_id=self.room_id)
        self.room_id = (await self.client.ok("/api/chat/room/create", ai_persona="GPT4O"))["room"][
            "room_id"
        ]

    async def _stream(self, patience_s: float | None = None) -> None:
        body = {"room_id": self.room_id, "content": "tell me something"}
        path = self.client.base_url + "/api/chat/message/stream"
        async with (
            asyncio.timeout(patience_s),
            self.http.post(path, json=body, headers=self.headers) as answer,
        ):
            async for _ in answer.content:
                pass
            self.answers[str(answer.status)] += 1

    async def misbehave(self) -> None:
        """One thing that nobody should do."""
        what = self.chance.choice(
            [self._cut, self._leave, self._trickle, self._gibber, self._flood]
        )
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            await what()
        self.answers["misdeeds"] += 1

    async def _cut(self) -> None:
        async with asyncio.timeout(self.chance.uniform(0, 0.05)):
            await self._send()

    async def _leave(self) -> None:
        await self._stream(self.chance.uniform(0, 0.2))

    async def _trickle(self) -> None:
        """A request that comes byte by byte, whose answer nobody reads."""
        host, _, port = urlsplit(self.client.base_url).netloc.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(
                b"POST /api/chat/message/send HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
            )
            for _ in range(5):
                writer.write(b"{")
                await writer.drain()
                await asyncio.sleep(0.1)
        finally:
            writer.transport.abort()

    async def _gibber(self) -> None:
        body = self.chance.choice(
            [b"", b"{", b"\xff\x00\xff", b"[" * 50_000, b"x" * 2_000_000, b'{"room_id": 1e999}']
        )
        path = self.chance.choice(
            ["/api/chat/message/send", "/api/chat/none", "/../etc/passwd", "/api/protocol/6011"]
        )
        async with self.http.post(
            self.client.base_url + path, data=body, headers=self.headers
        ) as answer:
            await answer.read()

    async def _flood(self) -> None:
        await asyncio.gather(*(self._send() for _ in range(_FLOOD)), return_exceptions=True)


class Watch:
    """What the server and its Redis hold, once a second."""

    def __init__(self, server: ServerProcess, http: aiohttp.ClientSession, socket: Path) -> None:
        self.looks: list[Look] = []
        self._url = server.base_url + "/metrics"
        self._http = http
        self._redis = Redis(unix_socket_path=str(socket))

    async def look(self) -> Look:
        async with self._http.get(self._url) as answer:
            text = await answer.text()
        found = {label: sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)))
                 for name, label in _LOOKS.items()}  # fmt: skip
        found["server, MiB"] /= _MIB
        info = await asyncio.to_thread(self._redis.info, "memory")
        return found | {"Redis, MiB": float(info["used_memory"]) / _MIB}


async def soak(minutes: float, players: int) -> bool:
    """Play for ``minutes``, tell what was held, and whether it was flat."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        data_dir = Path(folder) / "data"
        with running_server(data_dir, workers=1, is_fresh=True, **_SETTINGS) as server:
            async with aiohttp.ClientSession() as looking:
                socket = next(path for path in data_dir.rglob("*") if path.is_socket())
                watch = Watch(server, looking, socket)
                before = await watch.look()
                answers = await _play(server, watch, minutes * 60, players)
                after = before

                async def gone() -> bool:
                    nonlocal after
                    after = await watch.look()
                    return not _left(before, after)

                with suppress(AssertionError):
                    await until(gone, 30)
                return _tell(before, watch.looks, after, answers)


async def _play(server: ServerProcess, watch: Watch, seconds: float, count: int) -> Counter[str]:
    answers: Counter[str] = Counter()
    until_s = time.monotonic() + seconds

    async def play(number: int) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
            player = Player(Client(http, server.base_url), http, answers, random.Random(number))
            await player.arrive(f"player-{uuid.uuid4().hex[:12]}")
            act: Callable[[], Awaitable[None]] = (
                player.misbehave if number % 5 == 0 else player.behave
            )
            while time.monotonic() < until_s:
                await act()
                await asyncio.sleep(player.chance.uniform(0, 0.3))

    async def observe() -> None:
        with tqdm(total=round(seconds), unit=" s", file=sys.stderr, mininterval=1) as bar:
            while time.monotonic() < until_s:
                watch.looks.append(await watch.look())
                bar.update(min(1, bar.total - bar.n))
                await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(play(number))
        group.create_task(observe())
    return answers


def _tell(before: Look, looks: Sequence[Look], after: Look, answers: Counter[str]) -> bool:
    second, last = _quarter(looks, 2), _quarter(looks, 4)
    print("| | before | second quarter | last quarter | players gone |\n|---|---|---|---|---|")
    for label in before:
        print(
            f"| {label} | {before[label]:.1f} | {second[label]:.1f} | {last[label]:.1f} | {after[label]:.1f} |"
        )
    print("\nanswers:", ", ".join(f"{name} × {count:,}" for name, count in answers.most_common()))
    left = _left(before, after)
    if left:
        print(f"left over: {', '.join(left)}")
    grown = [label for label, noise in _NOISE.items() if last[label] > second[label] * 1.1 + noise]
    print(f"grown: {', '.join(grown)}" if grown else "flat")
    return not grown and not left


def _quarter(looks: Sequence[Look], number: int) -> Look:
    """Medians of a quarter of the run, 1 to 4."""
    size = len(looks) // 4
    part = looks[(number - 1) * size : number * size]
    return {label: median(look[label] for look in part) for label in looks[0]}


def _left(before: Look, after: Look) -> list[str]:
    """What is there of players who are gone. Connections to Redis stay in their pools."""
    left = [label for label in ("open streams", "open replies", "events waiting") if after[label]]
    slack = {"descriptors": _POOLS, "tasks": _BY_ITSELF}
    return left + [label for label, some in slack.items() if after[label] > before[label] + some]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (5)")
    parser.add_argument(
        "--players", type=int, default=40, help="at a time; every fifth misbehaves (40)"
    )
    options = parser.parse_args()
    sys.exit(0 if asyncio.run(soak(options.minutes, options.players)) else 1)


if __name__ == "__main__":
    main()
