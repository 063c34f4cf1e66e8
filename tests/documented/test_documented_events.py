"""What else a host may put into chat_persistence: refused when it is sent, or a dead letter with a
reason."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from template.chat.common.chat_serialize import ChatRoomDeleteRequest

from base_server.template.chat.domain.events import QUEUE_NAME
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import PERSONA, ChatHarness, running_harness
from tests.documented.host_harness import HostHarness, hosted
from tests.openai_stub import OpenAIStub
from tests.waiting import PATIENCE_S

BAD_MESSAGES: dict[str, dict[str, Any]] = {
    "quote in the id": {"message_id": 'a"b'},
    "long id": {"message_id": "a" * 65},
    "number as id": {"message_id": 5},
    "no sender": {"sender_type": "ROBOT"},
    "sender is a list": {"sender_type": []},
    "NUL": {"content": "a\0b"},
    "content is a number": {"content": 5},
    "time is no time": {"timestamp": "yesterday"},
    "time out of range": {"timestamp": "0001-01-01T00:00:00+23:59"},
    "last year there is": {"timestamp": "9999-12-31T23:59:59.999+00:00"},
    "two days ahead": {"timestamp": (datetime.now(UTC) + timedelta(days=2)).isoformat()},
    "metadata is a list": {"metadata": [1]},
    "metadata is no JSON": {"metadata": "{"},
    "parent is an object": {"parent_message_id": {}},
}
BAD_PAYLOADS: list[tuple[dict[str, Any], str]] = [
    ({"message_data": None}, "message_data"),
    ({"message_data": "text"}, "message_data"),
    ({"account_db_key": "me"}, "account_db_key"),
    ({"account_db_key": None}, "account_db_key"),
    ({"account_db_key": 10**30}, "account_db_key"),
    ({"account_db_key": 1.5}, "account_db_key"),
    ({"account_id": []}, "account_id"),
    ({"shard_id": "first"}, "shard_id"),
    ({"shard_id": 99}, "shard_id"),
    ({"room_id": 5}, "room_id"),
]


async def loaded_room(chat: ChatHarness) -> tuple[Any, str]:
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id)
    return user, room.room_id


async def test_a_message_that_cannot_be_stored_is_refused_naming_the_field(
    host: HostHarness,
) -> None:
    """cases/promises.md P2."""
    user, room_id = await loaded_room(host.chat)
    await host.chat.persist()
    for name, bad in BAD_MESSAGES.items():
        (field,) = bad
        with pytest.raises(ValueError, match=rf"^CHAT_MESSAGE_SAVE: message_data\.{field} "):
            await host.save(user, room_id, **({"message_id": "m1"} | bad))
        assert await host.chat.backlog() == 0, name
    await host.save(user, room_id, str(uuid.uuid4()))
    await host.chat.persist()
    assert await host.dead() == []
    assert await host.chat.texts(user, room_id) == ["hello", "stub: hello", "안녕 🎉"]
    assert [row["seq"] for row in await host.rows(user, room_id)] == [1, 2, 3]


@pytest.mark.parametrize(
    "message", [{"content": "\ud800"}, {"metadata": {"a": float("nan")}}], ids=["surrogate", "NaN"]
)
async def test_what_is_no_json_is_refused_when_it_is_sent(
    host: HostHarness, message: dict[str, Any]
) -> None:
    user, room_id = await loaded_room(host.chat)
    with pytest.raises(ValueError, match=r"surrogates|JSON"):
        await host.save(user, room_id, "m1", **message)
    assert len(await host.chat.texts(user, room_id)) == 2


async def test_a_payload_that_cannot_be_understood_is_refused_naming_the_field(
    host: HostHarness,
) -> None:
    """cases/promises.md P2."""
    user, room_id = await loaded_room(host.chat)
    message_data = {"message_id": "m1", "sender_type": "USER", "content": "text"}
    for bad, field in BAD_PAYLOADS:
        good = {"type": "save_user_message", "room_id": room_id, "message_data": message_data}
        with pytest.raises(ValueError, match=rf"^(CHAT_MESSAGE_SAVE: (message_data\.)?)?{field} "):
            await host.enqueue(user, good | bad)
    await host.chat.persist()
    assert await host.dead() == []
    assert len(await host.rows(user, room_id)) == 2


async def test_a_save_of_an_unknown_kind_is_a_dead_letter_and_stops_nothing(
    host: HostHarness,
) -> None:
    user, room_id = await loaded_room(host.chat)
    message_data = {"message_id": "m1", "sender_type": "USER", "content": "text"}
    await host.enqueue(
        user, {"type": "save_everything", "room_id": room_id, "message_data": message_data}
    )
    await host.chat.persist()
    (dead,) = await host.dead()
    assert dead.reason == "unknown message type 'chat_save'"
    assert len(await host.rows(user, room_id)) == 2


@pytest.mark.parametrize(
    "payload", [{}, {"room_id": "room_123"}, {"anything": [1, 2]}], ids=["empty", "room", "other"]
)
async def test_an_event_of_an_unknown_type_is_a_dead_letter_with_the_reason(
    host: HostHarness, payload: dict[str, Any]
) -> None:
    user = await host.chat.user()
    await host.enqueue(user, payload, message_type="CHAT_ROOM_PAINT")
    await host.chat.persist()
    (dead,) = await host.dead()
    assert dead.reason == "unknown message type 'CHAT_ROOM_PAINT'"
    assert json.loads(dead.fields["payload"]).items() >= payload.items()


async def test_events_of_one_room_are_stored_in_the_order_they_were_sent(host: HostHarness) -> None:
    user = await host.chat.user()
    room_id = f"room_{uuid.uuid4().hex}"
    for number in range(30):
        await host.save(user, room_id, str(uuid.uuid4()), content=str(number))
    await host.chat.persist()
    assert [(row["seq"], row["content"]) for row in await host.rows(user, room_id)] == [
        (number + 1, str(number)) for number in range(30)
    ]


@pytest.mark.parametrize("room", ["loaded", "cold"])
async def test_an_event_of_one_account_for_the_room_of_another_reaches_nobody(
    host: HostHarness, room: str
) -> None:
    chat = host.chat
    user, room_id = await loaded_room(chat)
    others = [await chat.user(), await chat.user()]  # one on the same shard, one on the other
    if room == "cold":
        await chat.persist()
        await chat.redis.execute(
            "DEL", chat.keys.room(room_id).record, chat.keys.room(room_id).messages
        )
    for other in others:
        assert (await host.send(other, room_id, "mine now", PERSONA))["errorCode"] == 0
    await chat.persist()
    assert await chat.texts(user, room_id) == ["hello", "stub: hello"]
    for shard_id in (1, 2):
        expected = ["hello", "stub: hello"] if shard_id == user.session.shard_id else []
        live = await chat.container.database.call_shard_procedure(
            shard_id, "fp_chat_messages_get", (room_id, None, 10)
        )
        assert [row["content"] for row in reversed(live)] == expected
    await chat.send(user, room_id, "mine still")
    assert (await chat.messages(user, room_id)).messages[-1].seq == 4


async def test_an_event_in_the_stream_of_another_shard_is_a_dead_letter(host: HostHarness) -> None:
    """cases/promises.md P2: a process that did not know the streams put it there; nobody would find
    its row."""
    chat = host.chat
    user, room_id = await loaded_room(chat)
    await chat.persist()
    await chat.forget_everything()
    shard_id = user.session.shard_id
    message = {
        "message_id": str(uuid.uuid4()),
        "room_id": room_id,
        "sender_type": "USER",
        "content": "astray",
    }
    payload = {
        "account_db_key": user.session.account_db_key,
        "shard_id": shard_id,
        "message_data": message,
    }
    queue, astray = chat.container.queue, 3 - shard_id
    stream = queue.stream(
        QUEUE_NAME, chat.keys.account_partition(user.session.account_id), str(astray)
    ).key
    fields = {
        "id": "1",
        "type": "CHAT_MESSAGE_SAVE",
        "payload": json.dumps(payload),
        "at": "1764064800000",
    }
    fields |= {"priority": "2", "key": room_id}
    await chat.redis.execute(
        "XADD", stream, "*", *(text for field in fields.items() for text in field)
    )
    await chat.persist()
    (dead,) = await host.dead()
    assert dead.reason == f"CHAT_MESSAGE_SAVE: shard_id {shard_id} is not the stream's, {astray}"
    assert await host.rows(user, room_id, astray) == []
    await chat.send(user, room_id, "next")  # it holds up nothing


@pytest.mark.parametrize("first_is", ["written", "waiting"])
async def test_a_message_of_one_room_is_not_stored_in_another(
    host: HostHarness, first_is: str
) -> None:
    """cases/promises.md P2: it was shown until the next load, and a delete reached the wrong
    one."""
    chat = host.chat
    user, room_id = await loaded_room(chat)
    other = (await chat.room(user)).room_id
    message_id = str(uuid.uuid4())
    await host.save(user, room_id, message_id, content="first")
    if first_is == "written":
        await chat.persist()
    await host.save(user, other, message_id, content="second")
    await chat.persist()
    (dead,) = await host.dead()
    assert dead.reason == "CHAT_MESSAGE_SAVE: another room has a message of this id"
    for _ in range(2):
        assert await chat.texts(user, room_id) == ["hello", "stub: hello", "first"]
        assert await chat.texts(user, other) == []
        await chat.forget_everything()


async def test_a_message_pushed_without_its_event_does_not_make_a_room_unusable(
    host: HostHarness,
) -> None:
    chat = host.chat
    user, room_id = await loaded_room(chat)
    await chat.redis.list_push_right(
        f"messages:{room_id}", "pushed", '{"message_id": "m1", "content": "pushed"}'
    )
    page = await asyncio.wait_for(chat.messages(user, room_id), PATIENCE_S)
    assert [message.content for message in page.messages] == ["hello", "stub: hello"]
    await chat.send(user, room_id, "next")
    await chat.persist()
    assert [row["seq"] for row in await host.rows(user, room_id)] == [1, 2, 3, 4]


async def test_a_late_event_for_a_deleted_room_changes_nothing_that_can_be_seen(
    host: HostHarness,
) -> None:
    chat = host.chat
    user, room_id = await loaded_room(chat)
    await chat.template.on_chat_room_delete_req(user, ChatRoomDeleteRequest(room_id=room_id))
    await chat.persist()
    await host.save(user, room_id, str(uuid.uuid4()))
    await chat.persist()
    assert (await chat.try_messages(user, room_id)).errorCode == 1004
    assert await chat.rows(user, "fp_chat_rooms_get", user.session.account_db_key) == []


async def test_a_hosts_handler_can_store_the_reply_too(host: HostHarness) -> None:
    chat = host.chat
    user, room_id = await loaded_room(chat)
    question_id, reply_id = str(uuid.uuid4()), str(uuid.uuid4())
    await host.save(user, room_id, question_id, content="question")
    reply = {"message_id": reply_id, "room_id": room_id, "sender_type": "AI", "content": "reply"}
    reply |= {"parent_message_id": question_id, "metadata": {"model": "theirs"}}
    await host.enqueue(user, {"type": "save_ai_message", "message_data": reply})
    await chat.persist()
    last = (await chat.messages(user, room_id)).messages[-1]
    assert (last.seq, last.sender_type, last.content) == (4, "AI", "reply")
    assert (last.parent_message_id, last.metadata) == (question_id, {"model": "theirs"})
    await chat.send(user, room_id, "next")
    asked = [
        message["content"]
        for message in chat.provider.requests[-1].messages
        if message["role"] != "system"
    ]
    assert asked == ["hello", "stub: hello", "question", "reply", "next"]


async def test_room_with_pushed_messages_stays_usable_without_database(
    private_mariadb: DatabaseBackend, redis_server: RedisServer, app_id: str, provider: OpenAIStub
) -> None:
    """While the database is away a room with pushed messages stays usable."""
    async with running_harness(redis_server.settings(), private_mariadb, app_id, provider) as chat:
        with hosted(chat) as host:
            user, room_id = await loaded_room(chat)
            await chat.persist()
            assert private_mariadb.server is not None
            private_mariadb.server.kill()
            assert (await host.send(user, room_id, "theirs", PERSONA))["errorCode"] == 0
            # Fails: the stream rests from now on.
            await asyncio.wait_for(chat.template.parts.consumer.write_waiting(), PATIENCE_S)
            page = await asyncio.wait_for(chat.messages(user, room_id), PATIENCE_S)
            assert [message.content for message in page.messages] == ["hello", "stub: hello"]
            await asyncio.wait_for(chat.send(user, room_id, "ours"), PATIENCE_S)
            private_mariadb.server.start()
            await chat.persist()
            assert await chat.texts(user, room_id) == [
                "hello",
                "stub: hello",
                "ours",
                "stub: ours",
                "theirs",
            ]
            assert [row["seq"] for row in await host.rows(user, room_id)] == [1, 2, 3, 4, 5]
            assert await host.dead() == []
