"""cases/promises.md P2: the documented events, as a host sends them, take effect in list and row,
in our order."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from service.queue.message_queue import MessagePriority, QueueMessage
from service.queue.queue_service import QueueService
from template.base.client_session import ClientSession
from template.chat.chat_state_machine import MessageState, RoomState, get_chat_state_machine
from template.chat.common.chat_serialize import ChatRoomDeleteRequest, ChatRoomUpdateRequest

from base_server.template.chat.domain.events import QUEUE_NAME
from tests.chat_harness import PERSONA, ChatHarness
from tests.documented.host_harness import HostHarness

Prepare = Callable[[ChatHarness, ClientSession, str], Awaitable[None]]


def new_id() -> str:
    return str(uuid.uuid4())


async def send_event(user: ClientSession, kind: str, room_id: str, **fields: Any) -> None:
    session = user.session
    payload = {
        "room_id": room_id,
        "account_id": session.account_id,
        "account_db_key": session.account_db_key,
        "shard_id": session.shard_id,
    }
    payload = {name: value for name, value in (payload | fields).items() if value is not None}
    await QueueService.get_instance().send_message(QUEUE_NAME, payload, kind, 2, room_id)


async def create(user: ClientSession, room_id: str, **fields: Any) -> None:
    fields = {
        "title": "theirs",
        "ai_persona": PERSONA,
        "created_at": datetime.now().isoformat(),
    } | fields
    await send_event(user, "CHAT_ROOM_CREATE", room_id, **fields)


async def rename(chat: ChatHarness, user: ClientSession, room_id: str, title: str) -> None:
    request = ChatRoomUpdateRequest(room_id=room_id, new_title=title)
    assert (await chat.template.on_chat_room_update_req(user, request)).errorCode == 0


async def titles(chat: ChatHarness, user: ClientSession) -> dict[str, str]:
    return {room.room_id: room.title for room in (await chat.rooms(user)).rooms}


async def warm(chat: ChatHarness, user: ClientSession, room_id: str) -> None:
    await chat.rooms(user)


async def settled(chat: ChatHarness, user: ClientSession, room_id: str) -> None:
    await chat.persist()
    await chat.rooms(user)


async def cold_room(chat: ChatHarness, user: ClientSession, room_id: str) -> None:
    await settled(chat, user, room_id)
    room = chat.keys.room(room_id, chat.keys.account_partition(user.session.account_id))
    await chat.redis.execute("DEL", room.record, room.messages, room.json)


async def cold(chat: ChatHarness, user: ClientSession, room_id: str) -> None:
    await chat.persist()
    await chat.forget_everything()


CONDITIONS: dict[str, Prepare] = {
    "warm": warm,
    "settled": settled,
    "cold room": cold_room,
    "cold": cold,
}


@pytest.mark.parametrize("list_is", CONDITIONS)
async def test_a_hosts_room_is_listed_at_once_and_used_as_ours(
    host: HostHarness, list_is: str
) -> None:
    """cases/promises.md P2."""
    chat = host.chat
    user = await chat.user()
    ours = await chat.room(user, "ours")
    await CONDITIONS[list_is](chat, user, ours.room_id)
    theirs = new_id()
    await create(user, theirs)
    listed = await chat.rooms(user)
    assert ({room.room_id for room in listed.rooms}, listed.total_count) == (
        {ours.room_id, theirs},
        2,
    )
    assert (await chat.messages(user, theirs)).messages == []
    await create(user, theirs, title="another title")  # sent again
    assert (await titles(chat, user))[theirs] == "theirs"
    await chat.send(user, theirs, "hello")
    await chat.persist()
    message_id = new_id()
    await host.save(user, theirs, message_id, content="saved by them")
    await chat.persist()
    assert await chat.texts(user, theirs) == ["hello", "stub: hello", "saved by them"]
    await chat.send(user, theirs, "next")
    asked = [
        message["content"]
        for message in chat.provider.requests[-1].messages
        if message["role"] != "system"
    ]
    assert asked == ["hello", "stub: hello", "saved by them\n\nnext"]
    await chat.persist()
    for _ in range(2):
        assert [message.seq for message in (await chat.messages(user, theirs)).messages] == [
            1,
            2,
            3,
            4,
            5,
        ]
        rooms = {room.room_id: room for room in (await chat.rooms(user)).rooms}
        assert (rooms[theirs].title, rooms[theirs].message_count, rooms[theirs].ai_persona) == (
            "theirs",
            5,
            PERSONA,
        )
        (row,) = await chat.rows(user, "fp_chat_room_get", theirs)
        assert (row["title"], row["message_count"], row["last_seq"]) == ("theirs", 5, 5)
        await chat.forget_everything()
    await send_event(user, "CHAT_MESSAGE_DELETE", theirs, message_id=message_id)
    assert "saved by them" not in await chat.texts(user, theirs)
    await send_event(user, "CHAT_ROOM_DELETE", theirs)
    assert set(await titles(chat, user)) == {ours.room_id}
    await create(user, theirs)  # late: a delete wins
    await host.save(user, theirs, new_id())
    await chat.persist()
    for _ in range(2):
        assert set(await titles(chat, user)) == {ours.room_id}
        assert (await chat.try_messages(user, theirs)).errorCode == 1004
        assert (await chat.try_send(user, theirs)).errorCode == 1004
        await chat.forget_everything()
    assert await host.dead() == []


@pytest.mark.parametrize("is_written", [True, False], ids=["written", "waiting"])
async def test_a_room_that_anothers_messages_await_is_theirs(
    host: HostHarness, is_written: bool
) -> None:
    """cases/promises.md G6: nobody else creates it, deletes it or adds to it."""
    chat = host.chat
    user, other = await chat.user(), await chat.user()
    while other.session.shard_id != user.session.shard_id:
        other = await chat.user()
    room_id = new_id()
    await host.save(user, room_id, new_id(), content="theirs alone")
    if is_written:
        await chat.persist()
    with pytest.raises(ValueError, match=r"no room of account_db_key|not the owner of room"):
        await create(other, room_id)
    await chat.persist()
    with pytest.raises(ValueError, match=r"no room of account_db_key"):
        await send_event(other, "CHAT_ROOM_DELETE", room_id)
    await host.save(other, room_id, new_id(), content="slipped in")
    await chat.persist()
    assert await titles(chat, other) == {}
    await create(user, room_id)
    for _ in range(2):
        assert await titles(chat, user) == {room_id: "theirs"}
        assert await chat.texts(user, room_id) == ["theirs alone"]
        assert (await chat.try_messages(other, room_id)).errorCode == 1004
        await chat.persist()
        await chat.forget_everything()


async def test_a_delete_never_reaches_a_room_that_another_awaits(host: HostHarness) -> None:
    """cases/promises.md G6: in the partition that the id is hashed to, the room's state is the
    account's own."""
    chat = host.chat
    user, other = await chat.user(), await chat.user()
    while other.session.shard_id != user.session.shard_id:
        other = await chat.user()
    room_id = new_id()
    while chat.redis.partitions.of_id(room_id) != chat.keys.account_partition(
        user.session.account_id
    ):
        room_id = new_id()
    await host.save(user, room_id, new_id())
    await chat.persist()
    with pytest.raises(ValueError, match=r"no room of account_db_key"):
        await send_event(other, "CHAT_ROOM_DELETE", room_id)
    await chat.persist()
    await create(user, room_id)
    assert await titles(chat, user) == {room_id: "theirs"}


