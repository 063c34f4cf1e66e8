"""Every accepted text comes back byte for byte: from Redis, from the database, and after a restart.

Hypothesis makes the texts (``TEXT_EXAMPLES`` rounds of them); beside them stand the longest ones
that fit, in characters and in bytes, and the first ones that do not.
"""

from __future__ import annotations

import os
from typing import Any

import aiohttp
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st

from tests.e2e.conftest import Deployment
from tests.server_process import Client
from tests.waiting import until

ROUNDS = int(os.environ.get("TEXT_EXAMPLES", "2"))
LIMITS = [
    "x" * 16_000,
    "가" * 16_000,
    "👩" * 16_000,
    "\U0010ffff",
    "\x01",
    " ",
    "\r\n",
    "\u2028",
    "\ufeff",
    "\\u0000",
    '"',
]
_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=120
)
_HOSTILE = st.text(
    st.sampled_from("'\"\\/%_`;-#{}[]<>&\r\n\t\b\x7f\x85\u2028\u202e\ufefféｅ́한👩‍👩‍👧"),
    min_size=1,
    max_size=40,
)


def make_texts() -> list[str]:
    """Texts as a property test would try them; the same ones at each run."""
    found: list[str] = []
    for number in range(ROUNDS):

        def keep(batch: list[str], at_least: int = 12 + number) -> bool:
            return len(set(batch)) >= at_least

        options = settings(
            database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            max_examples=500,
        )  # fmt: skip
        found += find(
            st.lists(_TEXT | _HOSTILE, min_size=20 + number, max_size=24), keep, settings=options
        )
    return found


async def test_accepted_text_is_the_same_from_redis_database_and_restart(
    deployment: Deployment,
) -> None:
    """Every accepted text is the same from Redis the database and after a restart."""
    texts = [*LIMITS, *make_texts()]
    deployment.server.start()
    async with aiohttp.ClientSession() as http:
        client = Client(http, deployment.server.base_url)
        await client.sign_in("texts")
        titles = [text[:200] for text in texts if len(text) < 300][:8]
        rooms = [
            (await client.ok("/api/chat/room/create", ai_persona="DEMO", title=title))["room"][
                "room_id"
            ]
            for title in titles
        ]
        for number, text in enumerate(texts):
            sent = await client.ok(
                "/api/chat/message/send", room_id=rooms[number % len(rooms)], content=text
            )
            assert sent["user_message"]["content"] == text
        for too_long in ("x" * 16_001, "👩" * 16_385):
            refused = await client.post(
                "/api/chat/message/send", room_id=rooms[0], content=too_long
            )
            assert refused["errorCode"] == 1002
        assert await _read(client, rooms) == _expected(rooms, titles, texts), "from Redis"

        def stored() -> bool:
            return len(_rows(deployment)) == len(texts)

        await until(stored, what="all questions are in the database")
        assert sorted(row["content"] for row in _rows(deployment)) == sorted(texts), "in the rows"
        deployment.server.stop()
        deployment.kill_cache()
        deployment.start_cache()
        deployment.server.start()
        client.base_url = deployment.server.base_url
        assert await _read(client, rooms) == _expected(rooms, titles, texts), "after a restart"


def _rows(deployment: Deployment) -> list[dict[str, Any]]:
    rows = [
        deployment.shard_rows(shard, "SELECT content, sender_type FROM chat_messages")
        for shard in (1, 2)
    ]
    return [row for shard in rows for row in shard if row["sender_type"] == "USER"]


async def _read(client: Client, rooms: list[str]) -> dict[str, tuple[str, list[str]]]:
    """Title and questions of each room, as the API gives them."""
    titles = {
        room["room_id"]: room["title"] for room in (await client.ok("/api/chat/rooms"))["rooms"]
    }
    read = {}
    for room_id in rooms:
        page = await client.ok("/api/chat/messages", room_id=room_id, limit=100)
        asked = [
            message["content"] for message in page["messages"] if message["sender_type"] == "USER"
        ]
        read[room_id] = (titles[room_id], asked)
    return read


def _expected(
    rooms: list[str], titles: list[str], texts: list[str]
) -> dict[str, tuple[str, list[str]]]:
    by_room: dict[str, list[str]] = {room_id: [] for room_id in rooms}
    for number, text in enumerate(texts):
        by_room[rooms[number % len(rooms)]].append(text)
    return {
        room_id: (title, by_room[room_id]) for room_id, title in zip(rooms, titles, strict=True)
    }
