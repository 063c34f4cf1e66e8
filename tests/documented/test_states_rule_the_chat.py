"""cases/promises.md P1: a room or message that a documented call or event deletes is deleted,
wherever it is."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from service.db.db_settings import DatabaseSettings
from service.queue.queue_service import QueueService
from template.base.client_session import ClientSession
from template.chat.chat_state_machine import MessageState, RoomState, get_chat_state_machine
from template.chat.common.chat_serialize import (
    ChatMessageResumeRequest,
    ChatMessageStopRequest,
    ChatRoomDeleteRequest,
    ChatRoomUpdateRequest,
)

from base_server.template.chat.domain.events import QUEUE_NAME
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import ChatHarness, running_harness
from tests.documented.host_harness import HostHarness
from tests.openai_stub import OpenAIStub, Reply
from tests.waiting import until


@dataclass
class Case:
    """A room of ``user`` with a question and its reply, beside another room."""

    chat: ChatHarness
    user: ClientSession
    room_id: str
    kept_id: str
    question_id: str = ""
    reply_id: str = ""

    async def send_event(self, kind: str, **fields: Any) -> None:
        session = self.user.session
        base = {
            "room_id": self.room_id,
            "account_db_key": session.account_db_key,
            "shard_id": session.shard_id,
        }
        await QueueService.get_instance().send_message(
            QUEUE_NAME, base | fields, kind, 2, self.room_id
        )

    async def count(self, kind: str) -> int:
        """Events of the room that wait, of one type."""
        shard_id = self.user.session.shard_id
        partition = self.chat.keys.account_partition(self.user.session.account_id)
        stream = self.chat.template.wiring._container.queue.stream(
            QUEUE_NAME, partition, str(shard_id)
        ).key
        entries = await self.chat.redis.execute("XRANGE", stream, "-", "+")
        found = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]
        return sum(entry["type"] == kind and entry["key"] == self.room_id for entry in found)

    async def history(self) -> list[str]:
        """What a model is told of the room."""
        memory = self.chat.container.ai.mem(self.room_id).chat_memory
        return [str(message.content) for message in await memory.aget_messages()]


async def made(chat: ChatHarness) -> Case:
    user = await chat.user()
    kept, room = await chat.room(user, "kept"), await chat.room(user, "gone")
    await chat.send(user, room.room_id)
    question, reply = (await chat.messages(user, room.room_id)).messages
    return Case(chat, user, room.room_id, kept.room_id, question.message_id, reply.message_id)


async def delete_keys(chat: ChatHarness, *names: str) -> None:
    for name in names:
        await chat.redis.execute("DEL", name)


async def warm(case: Case) -> None:
    await case.chat.rooms(case.user)


async def settled(case: Case) -> None:
    await case.chat.persist()
    await case.chat.rooms(case.user)


async def cold_room(case: Case) -> None:
    """The account's list is in Redis, the room is not."""
    await settled(case)
    keys = case.chat.keys
    await delete_keys(
        case.chat,
        keys.room(case.room_id).record,
        keys.room(case.room_id).messages,
        keys.room(case.room_id).json,
    )


async def cold(case: Case) -> None:
    await case.chat.persist()
    await case.chat.forget_everything()


async def states_expired(case: Case) -> None:
    await settled(case)
    keys = case.chat.keys
    states = [keys.message_state(case.question_id), keys.message_state(case.reply_id)]
    await delete_keys(case.chat, keys.room(case.room_id).state, *states)


async def sent_by_hand(case: Case) -> None:
    """A host moves the states further than the chat is."""
    states = get_chat_state_machine()
    for message_id in (case.question_id, case.reply_id):
        for to in (MessageState.PROCESSING, MessageState.SENT):
            assert await states.transition_message(message_id, to)


CONDITIONS: dict[str, Callable[[Case], Awaitable[None]]] = {
    "unsaved": warm,
    "unsaved, sent by hand": sent_by_hand,
    "settled": settled,
    "cold room": cold_room,
    "cold": cold,
    "states expired": states_expired,
}


async def by_state(case: Case) -> None:
    before = await get_chat_state_machine().get_room_state(case.room_id)
    to = RoomState.DELETED if before is RoomState.PENDING else RoomState.DELETING
    assert await get_chat_state_machine().transition_room(case.room_id, to)


async def by_event(case: Case) -> None:
    await case.send_event("CHAT_ROOM_DELETE", account_id=case.user.session.account_id)


async def by_event_without_account(case: Case) -> None:
    await case.send_event("CHAT_ROOM_DELETE")


async def by_the_documents_order(case: Case) -> None:
    await by_state(case)
    redis = case.chat.redis
    await redis.delete(f"room:{case.room_id}")
    await redis.delete(f"messages:{case.room_id}")
    await redis.set_remove(f"rooms:{case.user.session.account_id}", case.room_id)
    await by_event(case)


