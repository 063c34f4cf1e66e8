"""Events that the database refuses: they and what follows in their room wait among the dead
letters, nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from base_server.service.core.errors import ServiceError
from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.queue.stream_store import DeadLetter
from base_server.template.base.client_session import ClientSession
from base_server.template.base.readiness import Health
from base_server.template.chat.common.chat_serialize import (
    ChatRoomDeleteRequest,
    ChatRoomUpdateRequest,
)
from base_server.template.chat.domain.events import QUEUE_NAME
from base_server.template.chat.persistence.calls import DeadLetterCounts
from base_server.template.chat.persistence.dead_letters import ChatDeadLetters
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub, Reply
from tests.refusing_database import POISON, Refusing
from tests.waiting import PATIENCE_S, until


class Behind:
    """The shard of a server that is newer than its scripts: it does not have the procedures in
    ``lacks``."""

    def __init__(self, chat: ChatHarness, *lacks: str) -> None:
        self.lacks = set(lacks)
        self._database = chat.container.database
        chat.template.parts.consumer.writer._database = self

    async def call_shard_procedure(
        self, shard_id: int, name: str, params: Any = ()
    ) -> list[dict[str, Any]]:
        return await self._database.call_shard_procedure(
            shard_id, f"{name}_2" if name in self.lacks else name, params
        )


async def letters(chat: ChatHarness) -> list[DeadLetter]:
    return await chat.container.queue.dead_letters(QUEUE_NAME)


def dead(chat: ChatHarness) -> ChatDeadLetters:
    return ChatDeadLetters(
        chat.container.queue, chat.container.cache.get_bulk_client(), chat.template.wiring.settings
    )


async def saved(chat: ChatHarness, user: ClientSession, room_id: str) -> list[int]:
    """The numbers of the room's live messages in the database."""
    rows = await chat.rows(user, "fp_chat_messages_get", room_id, None, 100)
    return [row["seq"] for row in reversed(rows)]


async def pinned(chat: ChatHarness, room_id: str) -> bool:
    keys = [
        chat.keys.room(room_id).record,
        chat.keys.room(room_id).messages,
        chat.keys.room(room_id).json,
    ]
    return [await chat.ttl_ms(key) for key in keys] == [-1, -1, -1]


async def poisoned(chat: ChatHarness, user: ClientSession) -> tuple[str, Refusing]:
    """A room with one good question, a refused one, and one behind it."""
    room = await chat.room(user)
    await chat.send(user, room.room_id, "good")
    await chat.persist()
    database = Refusing(chat)
    chat.provider.responder = lambda _: Reply()
    await chat.send(user, room.room_id, POISON)
    await chat.send(user, room.room_id, "behind")
    await chat.persist()
    return room.room_id, database


