"""A Redis that comes back empty or older while a batch is on its way to MySQL (cases/faults.md
U3)."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.backends_mariadb import PreparedMariaDb
from tests.faults.commands import Command
from tests.faults.fault_proxy import Trap
from tests.faults.harness import ServerHarness
from tests.faults.shared_harness import SharedHarness, shared_harness
from tests.load_clients import Player, uuid7
from tests.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(180)]


def said() -> str:
    """A text that is unique."""
    return uuid.uuid4().hex


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def running_harness(prepared_mariadb: PreparedMariaDb) -> AsyncIterator[SharedHarness]:
    """Servers that wait for their database for as long as a test holds a batch: one that was given
    up is sent again, and is no late batch any more."""
    with (
        tempfile.TemporaryDirectory(prefix="f-") as folder,
        prepared_mariadb.running_copy() as backend,
    ):
        async with shared_harness(
            backend, Path(folder), "faults", DATABASECONFIG__TIMEOUT_S=PATIENCE_S
        ) as harness:
            yield harness


@pytest_asyncio.fixture(loop_scope="package")
async def player(harness: SharedHarness) -> AsyncIterator[Player]:
    """One with a new account, whose chat the test compares by itself."""
    player = harness.player(1, number=9)
    await player.sign_in()
    yield player
    harness.heal_proxies()
    await harness.settled()
    harness.provider.served.clear()


def is_batch(command: Command) -> bool:
    return command.name == "fp_chat_message_batch_save"


def hold_next_batch(harness: SharedHarness) -> list[Trap]:
    """The next batch of messages waits, of whichever server and shard."""
    return [
        proxy.trap("hold", is_batch) for server in harness.servers for proxy in server.databases
    ]


async def reached(traps: list[Trap]) -> Trap:
    """The trap that holds a batch; the others let everything through."""
    await until(lambda: any(trap.reached.is_set() for trap in traps), 30, "a batch is held")
    held = next(trap for trap in traps if trap.reached.is_set())
    for trap in traps:
        if trap is not held:
            trap.disarm()
    return held


async def lose(harness: SharedHarness, how: str, older: dict[str, bytes]) -> None:
    if how == "flushed":
        harness.ask_redis("FLUSHALL")
    elif how == "flushed twice":
        harness.ask_redis("FLUSHALL")
        harness.ask_redis("FLUSHALL")
    else:
        await harness.replace_redis(older if how == "older" else None)


async def ok(player: Player, path: str, **fields: Any) -> dict[str, Any]:
    """The answer, in the end: servers that lose their Redis answer 5003 for a moment, and sessions
    end."""
    while True:
        answer = await player.client.post(path, **fields)
        if answer["errorCode"] == 10000:
            await player.client.sign_in(player.name)
        elif answer["errorCode"] not in (1001, 5003):
            # A slow machine may not ask the AI in time: the messages are stored all the same.
            assert answer["errorCode"] in (0, 1020, 1021), answer
            return answer
        await asyncio.sleep(0.05)


async def new_room(player: Player) -> str:
    room = await ok(player, "/api/chat/room/create", ai_persona="GPT4O", title=said())
    return str(room["room"]["room_id"])


def stored(harness: ServerHarness, room_id: str) -> list[tuple[int, str, str]]:
    query = (
        "SELECT seq, message_id, content FROM chat_messages"
        f" WHERE room_id = '{room_id}' AND deleted = 0 ORDER BY seq"
    )
    return [
        (row["seq"], row["message_id"], row["content"])
        for shard in harness.shard_ids
        for row in harness.shard_rows(shard, query)
    ]


async def listed(player: Player, room_id: str) -> list[dict[str, Any]]:
    page = await ok(player, "/api/chat/messages", room_id=room_id, limit=100)
    assert not page.get("stale")
    return list(page["messages"])


async def same_as_stored(
    harness: SharedHarness, player: Player, room_id: str
) -> list[dict[str, Any]]:
    """The list, when Redis and MySQL agree about it."""

    async def agree() -> bool:
        messages = await listed(player, room_id)
        return [(m["seq"], m["message_id"], m["content"]) for m in messages] == stored(
            harness, room_id
        )

    await harness.settled()
    await until(agree, 30, "the list is what is stored")
    return await listed(player, room_id)


@pytest.mark.parametrize("how", ["flushed", "flushed twice", "older", "empty"])
@pytest.mark.parametrize("late", [False, True], ids=["before what came later", "after it"])
async def test_late_batch_and_later_messages_both_stay(
    harness: SharedHarness, player: Player, how: str, late: bool
) -> None:
    room_id = await new_room(player)
    await ok(player, "/api/chat/message/send", room_id=room_id, content=(first := said()))
    await harness.settled()
    older = harness.redis_files()
    traps = hold_next_batch(harness)
    x, ys = said(), [(said(), uuid7()) for _ in range(3)]
    await ok(player, "/api/chat/message/send", room_id=room_id, content=x)
    held = await reached(traps)
    await lose(harness, how, older)

    answers = {}
    if not late:
        traps = hold_next_batch(harness)
    for text, client_id in ys:
        answers[text] = await ok(
            player,
            "/api/chat/message/send",
            room_id=room_id,
            content=text,
            client_message_id=client_id,
        )
    if not late:
        later = await reached(traps)
        held.disarm()
        await until(
            lambda: x in [text for _, _, text in stored(harness, room_id)], 30, "X is in MySQL"
        )
        later.disarm()
    else:
        await until(
            lambda: ys[-1][0] in [text for _, _, text in stored(harness, room_id)],
            60,
            "Y is in MySQL",
        )
        held.disarm()
        await until(
            lambda: x in [text for _, _, text in stored(harness, room_id)], 30, "X is in MySQL"
        )

    messages = await same_as_stored(harness, player, room_id)
    assert harness.dead_letters() == []
    questions = [message["content"] for message in messages if message["sender_type"] == "USER"]
    assert sorted(questions) == sorted([first, x, *(text for text, _ in ys)])
    assert [text for text in questions if text != x] == [first, *(text for text, _ in ys)]
    for text, client_id in ys:
        question = next(message for message in messages if message["content"] == text)
        (reply,) = [
            each for each in messages if each["parent_message_id"] == question["message_id"]
        ]
        assert reply["seq"] == question["seq"] + 1
        # A repeat answers what was answered first.
        again = await ok(
            player,
            "/api/chat/message/send",
            room_id=room_id,
            content=text,
            client_message_id=client_id,
        )
        assert again["message"]["message_id"] == answers[text]["message"]["message_id"]
    # The room goes on, and is the same when it is read from MySQL alone.
    last = await ok(player, "/api/chat/message/send", room_id=room_id, content=said())
    assert last["user_message"]["seq"] == messages[-1]["seq"] + 1
    before = await same_as_stored(harness, player, room_id)
    harness.ask_redis("FLUSHALL")
    assert await listed(player, room_id) == before


async def test_repeat_of_a_send_whose_redis_was_lost_breaks_no_room(
    harness: SharedHarness, player: Player
) -> None:
    """Its client repeats the send that MySQL does not have yet: the same id twice, two messages, no
    dead letter."""
    room_id = await new_room(player)
    await ok(player, "/api/chat/message/send", room_id=room_id, content=said())
    await harness.settled()
    traps = hold_next_batch(harness)
    x = {"content": said(), "client_message_id": uuid7()}
    await ok(player, "/api/chat/message/send", room_id=room_id, **x)
    held = await reached(traps)
    harness.ask_redis("FLUSHALL")
    traps = hold_next_batch(harness)
    await ok(player, "/api/chat/message/send", room_id=room_id, **x)
    later = await reached(traps)
    held.disarm()
    await until(
        lambda: x["content"] in [text for _, _, text in stored(harness, room_id)],
        30,
        "X is in MySQL",
    )
    later.disarm()
    messages = await same_as_stored(harness, player, room_id)
    assert harness.dead_letters() == []
    assert [message["content"] for message in messages].count(x["content"]) == 2
    await ok(player, "/api/chat/message/send", room_id=room_id, content=x["content"] + " again")
    await same_as_stored(harness, player, room_id)
    assert harness.dead_letters() == []


async def test_rename_and_create_of_a_lost_redis_do_not_win(
    harness: SharedHarness, player: Player
) -> None:
    """A title that came to MySQL late does not replace a later one; a repeated create is another
    room, and works."""
    room_id = await new_room(player)
    await harness.settled()

    def is_title(command: Command) -> bool:
        return command.name in ("fp_chat_room_batch_update_title", "fp_chat_room_batch_create")

    proxies = [proxy for server in harness.servers for proxy in server.databases]
    traps = [proxy.trap("hold", is_title) for proxy in proxies]
    await ok(player, "/api/chat/room/update", room_id=room_id, new_title=said())
    held = await reached(traps)
    harness.ask_redis("FLUSHALL")
    await asyncio.sleep(0.6)  # titles count half seconds
    title = said()
    await ok(player, "/api/chat/room/update", room_id=room_id, new_title=title)
    held.disarm()
    await harness.settled()

    traps = [proxy.trap("hold", is_title) for proxy in proxies]
    create = {"ai_persona": "GPT4O", "title": said(), "client_request_id": str(uuid.uuid4())}
    lost = (await ok(player, "/api/chat/room/create", **create))["room"]["room_id"]
    held = await reached(traps)
    harness.ask_redis("FLUSHALL")
    traps = [proxy.trap("hold", is_title) for proxy in proxies]
    made = (await ok(player, "/api/chat/room/create", **create))["room"]["room_id"]
    await ok(player, "/api/chat/message/send", room_id=made, content=said())
    later = await reached(traps)
    held.disarm()

    async def both_listed() -> bool:
        rooms = (await ok(player, "/api/chat/rooms", limit=100))["rooms"]
        return {lost, made, room_id} <= {room["room_id"] for room in rooms}

    await until(lambda: stored_room(harness, lost), 30, "the lost room is in MySQL")
    later.disarm()
    await until(both_listed, 30, "both rooms are listed")
    await harness.settled()
    assert harness.dead_letters() == []
    rooms = (await ok(player, "/api/chat/rooms", limit=100))["rooms"]
    assert [room["title"] for room in rooms if room["room_id"] == room_id] == [title]


def stored_room(harness: SharedHarness, room_id: str) -> bool:
    query = f"SELECT 1 AS one FROM chat_rooms WHERE room_id = '{room_id}' AND deleted = 0"
    return any(harness.shard_rows(shard, query) for shard in harness.shard_ids)