@pytest.mark.parametrize("list_is", ["loaded", "cold"])
async def test_a_create_with_the_number_of_another_is_refused(
    host: HostHarness, list_is: str
) -> None:
    """cases/promises.md P2: the room would be one account's in its row and another's in its
    list."""
    chat = host.chat
    user, other = await chat.user(), await chat.user()
    while other.session.shard_id != user.session.shard_id:
        other = await chat.user()
    if list_is == "loaded":
        await chat.rooms(user)
    with pytest.raises(ValueError, match=r"account_id .* is not account_db_key"):
        await create(user, new_id(), account_db_key=other.session.account_db_key)
    assert (await titles(chat, user), await titles(chat, other)) == ({}, {})


async def test_states_of_a_hosts_room_are_found_by_its_id(host: HostHarness) -> None:
    """cases/promises.md P1 and P2: the document drives the states of the room that it creates."""
    chat, states = host.chat, get_chat_state_machine()
    for with_account in (True, False):
        user = await chat.user()
        room_id = new_id()
        await chat.rooms(user)
        for step in (RoomState.CREATING, RoomState.PENDING):
            assert await states.transition_room(room_id, step)
        await create(user, room_id, **({} if with_account else {"account_id": None}))
        assert await states.get_room_state(room_id) is RoomState.PENDING
        await chat.persist()
        assert await states.get_room_state(room_id) is RoomState.ACTIVE
        assert await states.transition_room(room_id, RoomState.DELETING)
        assert (await chat.rooms(user)).total_count == 0
        await chat.persist()
        assert await states.get_room_state(room_id) is RoomState.DELETED
        await chat.forget_everything()
        assert (await chat.rooms(user)).total_count == 0


