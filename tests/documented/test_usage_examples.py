"""The usage examples of the user's document, run as they stand there."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from service.db.db_settings import DatabaseSettings
from template.chat.chat_state_machine import MessageState, RoomState, get_chat_state_machine
from template.chat.common.chat_serialize import ChatRoomDeleteRequest

from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import PERSONA, ChatHarness, running_harness
from tests.documented.host_harness import HostHarness, hosted
from tests.documented.host_template import manage_chat_state
from tests.openai_stub import OpenAIStub, Reply, refuse_unlike_roles
from tests.waiting import PATIENCE_S, until

TEXT = '안녕하세요 👩‍👩‍👧‍👦 "quoted" \\ \r\n\t{x}'


async def forget(chat: ChatHarness) -> None:
    """Everything that expires has expired."""
    names = await chat.redis._client.keys(f"{chat.container.settings.app_id}:*")
    expiring = [name for name in names if await chat.redis._client.pttl(name) >= 0]
    if expiring:
        await chat.redis._client.delete(*expiring)


async def test_the_list_example_shows_what_our_handlers_made(host: HostHarness) -> None:
    chat = host.chat
    user = await chat.user()
    kept, gone = await chat.room(user, title="제목 🙂"), await chat.room(user)
    await chat.send(user, kept.room_id)
    await chat.template.on_chat_room_delete_req(user, ChatRoomDeleteRequest(room_id=gone.room_id))
    listed = await host.list_rooms(user)
    assert (listed["errorCode"], listed["total_count"]) == (0, 1)
    (room,) = listed["rooms"]
    ours = (await chat.rooms(user)).rooms[0].model_dump(mode="json")
    assert room == ours | {"state": None}
    assert (room["room_id"], room["title"], room["message_count"]) == (kept.room_id, "제목 🙂", 2)


async def test_the_list_example_reads_the_database_when_redis_has_forgotten(
    host: HostHarness,
) -> None:
    chat = host.chat
    user = await chat.user()
    rooms = [await chat.room(user, title=f"방 {number}") for number in range(3)]
    await chat.send(user, rooms[0].room_id)
    before = {room["room_id"]: room for room in (await host.list_rooms(user))["rooms"]}
    await chat.persist()
    await forget(chat)
    calls = chat.container.database.calls
    after = {room["room_id"]: room for room in (await host.list_rooms(user))["rooms"]}
    assert chat.container.database.calls == calls + 1
    assert after == before
    assert set(after) == {room.room_id for room in rooms}


async def test_the_list_example_knows_nothing_of_others(host: HostHarness) -> None:
    user, other = await host.chat.user(), await host.chat.user()
    await host.chat.room(other)
    assert (await host.list_rooms(user))["rooms"] == []


async def test_the_send_example_ends_as_a_row_of_the_accounts_shard(host: HostHarness) -> None:
    chat = host.chat
    users = [await chat.user(), await chat.user()]
    assert {user.session.shard_id for user in users} == {1, 2}
    for user in users:
        room_id = f"room_{uuid.uuid4().hex}"
        began = datetime.now(UTC)
        response = await host.send(user, room_id, TEXT, PERSONA)
        assert (response["errorCode"], response["message"]["content"]) == (0, TEXT)
        message_id = response["message"]["message_id"]
        assert abs(datetime.fromisoformat(response["message"]["timestamp"]) - began) < timedelta(
            seconds=30
        )
        assert await chat.state(message_id) == "PENDING"
        await chat.persist()
        (row,) = await host.rows(user, room_id)
        assert (row["message_id"], row["seq"], row["content"], row["sender_type"]) == (
            message_id,
            1,
            TEXT,
            "USER",
        )
        assert row["metadata"] == f'{{"ai_persona":"{PERSONA}"}}'
        assert (
            row["created_at"].isoformat(timespec="milliseconds") == response["message"]["timestamp"]
        )
        assert await host.rows(user, room_id, shard_id=3 - user.session.shard_id) == []
        assert await chat.state(message_id) == "SENT"
        steps = [state for state, _ in await get_chat_state_machine().get_message_log(message_id)]
        assert steps == ["PENDING", "PROCESSING", "SENT"]
    assert await host.dead() == []


async def test_the_send_example_asks_the_persona_about_the_rooms_conversation(
    host: HostHarness,
) -> None:
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "first")
    await host.send(user, room.room_id, "second", PERSONA)
    asked = [
        message["content"]
        for message in chat.provider.requests[-1].messages
        if message["role"] != "system"
    ]
    assert asked == ["first", "stub: first", "second"]


async def test_send_example_knows_the_conversation_redis_forgot(
    host: HostHarness,
) -> None:
    """The send example knows the conversation after Redis has forgotten it."""
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "first")
    await chat.persist()
    await forget(chat)
    await host.send(user, room.room_id, "second", PERSONA)
    asked = [
        message["content"]
        for message in chat.provider.requests[-1].messages
        if message["role"] != "system"
    ]
    assert asked == ["first", "stub: first", "second"]


@pytest.mark.parametrize("room", ["unknown", "cold", "loaded"])
@pytest.mark.parametrize("apart", ["one batch", "two batches"])
async def test_an_event_sent_twice_is_stored_once(host: HostHarness, room: str, apart: str) -> None:
    chat = host.chat
    user = await chat.user()
    room_id, before = f"room_{uuid.uuid4().hex}", 0
    if room != "unknown":
        room_id, before = (await chat.room(user)).room_id, 2
        await chat.send(user, room_id)
        await chat.persist()
        if room == "cold":
            await forget(chat)
    message_id = str(uuid.uuid4())
    await host.save(user, room_id, message_id)
    if apart == "two batches":
        await chat.persist()
        if room == "loaded":
            assert (await chat.texts(user, room_id))[-1] == "안녕 🎉"
    await host.save(user, room_id, message_id, content="another text")
    await chat.persist()
    rows = await host.rows(user, room_id)
    assert [row["seq"] for row in rows] == list(range(1, before + 2))
    assert (rows[-1]["message_id"], rows[-1]["content"]) == (message_id, "안녕 🎉")
    assert await host.dead() == []
    if room != "unknown":
        for _ in range(2):
            page = await chat.messages(user, room_id)
            assert [message.seq for message in page.messages] == [1, 2, 3]
            assert [message.content for message in page.messages] == [
                "hello",
                "stub: hello",
                "안녕 🎉",
            ]
            (listed,) = (await chat.rooms(user)).rooms
            assert listed.message_count == 3
            await forget(chat)


async def test_repeated_event_of_a_trimmed_message_changes_nothing(
    backends: object, host: HostHarness
) -> None:
    """An event that comes again after its message left the window changes nothing."""
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    message_id = str(uuid.uuid4())
    await host.save(user, room.room_id, message_id)
    await chat.persist()
    for number in range(3):
        await chat.send(user, room.room_id, f"{number}")
    await chat.persist()
    # The window's oldest entry is trimmed away as the settle script does it.
    keys, redis = chat.keys, chat.redis
    record, messages = keys.room(room.room_id).record, keys.room(room.room_id).messages
    await redis.execute("LPOP", messages)
    await redis.execute("HINCRBY", record, "len", -1)
    await redis.execute("HSET", record, "floor", 2, "older", "1")
    assert len(await chat.texts(user, room.room_id)) == 7
    await host.save(user, room.room_id, message_id)
    await chat.persist()
    assert [message.seq for message in (await chat.messages(user, room.room_id)).messages] == list(
        range(1, 8)
    )
    assert [row["seq"] for row in await host.rows(user, room.room_id)] == list(range(1, 8))


async def test_send_example_in_loaded_room_shows_its_message_once(
    host: HostHarness,
) -> None:
    """The send example in a loaded room shows its message once and keeps the numbers."""
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    for number in range(3):
        await chat.send(user, room.room_id, f"ours {number}")
        assert (await host.send(user, room.room_id, f"theirs {number}", PERSONA))["errorCode"] == 0
        assert (await chat.messages(user, room.room_id)).errorCode == 0
    await chat.persist()
    expected = [text for n in range(3) for text in (f"ours {n}", f"stub: ours {n}", f"theirs {n}")]
    for _ in range(2):
        page = await chat.messages(user, room.room_id)
        assert sorted(message.content for message in page.messages) == sorted(expected)
        assert [message.seq for message in page.messages] == list(range(1, 10))
        assert {message.state for message in page.messages} == {"SENT"}
        await forget(chat)
    rows = await host.rows(user, room.room_id)
    assert [(row["seq"], row["content"]) for row in rows] == [
        (m.seq, m.content) for m in page.messages
    ]
    assert await host.dead() == []


async def test_the_send_example_while_a_reply_of_ours_runs_disturbs_neither(
    host: HostHarness,
) -> None:
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["a", "b", "c"], delay_s=0.2))
    running = asyncio.create_task(chat.send(user, room.room_id, "ours"))
    await until(lambda: chat.provider.calls == 1)
    assert (await host.send(user, room.room_id, "theirs", PERSONA))["errorCode"] == 0
    # Reading does not wait for the reply's end.
    during = await asyncio.wait_for(chat.messages(user, room.room_id), PATIENCE_S)
    assert [message.content for message in during.messages][:1] == ["ours"]
    assert not running.done()
    await chat.persist()
    assert not running.done()
    assert "theirs" in await chat.texts(user, room.room_id)
    await running
    await chat.persist()
    for _ in range(2):
        page = await chat.messages(user, room.room_id)
        assert [(message.seq, message.content) for message in page.messages] == [
            (1, "ours"),
            (2, "abc"),
            (3, "theirs"),
        ]
        await forget(chat)
    assert [row["content"] for row in await host.rows(user, room.room_id)] == [
        "ours",
        "abc",
        "theirs",
    ]
    assert await host.dead() == []


async def test_many_send_examples_and_ours_at_once_are_all_stored_without_gaps(
    host: HostHarness,
) -> None:
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    ours = [chat.try_send(user, room.room_id, f"ours {number}") for number in range(4)]
    theirs = [host.send(user, room.room_id, f"theirs {number}", PERSONA) for number in range(4)]
    writing = asyncio.gather(*ours, *theirs)
    while not writing.done():
        await chat.template.parts.consumer.write_waiting()
        await asyncio.sleep(0.01)
    answers = await writing
    assert [answer.errorCode for answer in answers[:4]] == [0] * 4
    assert [answer["errorCode"] for answer in answers[4:]] == [0] * 4
    await chat.persist()
    rows = await host.rows(user, room.room_id)
    assert [row["seq"] for row in rows] == list(range(1, 13))
    page = await chat.messages(user, room.room_id)
    assert [message.content for message in page.messages] == [row["content"] for row in rows]
    assert await host.dead() == []


async def test_a_message_of_the_send_example_can_be_deleted_for_good(host: HostHarness) -> None:
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    message_id = (await host.send(user, room.room_id, "theirs", PERSONA))["message"]["message_id"]
    await chat.persist()
    assert await chat.delete_message(user, room.room_id, message_id) == 0
    assert await chat.texts(user, room.room_id) == []
    await chat.persist()
    await host.save(user, room.room_id, message_id)
    await chat.persist()
    assert await chat.texts(user, room.room_id) == []
    (row,) = await host.rows(user, room.room_id)
    assert row["deleted"]
    keys = await chat.redis._client.keys(f"*msg_state:{message_id}")
    assert [await chat.redis._client.pttl(key) > 0 for key in keys] == [True] * len(keys), (
        "a state that never expires"
    )
    assert await chat.state(message_id) == "DELETED"


async def test_an_event_for_a_deleted_room_brings_nothing_back(host: HostHarness) -> None:
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    await chat.template.on_chat_room_delete_req(user, ChatRoomDeleteRequest(room_id=room.room_id))
    await host.send(user, room.room_id, "late", PERSONA)
    await chat.persist()
    assert (await chat.rooms(user)).rooms == []
    assert (await host.list_rooms(user))["rooms"] == []
    assert (await chat.try_messages(user, room.room_id)).errorCode == 1004
    await forget(chat)
    assert (await chat.rooms(user)).rooms == []
    assert (await chat.try_messages(user, room.room_id)).errorCode == 1004


async def test_the_state_example_runs_and_says_where_everything_ended(host: HostHarness) -> None:
    for _ in range(2):  # repeated, every step is refused and nothing is raised
        await manage_chat_state()
    states = get_chat_state_machine()
    assert await states.get_room_state("room_123") is RoomState.ACTIVE
    assert await states.get_message_state("msg_456") is MessageState.SENT


async def test_without_redis_list_reads_the_database_and_send_is_1001(
    private_server: RedisServer, tmp_path: Path, app_id: str, provider: OpenAIStub
) -> None:
    """Without Redis the list example reads the database and the send example says 1001."""
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with running_harness(
        private_server.settings(timeout_s=1), database, app_id, provider
    ) as chat:
        with hosted(chat) as host:
            user = await chat.user()
            room = await chat.room(user)
            await chat.send(user, room.room_id)
            await chat.persist()
            before = await host.list_rooms(user)
            private_server.kill()
            assert await host.list_rooms(user) == before
            assert (await host.send(user, room.room_id, "lost", PERSONA))["errorCode"] == 1001
            private_server.start()
            assert await chat.texts(user, room.room_id) == ["hello", "stub: hello"]


async def test_prompt_with_entries_pushed_by_a_host_is_what_every_provider_takes(
    host: HostHarness,
) -> None:
    """cases/providers.md V1: senders of any spelling, two in a row, and one that no model knows."""
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "first")
    pushed = [
        ("assistant", "a"),
        ("ai", "b"),
        ("user", "c"),
        ("USER", "d"),
        ("BOT", "e"),
        ("SYSTEM", "f"),
        ("AI", ""),
    ]
    for sender, content in pushed:
        entry = json.dumps(
            {"message_id": str(uuid.uuid4()), "sender_type": sender, "content": content}
        )
        await chat.redis.execute("RPUSH", chat.keys.room(room.room_id).messages, entry)
    chat.provider.refuse = refuse_unlike_roles
    response = await host.send(user, room.room_id, "now", PERSONA)
    assert response["errorCode"] == 0
    asked = [
        (message["role"], message["content"]) for message in chat.provider.requests[-1].messages
    ]
    assert asked[-3:] == [
        ("user", "first"),
        ("assistant", "stub: first\n\na\n\nb"),
        ("user", "c\n\nd\n\nnow"),
    ]
    assert asked[0][0] == "system"
    assert asked[0][1].endswith("f")