ROOM_WAYS = (by_state, by_event, by_event_without_account, by_the_documents_order)


async def assert_room_is_gone(case: Case) -> None:
    chat, user = case.chat, case.user
    listed = await chat.rooms(user)
    assert ([room.room_id for room in listed.rooms], listed.total_count) == ([case.kept_id], 1)
    calls = chat.provider.calls
    assert (await chat.try_messages(user, case.room_id)).errorCode == 1004
    assert (await chat.try_send(user, case.room_id)).errorCode == 1004
    update = ChatRoomUpdateRequest(room_id=case.room_id, new_title="x")
    assert (await chat.template.on_chat_room_update_req(user, update)).errorCode == 1004
    stop = ChatMessageStopRequest(room_id=case.room_id, message_id=case.reply_id)
    assert (await chat.template.on_chat_message_stop_req(user, stop)).errorCode == 1004
    resume = ChatMessageResumeRequest(room_id=case.room_id, message_id=case.reply_id)
    assert (await chat.template.on_chat_message_resume_req(user, resume)).errorCode == 1004  # type: ignore[union-attr]
    assert await chat.delete_message(user, case.room_id, case.reply_id) == 1004
    assert await case.history() == []
    assert chat.provider.calls == calls


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_a_room_deleted_by_any_documented_way_is_gone_and_stays_so(
    host: HostHarness, condition: str
) -> None:
    """cases/promises.md P1."""
    chat = host.chat
    for way in ROOM_WAYS:
        case = await made(chat)
        await CONDITIONS[condition](case)
        await way(case)
        assert await case.count("CHAT_ROOM_DELETE") == 1, way
        await assert_room_is_gone(case)
        delete = ChatRoomDeleteRequest(room_id=case.room_id)
        assert (await chat.template.on_chat_room_delete_req(case.user, delete)).errorCode == 0
        assert not await get_chat_state_machine().transition_room(case.room_id, RoomState.DELETING)
        assert await case.count("CHAT_ROOM_DELETE") <= 1, way  # a load may have had it written
        await chat.persist()
        (row,) = await chat.rows(case.user, "fp_chat_room_get", case.room_id)
        assert row["deleted"], way
        await assert_room_is_gone(case)
        await chat.forget_everything()
        await assert_room_is_gone(case)
        assert (await chat.template.on_chat_room_delete_req(case.user, delete)).errorCode == 0
        assert await chat.backlog() == 0
    assert await host.dead() == []


async def by_message_state(case: Case) -> None:
    states = get_chat_state_machine()
    early = await states.get_message_state(case.question_id) is MessageState.PENDING
    to = MessageState.DELETED if early else MessageState.DELETING
    assert await states.transition_message(case.question_id, to)


async def by_smart_delete(case: Case) -> None:
    ok, text = await get_chat_state_machine().smart_delete_message(case.question_id)
    assert ok
    assert text in ("DELETING", "DELETED")


async def by_message_event(case: Case) -> None:
    await case.send_event("CHAT_MESSAGE_DELETE", message_id=case.question_id)


async def by_the_documents_message_order(case: Case) -> None:
    await by_smart_delete(case)
    await case.chat.redis.delete(f"messages:{case.room_id}")
    await by_message_event(case)


MESSAGE_WAYS = (by_message_state, by_smart_delete, by_message_event, by_the_documents_message_order)


async def assert_message_is_gone(case: Case) -> None:
    chat, user = case.chat, case.user
    assert [
        message.message_id for message in (await chat.messages(user, case.room_id)).messages
    ] == [case.reply_id]
    assert {room.room_id: room.message_count for room in (await chat.rooms(user)).rooms}[
        case.room_id
    ] == 1
    stop = ChatMessageStopRequest(room_id=case.room_id, message_id=case.question_id)
    assert (await chat.template.on_chat_message_stop_req(user, stop)).errorCode == 1005
    assert await case.history() == ["stub: hello"]


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_a_message_deleted_by_any_documented_way_is_gone_and_stays_so(
    host: HostHarness, condition: str
) -> None:
    """cases/promises.md P1."""
    chat = host.chat
    for way in MESSAGE_WAYS:
        case = await made(chat)
        await CONDITIONS[condition](case)
        await way(case)
        if way is not by_the_documents_message_order:  # its load has the events written
            assert await case.count("CHAT_MESSAGE_DELETE") == 1, way
        await assert_message_is_gone(case)
        assert await chat.delete_message(case.user, case.room_id, case.question_id) == 0
        assert (await get_chat_state_machine().smart_delete_message(case.question_id))[0]
        assert await case.count("CHAT_MESSAGE_DELETE") <= 1, way
        await chat.persist()
        rows = await host.rows(case.user, case.room_id)
        assert [(row["message_id"], bool(row["deleted"])) for row in rows] == [
            (case.question_id, True),
            (case.reply_id, False),
        ]
        (room,) = await chat.rows(case.user, "fp_chat_room_get", case.room_id)
        assert room["message_count"] == 1
        await assert_message_is_gone(case)
        await chat.forget_everything()
        await assert_message_is_gone(case)
    assert await host.dead() == []