@pytest.mark.parametrize("room_is", CONDITIONS)
async def test_titles_of_a_host_and_ours_win_in_the_order_they_came(
    host: HostHarness, room_is: str
) -> None:
    """cases/promises.md P2."""
    chat = host.chat
    user = await chat.user()
    for order in (
        ["ours", "theirs"],
        ["ours", "theirs", "ours again"],
        ["theirs", "ours", "theirs again"],
    ):
        room = await chat.room(user, "first")
        await CONDITIONS[room_is](chat, user, room.room_id)
        for title in order:
            if title.startswith("ours"):
                await rename(chat, user, room.room_id, title)
            else:
                with_account = {} if title == "theirs" else {"account_id": None}
                await send_event(
                    user, "CHAT_ROOM_UPDATE", room.room_id, title=title, **with_account
                )
            assert (await titles(chat, user))[room.room_id] == title
        for _ in range(2):
            await chat.persist()
            (row,) = await chat.rows(user, "fp_chat_room_get", room.room_id)
            assert row["title"] == order[-1]
            await chat.forget_everything()
            assert (await titles(chat, user))[room.room_id] == order[-1]
    assert await host.dead() == []


async def test_an_event_sent_again_changes_nothing(host: HostHarness) -> None:
    """cases/promises.md P2: delivery is at least once."""
    chat = host.chat
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id)
    session = user.session
    base = {"account_id": session.account_id, "account_db_key": str(session.account_db_key)}
    base |= {"shard_id": str(session.shard_id), "room_id": room.room_id, "message_count": "2"}
    update = QueueMessage(
        QUEUE_NAME,
        base | {"title": "theirs"},
        "CHAT_ROOM_UPDATE",
        MessagePriority.HIGH,
        room.room_id,
        message_id=new_id(),
    )
    queue = QueueService.get_instance()
    await queue.send_message(update)
    await rename(chat, user, room.room_id, "ours")
    await queue.send_message(update)
    assert (await titles(chat, user))[room.room_id] == "ours"
    question = (await chat.messages(user, room.room_id)).messages[0]
    for _ in range(2):
        await queue.send_message(
            QUEUE_NAME, base | {"message_id": question.message_id}, "CHAT_MESSAGE_DELETE", 1
        )
    assert await chat.texts(user, room.room_id) == ["stub: hello"]
    assert (await chat.rooms(user)).rooms[0].message_count == 1
    for _ in range(2):
        await queue.send_message(QUEUE_NAME, base, "CHAT_ROOM_DELETE", 4)
    assert (await chat.rooms(user)).rooms == []
    await chat.persist()
    assert await host.dead() == []
    (row,) = await chat.rows(user, "fp_chat_room_get", room.room_id)
    assert (row["deleted"], row["message_count"]) == (1, 1)


async def test_a_message_of_a_host_is_deleted_before_and_after_it_was_read(
    host: HostHarness,
) -> None:
    """cases/promises.md P2."""
    chat = host.chat
    user = await chat.user()
    room_ids = [(await chat.room(user)).room_id, new_id()]  # the second has messages and no row
    for room_id in room_ids:
        for read_first in (False, True):
            message_id = new_id()
            await get_chat_state_machine().transition_message(message_id, MessageState.PENDING)
            await host.save(user, room_id, message_id)
            if read_first:
                await chat.persist()
            await send_event(user, "CHAT_MESSAGE_DELETE", room_id, message_id=message_id)
            await chat.persist()
            row = next(
                row for row in await host.rows(user, room_id) if row["message_id"] == message_id
            )
            assert row["deleted"]
            assert await chat.state(message_id) == "DELETED"
    assert await chat.texts(user, room_ids[0]) == []
    assert await host.dead() == []


async def test_messages_saved_before_their_room_are_in_it(host: HostHarness) -> None:
    """cases/promises.md P2."""
    chat = host.chat
    user = await chat.user()
    await chat.rooms(user)
    for written in (False, True):
        room_id = new_id()
        await host.save(user, room_id, new_id(), content="early")
        if written:
            await chat.persist()
        await create(user, room_id)
        assert room_id in await titles(chat, user)
        await chat.persist()
        assert await chat.texts(user, room_id) == ["early"]
        await chat.send(user, room_id, "hello")
        await chat.persist()
        await chat.forget_everything()
        assert await chat.texts(user, room_id) == ["early", "hello", "stub: hello"]
    assert await host.dead() == []