async def test_a_refused_event_and_what_follows_it_wait_and_no_other_room_does(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room_id, _ = await poisoned(chat, user)
    other = await chat.room(user)
    waiting = await chat.send(user, room_id, "later still")
    await chat.send(user, other.room_id, "elsewhere")
    await chat.persist()
    assert await chat.state(waiting.message_id) == "PENDING"
    found = await letters(chat)
    assert [letter.fields["seq"] for letter in found] == ["3", "4", "5", "6", "7", "8"]
    assert {letter.group for letter in found} == {room_id}
    assert "Incorrect string value" in found[0].reason
    assert {letter.reason for letter in found[1:]} == {"waits behind the dead letters of its room"}
    assert await saved(chat, user, room_id) == [1, 2]
    assert await saved(chat, user, other.room_id) == [1, 2]
    assert await chat.questions(user, room_id) == ["good", POISON, "behind", "later still"]
    assert await pinned(chat, room_id)
    assert not await pinned(chat, other.room_id)
    (check,) = [
        check for check in await chat.template.readiness() if check.name == "chat_dead_letters"
    ]
    assert check.health is Health.DEGRADED
    assert "6" in check.reason


async def test_an_outage_is_no_poison(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    database = Refusing(chat)
    await chat.send(user, room.room_id, POISON)
    database.on, database.down = False, True
    await chat.template.parts.consumer.write_waiting()
    await until(lambda: not chat.template.parts.consumer.draining)
    assert await letters(chat) == []
    database.down = False
    chat.template.parts.consumer.backoffs.clear()
    await chat.persist()
    assert await saved(chat, user, room.room_id) == [1, 2]


async def test_a_refusal_is_no_poison_while_the_shard_answers_nothing_else(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    database = Refusing(chat)
    database.reads_too = True
    await chat.send(user, room.room_id, POISON)
    await chat.template.parts.consumer.write_waiting()
    await until(lambda: not chat.template.parts.consumer.draining)
    assert await letters(chat) == []
    assert await chat.backlog() > 0
    database.on = database.reads_too = False
    chat.template.parts.consumer.backoffs.clear()
    await chat.persist()
    assert await saved(chat, user, room.room_id) == [1, 2]


async def test_a_replay_puts_them_back_in_order_before_newer_ones_and_unpins(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room_id, database = await poisoned(chat, user)
    stream = (await letters(chat))[0].stream
    await chat.send(user, room_id, "newer")  # waits in the stream
    database.on = False
    assert await dead(chat).replay(stream, room_id) == DeadLetterCounts(4, 0)
    entries = await chat.container.queue.store.head(stream, 100)
    assert [entry.fields["seq"] for entry in entries] == ["3", "4", "5", "6", "7", "8"]
    assert await chat.container.queue.blocked(stream, [room_id]) == set()
    assert await pinned(chat, room_id)
    await chat.persist()
    assert await letters(chat) == []
    assert await saved(chat, user, room_id) == list(range(1, 9))
    assert not await pinned(chat, room_id)
    account = user.session.account_id
    assert await chat.ttl_ms(chat.keys.account(account).record) > 0
    assert await chat.ttl_ms(chat.keys.message_state(entries[0].message_id)) > 0
    await chat.send(user, room_id, "as usual")
    await chat.persist()
    assert await saved(chat, user, room_id) == list(range(1, 11))


async def test_what_is_refused_again_keeps_its_place(chat: ChatHarness) -> None:
    user = await chat.user()
    room_id, database = await poisoned(chat, user)
    first = (await letters(chat))[0]
    for _ in range(2):
        await dead(chat).replay(first.stream, room_id, first.dead_id)
        await chat.persist()
        found = await letters(chat)
        assert len(found) == 4
        first = next(letter for letter in found if letter.fields["seq"] == "3")
    database.on = False
    assert await dead(chat).replay(first.stream, room_id) == DeadLetterCounts(4, 0)
    entries = await chat.container.queue.store.head(first.stream, 100)
    assert [entry.fields["seq"] for entry in entries] == ["3", "4", "5", "6"]
    await chat.persist()
    assert await saved(chat, user, room_id) == [1, 2, 3, 4, 5, 6]


async def test_some_letters_may_go_first_and_the_room_waits_for_the_rest(chat: ChatHarness) -> None:
    user = await chat.user()
    room_id, database = await poisoned(chat, user)
    database.on = False
    second = (await letters(chat))[1]
    assert await dead(chat).replay(second.stream, room_id, second.dead_id) == DeadLetterCounts(2, 2)
    await chat.persist()
    assert await saved(chat, user, room_id) == [1, 2, 3, 4]
    assert [letter.fields["seq"] for letter in await letters(chat)] == ["5", "6"]
    assert await pinned(chat, room_id)
    with pytest.raises(ServiceError, match="no dead letter"):
        await dead(chat).replay(second.stream, room_id, second.dead_id)


@pytest.mark.parametrize("room_too", [False, True], ids=["the message", "the room"])
async def test_a_replay_never_revives_what_was_deleted(chat: ChatHarness, room_too: bool) -> None:
    user = await chat.user()
    room_id, database = await poisoned(chat, user)
    (first, *_) = await letters(chat)
    assert await chat.delete_message(user, room_id, first.fields["id"]) == 0
    if room_too:
        deletion = ChatRoomDeleteRequest(room_id=room_id)
        assert (await chat.template.on_chat_room_delete_req(user, deletion)).errorCode == 0
    await chat.persist()
    database.on = False
    # One by one: what deletes it is still among the dead letters when the message itself is
    # written.
    for letter in await letters(chat):
        await dead(chat).replay(letter.stream, room_id, letter.dead_id)
        await chat.persist()
        await _is_gone(chat, user, room_id, room_too)
    assert await letters(chat) == []
    await chat.forget_everything()
    await _is_gone(chat, user, room_id, room_too)


async def _is_gone(chat: ChatHarness, user: ClientSession, room_id: str, room_too: bool) -> None:
    listed = [room.room_id for room in (await chat.rooms(user)).rooms]
    if room_too:
        assert listed == []
        assert (await chat.try_messages(user, room_id)).errorCode == 1004
    else:
        assert listed == [room_id]
        assert await chat.questions(user, room_id) == ["good", "behind"]


async def test_dropped_letters_are_gone_for_good_and_the_rest_goes_on(chat: ChatHarness) -> None:
    user = await chat.user()
    room_id, database = await poisoned(chat, user)
    first = (await letters(chat))[0]
    stream = first.stream
    assert await dead(chat).drop(stream, room_id, [first]) == DeadLetterCounts(1, 3)
    assert await dead(chat).drop(stream, room_id, [first]) == DeadLetterCounts(0, 3)
    assert await chat.state(first.fields["id"]) == "DELETED"
    assert await pinned(chat, room_id)
    assert await dead(chat).replay(stream, room_id) == DeadLetterCounts(3, 0)
    # Read again from the database, and only when what was replayed is there.
    assert await chat.questions(user, room_id) == ["good", "behind"]
    assert await saved(chat, user, room_id) == [1, 2, 4, 5, 6]
    database.on = False
    await chat.send(user, room_id, "next")
    await chat.persist()
    assert await saved(chat, user, room_id) == [1, 2, 4, 5, 6, 7, 8]
    assert not await pinned(chat, room_id)


async def test_when_all_are_dropped_the_room_is_as_the_database_has_it(chat: ChatHarness) -> None:
    user = await chat.user()
    room_id, _ = await poisoned(chat, user)
    stream = (await letters(chat))[0].stream
    rename = ChatRoomUpdateRequest(room_id=room_id, new_title="refused too")
    await chat.template.on_chat_room_update_req(user, rename)
    await chat.persist()
    assert await dead(chat).drop(stream, room_id, await letters(chat)) == DeadLetterCounts(5, 0)
    assert not await pinned(chat, room_id)
    assert await chat.questions(user, room_id) == ["good"]
    assert [room.title for room in (await chat.rooms(user)).rooms] == ["room"]
    assert await chat.redis.execute("EXISTS", stream.blocked_key) == 0


async def test_a_room_that_was_refused_itself_is_listed_until_it_is_dropped(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    database = Refusing(chat)
    room = await chat.room(user, title=POISON)
    await chat.send(user, room.room_id, "in it")
    await chat.persist()
    keys = chat.keys
    account = user.session.account_id
    for kept in (True, False):
        await chat.redis.execute("DEL", keys.account(account).record, keys.account(account).rooms)
        assert [found.title for found in (await chat.rooms(user)).rooms] == (
            [POISON] if kept else []
        )
        if kept:
            found = await letters(chat)
            await dead(chat).drop(found[0].stream, room.room_id, found)
    assert database.on
    assert (await chat.try_messages(user, room.room_id)).errorCode == 1004


@pytest.mark.chat_settings(max_dead_letters_per_room=2)
async def test_past_its_limit_the_room_takes_no_more(chat: ChatHarness) -> None:
    user = await chat.user()
    room_id, database = await poisoned(chat, user)
    stream = (await letters(chat))[0].stream
    refused = await chat.try_send(user, room_id, "too much")
    assert refused.errorCode == 5003
    assert refused.error is not None
    assert "database refused" in refused.error.message
    rename = ChatRoomUpdateRequest(room_id=room_id, new_title="too much")
    assert (await chat.template.on_chat_room_update_req(user, rename)).errorCode == 5003
    assert await chat.questions(user, room_id) == ["good", POISON, "behind"]
    database.on = False
    await dead(chat).replay(stream, room_id)
    await chat.send(user, room_id, "again")


@pytest.fixture
async def crashable(
    private_server: RedisServer, tmp_path: Path, app_id: str, provider: OpenAIStub
) -> AsyncIterator[ChatHarness]:
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with running_harness(private_server.settings(), database, app_id, provider) as harness:
        yield harness


async def test_a_redis_that_was_killed_still_has_the_room(
    crashable: ChatHarness, private_server: RedisServer
) -> None:
    chat, user = crashable, await crashable.user()
    room_id, database = await poisoned(chat, user)
    private_server.kill()
    private_server.start()
    assert await chat.questions(user, room_id) == ["good", POISON, "behind"]
    assert len((await chat.rooms(user)).rooms) == 1
    await chat.send(user, room_id, "after")
    await chat.persist()
    database.on = False
    await dead(chat).replay((await letters(chat))[0].stream, room_id)
    await chat.persist()
    assert await saved(chat, user, room_id) == list(range(1, 9))
    assert await letters(chat) == []


async def test_a_room_that_mysql_knows_better_is_not_taken_from_an_old_redis(
    crashable: ChatHarness, private_server: RedisServer
) -> None:
    chat, user = crashable, await crashable.user()
    room_id, database = await poisoned(chat, user)
    private_server.kill()
    old = {file: file.read_bytes() for file in private_server.folder.glob("appendonlydir/*")}
    private_server.start()
    database.on = False
    await dead(chat).replay((await letters(chat))[0].stream, room_id)
    await chat.send(user, room_id, "since then")
    await chat.persist()
    private_server.kill()
    for file in private_server.folder.glob("appendonlydir/*"):
        file.unlink()
    for file, content in old.items():
        file.write_bytes(content)
    private_server.start()
    assert await chat.questions(user, room_id) == ["good", POISON, "behind", "since then"]
    await dead(chat).replay((await letters(chat))[0].stream, room_id)
    await chat.persist()
    assert await saved(chat, user, room_id) == list(range(1, 9))
    assert await chat.questions(user, room_id) == ["good", POISON, "behind", "since then"]


async def test_what_is_no_event_holds_up_no_room(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.container.queue.send_message(QUEUE_NAME, {"room_id": room.room_id}, "CHAT_NONSENSE")
    await chat.persist()
    await chat.send(user, room.room_id, "goes on")
    await chat.persist()
    (letter,) = await letters(chat)
    assert letter.group == ""
    assert await saved(chat, user, room.room_id) == [1, 2]


async def test_events_wait_while_a_procedure_is_missing(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.persist()
    database = Behind(chat, "fp_chat_message_batch_save", "fp_chat_message_save")
    await chat.send(user, room.room_id, "kept")
    consumer = chat.template.parts.consumer

    async def told() -> bool:
        await consumer.write_waiting()
        return "fp_chat_message_batch_save_2" in (await consumer.health()).last_error

    await until(told)
    assert "db apply" in (await consumer.health()).last_error
    assert (await chat.backlog(), await letters(chat)) == (2, [])
    database.lacks.clear()
    await chat.persist()
    assert await saved(chat, user, room.room_id) == [1, 2]
    assert await letters(chat) == []