@pytest.mark.chat_settings(window=4)
async def test_a_message_older_than_the_window_is_deleted_by_its_state(host: HostHarness) -> None:
    """cases/promises.md P1."""
    chat = host.chat
    case = await made(chat)
    for number in range(4):
        await chat.send(case.user, case.room_id, f"{number}")
    await chat.persist()
    await by_smart_delete(case)
    for _ in range(2):  # the document's order: the state, then the event, which may be sent again
        await by_message_event(case)
    assert await case.count("CHAT_MESSAGE_DELETE") == 1
    for _ in range(2):
        assert (await chat.texts(case.user, case.room_id))[0] == "stub: hello"
        assert {room.room_id: room.message_count for room in (await chat.rooms(case.user)).rooms}[
            case.room_id
        ] == 9
        await chat.persist()
    await chat.forget_everything()
    assert (await chat.texts(case.user, case.room_id))[0] == "stub: hello"


@pytest.mark.parametrize("way", [by_state, by_event])
async def test_a_room_deleted_by_its_state_ends_its_running_reply(
    host: HostHarness, way: Callable[[Case], Awaitable[None]]
) -> None:
    """cases/promises.md P1."""
    chat = host.chat
    case = await made(chat)
    chat.provider.script(Reply(["half"], hang=True))
    calls = chat.provider.calls
    sending = asyncio.create_task(chat.try_send(case.user, case.room_id, "again"))
    await until(lambda: chat.provider.calls == calls + 1)
    await way(case)
    assert (await sending).errorCode in (1004, 1005)
    await assert_room_is_gone(case)
    await chat.persist()
    await assert_room_is_gone(case)
    assert await host.dead() == []


async def test_of_concurrent_deletes_of_a_room_one_event_is_queued(host: HostHarness) -> None:
    """cases/promises.md P1."""
    case = await made(host.chat)
    await settled(case)
    states = get_chat_state_machine()
    results = await asyncio.gather(
        *(states.transition_room(case.room_id, RoomState.DELETING) for _ in range(5)),
        *(by_event(case) for _ in range(3)),
        *(
            host.chat.template.on_chat_room_delete_req(
                case.user, ChatRoomDeleteRequest(room_id=case.room_id)
            )
            for _ in range(3)
        ),
    )
    assert sum(result is True or bool(getattr(result, "moved", False)) for result in results) <= 1
    assert await case.count("CHAT_ROOM_DELETE") == 1
    await assert_room_is_gone(case)


async def test_a_state_that_is_refused_changes_nothing(host: HostHarness) -> None:
    chat = host.chat
    case = await made(chat)
    await settled(case)
    states = get_chat_state_machine()
    for refused in (
        await states.transition_room(case.room_id, RoomState.DELETED),
        await states.transition_room(case.room_id, RoomState.DELETING, RoomState.PENDING),
    ):
        assert not refused
        assert (refused.before, bool(refused.reason)) == ("ACTIVE", True)
    assert not await states.transition_message(case.question_id, MessageState.DELETED)
    assert len((await chat.messages(case.user, case.room_id)).messages) == 2
    assert await chat.backlog() == 0


async def test_an_id_that_nobody_knows_moves_its_state_alone(host: HostHarness) -> None:
    """The document's own ids (room_123, msg_456)."""
    states = get_chat_state_machine()
    for step in (RoomState.CREATING, RoomState.PENDING, RoomState.DELETING, RoomState.DELETED):
        assert await states.transition_room("room_123", step)
    for message_step in (MessageState.PENDING, MessageState.DELETED):
        assert await states.transition_message("msg_456", message_step)
    assert not await states.transition_room("room_999", RoomState.DELETING)
    assert await states.smart_delete_message("msg_999") == (
        False,
        "message msg_999 is ABSENT: nothing to delete",
    )
    assert await host.chat.backlog() == 0


@pytest.mark.parametrize("odd", ["방_1", "x" * 100, "", "a b", "\ud800", None, 5])
async def test_an_id_that_cannot_be_is_refused_with_a_reason(host: HostHarness, odd: Any) -> None:
    """cases/promises.md P1: only an outage is raised."""
    states = get_chat_state_machine()
    for to in ("DELETING", "DELETED"):
        for result in (
            await states.transition_room(odd, to),
            await states.transition_message(odd, to),
        ):
            assert not result
            assert result.reason
    done, text = await states.smart_delete_message(odd)
    assert not done
    assert text
    assert await states.get_room_state(odd) is await states.get_message_state(odd) is None
    assert await states.get_room_log(odd) == await states.get_message_log(odd) == []