GOOD: dict[str, dict[str, Any]] = {
    "CHAT_ROOM_CREATE": {"ai_persona": PERSONA, "title": "t"},
    "CHAT_ROOM_UPDATE": {"title": "t"},
    "CHAT_ROOM_DELETE": {},
    "CHAT_MESSAGE_DELETE": {"message_id": "m1"},
}
BAD: list[tuple[str, dict[str, Any], str]] = [
    *((kind, {"room_id": None}, "room_id is missing") for kind in GOOD),
    *((kind, {"room_id": 'a"b'}, "room_id .* is no id") for kind in GOOD),
    *((kind, {"account_db_key": None}, "account_db_key is missing") for kind in GOOD),
    *((kind, {"account_db_key": True}, "account_db_key is no whole number") for kind in GOOD),
    *((kind, {"account_id": 5}, "account_id is no text") for kind in GOOD),
    *((kind, {"shard_id": 77}, "shard_id 77 is no shard") for kind in GOOD),
    ("CHAT_ROOM_CREATE", {"ai_persona": None}, "ai_persona is missing"),
    ("CHAT_ROOM_CREATE", {"title": "x" * 201}, "title is longer than 200 characters"),
    ("CHAT_ROOM_CREATE", {"created_at": "yesterday"}, "created_at 'yesterday' is no ISO 8601 time"),
    (
        "CHAT_ROOM_CREATE",
        {"created_at": "9999-12-31T23:59:59.999"},
        "created_at '9999.*' is more than one day in",
    ),
    ("CHAT_ROOM_UPDATE", {"title": None}, "title is missing"),
    ("CHAT_ROOM_UPDATE", {"title": " "}, "title is blank"),
    ("CHAT_ROOM_UPDATE", {"title": "x" * 201}, "title is longer than 200 characters"),
    ("CHAT_ROOM_UPDATE", {"title": 5}, "title 5 is no text"),
    ("CHAT_MESSAGE_DELETE", {"message_id": None}, "message_id is missing"),
    ("CHAT_MESSAGE_DELETE", {"message_id": "unknown"}, "message_id unknown is no message in room"),
]


async def test_what_cannot_be_understood_is_refused_naming_the_field(host: HostHarness) -> None:
    """cases/promises.md P2."""
    chat = host.chat
    user, other = await chat.user(), await chat.user()
    while chat.keys.account_partition(other.session.account_id) == chat.keys.account_partition(
        user.session.account_id
    ):
        other = await chat.user()
    room = await chat.room(user, "ours")
    await chat.send(user, room.room_id)
    for kind, bad, reason in BAD:
        with pytest.raises(ValueError, match=f"^({kind}: )?{reason}"):
            await send_event(user, kind, **({"room_id": room.room_id} | GOOD[kind] | bad))
    for kind in ("CHAT_ROOM_UPDATE", "CHAT_ROOM_DELETE", "CHAT_MESSAGE_DELETE", "CHAT_ROOM_CREATE"):
        for condition in CONDITIONS.values():
            await condition(chat, user, room.room_id)
            with pytest.raises(ValueError, match=r"account_db_key|no room"):
                await send_event(other, kind, room.room_id, **GOOD[kind])
    with pytest.raises(ValueError, match=r"room_id .* is no room of account_db_key"):
        await send_event(user, "CHAT_ROOM_UPDATE", new_id(), title="t")
    await chat.persist()
    assert await host.dead() == []
    assert await titles(chat, user) == {room.room_id: "ours"}
    assert len((await chat.messages(user, room.room_id)).messages) == 2


async def test_a_delete_for_a_room_that_comes_later_wins(host: HostHarness) -> None:
    chat = host.chat
    user = await chat.user()
    room_id = new_id()
    await send_event(user, "CHAT_ROOM_DELETE", room_id)
    await chat.persist()
    await create(user, room_id)
    assert (await chat.rooms(user)).total_count == 0
    await chat.persist()
    assert await chat.template.on_chat_room_delete_req(user, ChatRoomDeleteRequest(room_id=room_id))
    assert (await chat.rooms(user)).total_count == 0
    assert await host.dead() == []


async def test_a_hosts_time_is_the_rooms_and_counts_as_its_activity(host: HostHarness) -> None:
    chat = host.chat
    user = await chat.user()
    room_id = new_id()
    await create(user, room_id, created_at="2026-01-02T03:04:05.678Z")
    newer = await chat.room(user)
    for _ in range(2):
        rooms = (await chat.rooms(user)).rooms
        assert [room.room_id for room in rooms] == [newer.room_id, room_id]
        assert datetime.fromisoformat(str(rooms[1].created_at)) == datetime(
            2026, 1, 2, 3, 4, 5, 678000, UTC
        )
        assert rooms[1].created_at == rooms[1].last_message_at
        await chat.persist()
        await chat.forget_everything()


