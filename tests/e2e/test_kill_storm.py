"""SIGKILL in the middle of everything: what was acknowledged is there, once, in order; deleted stays deleted.

Every player works on its own account, one request after the other, and writes down what was acknowledged
and what has an unknown outcome. Every text is unique. After each kill the checker reads everything back.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import Deployment
from tests.server_process import Client

PLAYERS = 4
ROUNDS = 4


@dataclass
class RoomRecord:
    """What a player knows of a room: texts acknowledged in order, texts of unknown outcome, titles and deletes."""

    room_id: str
    sent: list[str] = field(default_factory=list)
    maybe_sent: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    maybe_deleted: set[str] = field(default_factory=set)
    titles: set[str] = field(default_factory=set)
    ids: dict[str, str] = field(default_factory=dict)


class Player:
    def __init__(self, http: aiohttp.ClientSession, base_url: str, seed: int) -> None:
        self.client = Client(http, base_url)
        self.random = random.Random(seed)
        self.rooms: dict[str, RoomRecord] = {}
        self.maybe_rooms: set[str] = set()
        self.deleted_rooms: set[str] = set()
        self.maybe_deleted_rooms: set[str] = set()
        self.acknowledged = 0
        self.repeat: tuple[str, str, str] | None = None

    async def play(self, stop: asyncio.Event) -> None:
        """Act until the server is gone."""
        while not stop.is_set():
            try:
                await self._act()
            except (aiohttp.ClientError, TimeoutError):
                return

    async def _act(self) -> None:
        if self.repeat is not None:
            # A client repeats what was not answered, with the same id.
            await self._send(*self.repeat)
            return
        live = list(self.rooms)
        roll = self.random.random()
        if not live or (roll < 0.1 and len(live) < 4):
            await self._create()
        elif roll < 0.8:
            text = f"{uuid.uuid4().hex} 한글 🎲"
            await self._send(self.random.choice(live), text, str(uuid.uuid4()))
        elif roll < 0.87:
            await self._rename(self.random.choice(live))
        elif roll < 0.97:
            await self._delete_message(self.random.choice(live))
        elif len(live) > 1:
            await self._delete_room(self.random.choice(live))

    async def _create(self) -> None:
        title = uuid.uuid4().hex
        self.maybe_rooms.add(title)
        room = (await self._ok("/api/chat/room/create", ai_persona="DEMO", title=title))["room"]
        self.maybe_rooms.discard(title)
        self.rooms[room["room_id"]] = RoomRecord(room["room_id"], titles={title})

    async def _send(self, room_id: str, text: str, client_id: str) -> None:
        record = self.rooms[room_id]
        record.maybe_sent.add(text)
        self.repeat = (room_id, text, client_id)
        answer = await self._ok("/api/chat/message/send", room_id=room_id, content=text, client_message_id=client_id)
        self.repeat = None
        record.maybe_sent.discard(text)
        assert answer["user_message"]["content"] == text
        record.sent.append(text)
        record.ids[text] = answer["user_message"]["message_id"]

    async def _rename(self, room_id: str) -> None:
        title = uuid.uuid4().hex
        self.rooms[room_id].titles.add(title)
        await self._ok("/api/chat/room/update", room_id=room_id, new_title=title)
        self.rooms[room_id].titles = {title}

    async def _delete_message(self, room_id: str) -> None:
        record = self.rooms[room_id]
        candidates = [text for text in record.sent if text not in record.deleted]
        if not candidates:
            return
        text = self.random.choice(candidates)
        record.maybe_deleted.add(text)
        await self._ok("/api/chat/message/delete", room_id=room_id, message_id=record.ids[text])
        record.deleted.add(text)

    async def _delete_room(self, room_id: str) -> None:
        self.maybe_deleted_rooms.add(room_id)
        await self._ok("/api/chat/room/delete", room_id=room_id)
        self.deleted_rooms.add(room_id)
        del self.rooms[room_id]

    async def _ok(self, path: str, **fields: Any) -> dict[str, Any]:
        answer = await self.client.post(path, **fields)
        if answer["errorCode"] in (1001, 5003):
            raise TimeoutError  # the cache is being killed: the outcome is told or unknown, the player stops
        assert answer["errorCode"] == 0, (path, answer)
        self.acknowledged += 1
        return answer

    async def check(self) -> None:
        """Everything acknowledged is there, once, in order; nothing else but what has an unknown outcome."""
        listed = {room["room_id"]: room for room in (await self.client.ok("/api/chat/rooms", limit=100))["rooms"]}
        assert not self.deleted_rooms & listed.keys(), "a deleted room came back"
        for room_id in self.maybe_deleted_rooms - self.deleted_rooms:
            if room_id not in listed:
                self.deleted_rooms.add(room_id)
                del self.rooms[room_id]
                if self.repeat is not None and self.repeat[0] == room_id:
                    self.repeat = None
        assert self.rooms.keys() <= listed.keys(), "an acknowledged room is missing"
        extra = {listed[room_id]["title"] for room_id in listed.keys() - self.rooms.keys()}
        assert extra <= self.maybe_rooms, "a room that nobody made"
        for room_id, record in self.rooms.items():
            assert listed[room_id]["title"] in record.titles
            await self._check_room(record)

    async def _check_room(self, record: RoomRecord) -> None:
        messages: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self.client.ok("/api/chat/messages", room_id=record.room_id, limit=100, **cursor)
            messages[:0] = page["messages"]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        seqs = [message["seq"] for message in messages]
        assert seqs == sorted(set(seqs)), "an order or number is wrong"
        texts = [message["content"] for message in messages if message["sender_type"] == "USER"]
        assert len(texts) == len(set(texts)), "a message is there twice"
        assert not record.deleted & set(texts), "a deleted message came back"
        expected = [text for text in record.sent if text not in record.deleted]
        gone = set(expected) - set(texts)
        assert gone <= record.maybe_deleted, "an acknowledged message is missing"
        assert [text for text in texts if text in record.sent] == [t for t in expected if t not in gone]
        assert set(texts) - set(record.sent) <= record.maybe_sent, "a message that nobody sent"
        by_id = {message["message_id"]: message for message in messages}
        for message in messages:
            if message["sender_type"] == "AI" and message["parent_message_id"] in by_id:
                assert by_id[message["parent_message_id"]]["seq"] == message["seq"] - 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", ["server", "server and cache"])
async def test_nothing_acknowledged_is_lost_doubled_or_revived(deployment: Deployment, killed: str) -> None:
    seed = time.time_ns() % 1_000_000
    deployment.server.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        players = [Player(http, deployment.server.base_url, seed + n) for n in range(PLAYERS)]
        await asyncio.gather(*(player.client.sign_in(f"storm{uuid.uuid4().hex[:10]}") for player in players))
        chance = random.Random(seed)
        try:
            for _ in range(ROUNDS):
                await _round(deployment, players, chance, both=killed == "server and cache")
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    acknowledged = sum(player.acknowledged for player in players)
    assert acknowledged > PLAYERS * ROUNDS, "the storm did nothing"


async def _round(deployment: Deployment, players: list[Player], chance: random.Random, *, both: bool) -> None:
    """Play, kill in the middle, start again, check everything."""
    stop = asyncio.Event()
    playing = [asyncio.create_task(player.play(stop)) for player in players]
    await asyncio.sleep(chance.uniform(0.5, 2.5))
    kills = [deployment.server.kill, deployment.kill_cache] if both else [deployment.server.kill]
    for kill in chance.sample(kills, len(kills)):
        kill()
    stop.set()
    await asyncio.gather(*playing)
    if both:
        deployment.start_cache()
    deployment.server.start()
    for player in players:
        player.client.base_url = deployment.server.base_url
    await asyncio.gather(*(player.check() for player in players))
