"""Players with rooms and messages on one of our servers, made over HTTP."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp

from benchmarks.load import Ask
from tests.server_process import Client

TEXT = "What would forty characters ask of you?!"


@dataclass(frozen=True)
class Owner:
    """An account's session and its rooms."""

    token: str
    room_ids: list[str]

    def sends(self, rooms: slice = slice(None)) -> Iterable[Ask]:
        return (
            Ask("/api/chat/message/send", self.token, {"room_id": r, "content": TEXT})
            for r in self.room_ids[rooms]
        )

    def message_lists(self, rooms: slice = slice(None)) -> Iterable[Ask]:
        return (
            Ask("/api/chat/messages", self.token, {"room_id": r, "limit": 20})
            for r in self.room_ids[rooms]
        )

    def room_list(self) -> Ask:
        return Ask("/api/chat/rooms", self.token, {"limit": 20})


async def populate(
    url: str,
    *,
    accounts: int,
    rooms: int,
    messages: int = 0,
    talking: slice = slice(None),
    persona: str = "GPT4O",
) -> list[Owner]:
    """``accounts`` with ``rooms`` each; ``messages`` (half of them replies) in the rooms of
    ``talking``."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
        return await asyncio.gather(
            *(_owner(http, url, rooms, messages, talking, persona) for _ in range(accounts))
        )


async def _owner(
    http: aiohttp.ClientSession, url: str, rooms: int, messages: int, talking: slice, persona: str
) -> Owner:
    client = Client(http, url)
    await client.sign_in(f"bench{uuid.uuid4().hex[:12]}")
    made = [
        await client.ok("/api/chat/room/create", ai_persona=persona, title="A bench room")
        for _ in range(rooms)
    ]
    room_ids = [answer["room"]["room_id"] for answer in made]
    for _ in range(messages // 2):
        for room_id in room_ids[talking]:
            await client.ok("/api/chat/message/send", room_id=room_id, content=TEXT)
    assert client.token is not None
    return Owner(client.token, room_ids)


async def quiet(url: str, timeout_s: float = 120.0) -> None:
    """Wait until everything is in the database."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(timeout_s):
        while await waiting(http, url):
            await asyncio.sleep(0.1)


async def waiting(http: aiohttp.ClientSession, url: str) -> float:
    """Events that wait in the persistence queue."""
    async with http.get(url + "/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line.startswith('base_server_queue_waiting{queue="chat_persistence"}'):
                return float(line.split()[-1])
    return 1.0