async def test_an_id_that_is_nobodys_leaves_nothing_behind(host: HostHarness) -> None:
    chat = host.chat
    user, other = await chat.user(), await chat.user()
    theirs = new_id()
    await create(other, theirs)
    await chat.persist()
    await chat.forget_everything()
    await chat.rooms(user)
    before = set(await chat.redis.scan(f"{chat.container.settings.app_id}:*"))
    for room_id in [theirs, *(new_id() for _ in range(5)), "room_123"]:
        assert (await chat.try_messages(user, room_id)).errorCode == 1004
        assert (await chat.try_send(user, room_id)).errorCode == 1004
    after = set(await chat.redis.scan(f"{chat.container.settings.app_id}:*"))
    assert [name for name in after - before if "room_home" in name] == []
    assert await chat.texts(other, theirs) == []


async def user_on_shard(chat: ChatHarness, shard_id: int) -> ClientSession:
    while (user := await chat.user()).session.shard_id != shard_id:
        pass
    return user


@pytest.mark.parametrize("shard_id", [None, 0, "0"])
async def test_an_event_without_a_shard_goes_to_the_accounts_shard(
    host: HostHarness, shard_id: object
) -> None:
    """cases/promises.md P2, G2: the mapping table is asked before the default shard is taken."""
    chat = host.chat
    user = await user_on_shard(chat, 2)
    ours, theirs, early = (await chat.room(user, "ours")).room_id, new_id(), new_id()
    for condition in CONDITIONS.values():
        await condition(chat, user, ours)
        await create(user, theirs, shard_id=shard_id)
        assert set(await titles(chat, user)) == {ours, theirs}
        await send_event(user, "CHAT_ROOM_UPDATE", ours, title="named", shard_id=shard_id)
        assert (await titles(chat, user))[ours] == "named"
    for room_id in (ours, early):
        saved = {
            "message_id": new_id(),
            "room_id": room_id,
            "sender_type": "USER",
            "content": "saved",
        }
        await host.enqueue(
            user, {"type": "save_user_message", "message_data": saved, "shard_id": shard_id}
        )
    await chat.persist()
    assert await host.rows(user, ours, shard_id=1) == await host.rows(user, early, shard_id=1) == []
    assert await chat.texts(user, ours) == ["saved"]
    assert len(await host.rows(user, early)) == 1
    await chat.forget_everything()
    assert set(await titles(chat, user)) == {ours, theirs}
    assert await host.dead() == []


async def test_an_event_with_another_accounts_shard_is_refused(host: HostHarness) -> None:
    """cases/promises.md P2: a wrong shard that exists."""
    chat = host.chat
    user = await user_on_shard(chat, 2)
    room = await chat.room(user, "ours")
    for condition in CONDITIONS.values():
        await condition(chat, user, room.room_id)
        for kind, fields in GOOD.items():
            for room_id in (room.room_id, new_id()):
                with pytest.raises(
                    ValueError, match="shard_id 1 is not the shard of account_db_key"
                ):
                    await send_event(user, kind, room_id, **fields, shard_id=1)
        saved = {
            "message_id": new_id(),
            "room_id": room.room_id,
            "sender_type": "USER",
            "content": "saved",
        }
        with pytest.raises(ValueError, match="shard_id 1 is not the shard of account_db_key"):
            await host.enqueue(
                user, {"type": "save_user_message", "message_data": saved, "shard_id": 1}
            )
    assert await titles(chat, user) == {room.room_id: "ours"}


async def test_hosts_room_without_noted_partition_is_deleted_and_saved(
    host: HostHarness,
) -> None:
    """cases/promises.md P1, G1, G5."""
    chat, partitions = host.chat, host.chat.redis.partitions
    user = await chat.user()
    home = chat.keys.account_partition(user.session.account_id)
    for is_cold in (False, True):
        while partitions.of_id(room_id := new_id()) == home:
            pass
        await create(user, room_id)
        note = chat.keys.of_id(room_id).room_home(room_id)
        assert await chat.redis.execute("TTL", note) == -1
        await host.save(user, room_id, new_id(), content="saved")
        await chat.redis.execute("DEL", note)
        await chat.persist()
        assert [row["content"] for row in await host.rows(user, room_id)] == ["saved"]
        if is_cold:
            await cold_room(chat, user, room_id)
            await chat.redis.execute("DEL", note)
        assert await get_chat_state_machine().transition_room(room_id, RoomState.DELETING)
        assert (await chat.rooms(user)).total_count == 0
        await chat.persist()
        (row,) = await chat.rows(user, "fp_chat_room_get", room_id)
        assert row["deleted"] == 1
    assert await host.dead() == []