async def test_states_are_taken_by_their_names(host: HostHarness) -> None:
    """cases/promises.md P1."""
    case = await made(host.chat)
    states = get_chat_state_machine()
    assert not await states.transition_message(case.question_id, "DELETED", "SENT")
    await host.chat.persist()
    assert await states.transition_message(case.question_id, "DELETING", "SENT")
    await assert_message_is_gone(case)
    assert await states.transition_room(case.room_id, "DELETING")
    assert [room.room_id for room in (await host.chat.rooms(case.user)).rooms] == [case.kept_id]


async def test_a_state_of_another_kind_is_refused_with_a_reason(host: HostHarness) -> None:
    """cases/promises.md P1: a room has the states of a room."""
    case = await made(host.chat)
    states = get_chat_state_machine()
    before = await states.get_room_state(case.room_id)
    odd: Any
    for odd in (MessageState.PROCESSING, MessageState.SENT, "SENT", "deleting", "", None, 5):
        for result in (
            await states.transition_room(case.room_id, odd),
            await states.transition_room(case.room_id, RoomState.DELETING, odd or "?"),
        ):
            assert not result
            assert "is no RoomState" in result.reason
    assert not await states.transition_message(case.question_id, RoomState.PROCESSING)  # type: ignore[arg-type]
    assert await states.get_room_state(case.room_id) is before


@pytest.mark.parametrize("partition", ["the room's partition", "another partition"])
async def test_a_message_of_a_host_deleted_before_its_event_is_read_is_deleted(
    host: HostHarness, partition: str
) -> None:
    """cases/promises.md P1: the document's ids are UUIDs of its own; one in 16 is hashed to its
    room's partition."""
    chat = host.chat
    case = await made(chat)
    home = chat.keys.account_partition(case.user.session.account_id)
    ids = (f"0b9c2a52-1c5e-4f6e-9f43-{n:012x}" for n in itertools.count())
    is_home = partition == "the room's partition"
    message_id = next(id_ for id_ in ids if (chat.redis.partitions.of_id(id_) == home) == is_home)
    states = get_chat_state_machine()
    assert await states.transition_message(message_id, MessageState.PENDING)
    await host.save(case.user, case.room_id, message_id)
    # "already" when the event was read in the middle of the call.
    assert await states.smart_delete_message(message_id) in [
        (True, "DELETED"),
        (True, "already DELETED"),
    ]
    await chat.persist()
    assert len((await chat.messages(case.user, case.room_id)).messages) == 2
    await chat.persist()
    await chat.forget_everything()
    assert len((await chat.messages(case.user, case.room_id)).messages) == 2
    assert {room.room_id: room.message_count for room in (await chat.rooms(case.user)).rooms}[
        case.room_id
    ] == 2


async def test_delete_of_a_cold_room_without_database_is_refused(
    private_mariadb: DatabaseBackend, redis_server: RedisServer, app_id: str, provider: OpenAIStub
) -> None:
    """cases/promises.md P1."""
    async with running_harness(redis_server.settings(), private_mariadb, app_id, provider) as chat:
        case, loaded = await made(chat), await made(chat)
        await cold_room(case)
        assert private_mariadb.server is not None
        private_mariadb.server.kill()
        states = get_chat_state_machine()
        refused = await states.transition_room(case.room_id, RoomState.DELETING)
        assert not refused
        assert "try again" in refused.reason
        # What Redis knows needs no database.
        await by_state(loaded)
        private_mariadb.server.start()
        await until(lambda: states.transition_room(case.room_id, RoomState.DELETING), 30)
        await chat.persist()
        for done in (case, loaded):
            await chat.forget_everything()
            await assert_room_is_gone(done)


async def test_without_redis_the_stale_list_has_no_room_that_was_deleted(
    private_server: RedisServer, tmp_path: Path, app_id: str, provider: OpenAIStub
) -> None:
    """cases/promises.md P1."""
    database = DatabaseBackend("sqlite", DatabaseSettings(), tmp_path, None)
    async with running_harness(
        private_server.settings(timeout_s=1), database, app_id, provider
    ) as chat:
        case = await made(chat)
        await by_state(case)
        await chat.persist()
        private_server.kill()
        listed = await chat.rooms(case.user)
        assert listed.stale
        assert [room.room_id for room in listed.rooms] == [case.kept_id]
        assert (await chat.try_messages(case.user, case.room_id)).errorCode == 1004
        private_server.start()
