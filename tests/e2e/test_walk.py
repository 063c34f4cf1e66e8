"""One account's life over HTTP, then what it left in the databases."""

from __future__ import annotations

import uuid
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import Deployment
from tests.server_process import Client
from tests.waiting import until

TITLE = "우리 방 🏡"
TEXT = "안녕하세요! 👩‍🚀 zero\u200bwidth, {x}, data: y\r\nnext"


@pytest.mark.parametrize("deployment", ["LOCAL", "DEBUG", "DEBUG 4", "CLUSTER"], indirect=True)
async def test_a_whole_life_and_what_it_leaves_behind(deployment: Deployment) -> None:
    deployment.server.start()
    async with aiohttp.ClientSession() as http:
        player = Client(http, deployment.server.base_url)
        account_id = f"walker{uuid.uuid4().hex[:8]}"
        await player.sign_in(account_id)
        room = (
            await player.ok("/api/chat/room/create", ai_persona="GPT4O", title=TITLE, sequence=7)
        )["room"]
        room_id = room["room_id"]
        sent = await player.ok("/api/chat/message/send", room_id=room_id, content=TEXT, sequence=8)
        assert sent["sequence"] == 8
        assert sent["user_message"]["content"] == TEXT
        assert "데모" in sent["message"]["content"]
        by_protocol = await player.ok("/api/protocol/6015", room_id=room_id)
        assert [m["content"] for m in by_protocol["messages"]] == [TEXT, sent["message"]["content"]]
        listed = await player.ok("/api/chat/rooms")
        assert [(r["room_id"], r["title"]) for r in listed["rooms"]] == [(room_id, TITLE)]
        await player.ok("/api/chat/room/update", room_id=room_id, new_title="새 이름 ✨")
        second = await player.ok("/api/chat/message/send", room_id=room_id, content="to be deleted")
        await player.ok(
            "/api/chat/message/delete",
            room_id=room_id,
            message_id=second["user_message"]["message_id"],
        )
        doomed = (await player.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]
        await player.ok("/api/chat/room/delete", room_id=doomed["room_id"])
        await until(lambda: _settled(player, room_id))
        await player.ok("/api/account/logout")
        assert (await player.post("/api/chat/rooms"))["errorCode"] == 10000

    shard_id = _shard_of(deployment, account_id)
    doomed_id = doomed["room_id"]

    def written() -> tuple[dict[str, tuple[Any, ...]], list[tuple[Any, ...]]]:
        rooms = deployment.shard_rows(
            shard_id, "SELECT room_id, title, message_count, deleted FROM chat_rooms"
        )
        messages = deployment.shard_rows(
            shard_id,
            "SELECT room_id, seq, content, sender_type, deleted FROM chat_messages ORDER BY seq",
        )
        return {room.pop("room_id"): tuple(room.values()) for room in rooms}, [
            tuple(row.values()) for row in messages
        ]

    expected = (
        {room_id: ("새 이름 ✨", 3, 0), doomed_id: ("New chat", 0, 1)},
        [
            (room_id, 1, TEXT, "USER", 0),
            (room_id, 2, sent["message"]["content"], "AI", 0),
            (room_id, 3, "to be deleted", "USER", 1),
            (room_id, 4, second["message"]["content"], "AI", 0),
        ],
    )
    await until(lambda: written() == expected, what=f"{expected} in the database")
    other = deployment.shard_rows(3 - shard_id, "SELECT room_id FROM chat_rooms")
    assert other == []


@pytest.mark.parametrize("deployment", ["LOCAL", "DEBUG", "CLUSTER"], indirect=True)
async def test_a_first_page_is_full_whatever_was_deleted(deployment: Deployment) -> None:
    deployment.server.start()
    async with aiohttp.ClientSession() as http:
        player = Client(http, deployment.server.base_url)
        await player.sign_in(f"walker{uuid.uuid4().hex[:8]}")
        room_id = (await player.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]
        sent = []
        for n in range(4):
            answer = await player.ok("/api/chat/message/send", room_id=room_id, content=f"{n}")
            sent += [answer["user_message"]["message_id"], answer["message"]["message_id"]]
        for message_id in sent[-3:]:
            await player.ok("/api/chat/message/delete", room_id=room_id, message_id=message_id)
        for page, expected in ((1, sent[2:5]), (2, sent[:2])):
            answer = await player.ok("/api/chat/messages", room_id=room_id, limit=3, page=page)
            assert [message["message_id"] for message in answer["messages"]] == expected
            assert answer["has_more"] == (page == 1)


async def test_everything_is_there_after_a_restart_and_after_a_kill(deployment: Deployment) -> None:
    deployment.server.start()
    account_id = f"stayer{uuid.uuid4().hex[:8]}"
    async with aiohttp.ClientSession() as http:
        player = Client(http, deployment.server.base_url)
        await player.sign_in(account_id)
        room_id = (await player.ok("/api/chat/room/create", ai_persona="GPT4O", title=TITLE))[
            "room"
        ]["room_id"]
        said: list[str] = []
        for how in ("stop", "kill", "kill both", "kill both again"):
            said.append(f"before {how} 🔥")
            await player.ok("/api/chat/message/send", room_id=room_id, content=said[-1])
            if how == "stop":
                assert deployment.server.stop() == 0
            else:
                deployment.server.kill()
                if "both" in how:
                    deployment.kill_cache()
                    deployment.start_cache()
            deployment.server.start()
            player.base_url = deployment.server.base_url
            page = await player.ok("/api/chat/messages", room_id=room_id, limit=100)
            assert [m["content"] for m in page["messages"] if m["sender_type"] == "USER"] == said
            assert [m["seq"] for m in page["messages"]] == list(range(1, 2 * len(said) + 1))
            assert all(
                m["metadata"]["finish_reason"] == "stop"
                for m in page["messages"]
                if m["sender_type"] == "AI"
            )
            assert (await player.ok("/api/chat/rooms"))["rooms"][0]["title"] == TITLE


async def _settled(player: Client, room_id: str) -> bool:
    page: dict[str, Any] = await player.ok("/api/chat/messages", room_id=room_id)
    rooms = await player.ok("/api/chat/rooms")
    return [m["state"] for m in page["messages"]] == ["SENT"] * 3 and rooms["rooms"][0][
        "state"
    ] == "ACTIVE"


def _shard_of(deployment: Deployment, account_id: str) -> int:
    """By the mapping table."""
    (account,) = deployment.global_rows(
        f"SELECT account_db_key FROM accounts WHERE account_id = '{account_id}'"
    )
    (mapped,) = deployment.global_rows(
        f"SELECT shard_id FROM account_shards WHERE account_db_key = {account['account_db_key']}"
    )
    return int(mapped["shard_id"])
