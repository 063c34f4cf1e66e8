"""A batch that met an outage of the database, and that Redis lost before it was over: only its
process has it."""

from __future__ import annotations

import pytest
import structlog

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry
from base_server.service.queue.queue_errors import DeadLettersFull
from base_server.service.queue.stream_store import DeadLetter
from base_server.template.base.client_session import ClientSession
from base_server.template.chat.domain.events import QUEUE_NAME
from base_server.template.chat.persistence.calls import DeadLetterCounts
from base_server.template.chat.persistence.dead_letters import ChatDeadLetters
from tests.chat_harness import ChatHarness
from tests.documented.host_harness import hosted
from tests.documented.test_host_events import new_id
from tests.refusing_database import POISON, Refusing


def stream_of(chat: ChatHarness, user: ClientSession) -> EventStream:
    partition = chat.keys.account_partition(user.session.account_id)
    return chat.container.queue.stream(QUEUE_NAME, partition, str(user.session.shard_id))


async def saved(chat: ChatHarness, user: ClientSession, room_id: str) -> list[tuple[int, str]]:
    return [
        (row["seq"], row["content"])
        for row in await chat.rows(user, "fp_chat_window_get", room_id, 100)
    ]


async def letters(chat: ChatHarness) -> list[DeadLetter]:
    return await chat.container.queue.dead_letters(QUEUE_NAME)


async def lost_batch(
    chat: ChatHarness, user: ClientSession, *texts: str
) -> tuple[str, EventStream, Refusing]:
    """A room with a question and its answer, and a batch with two events for each of ``texts``,
    which only the consumer's process has."""
    room_id, stream = (await chat.room(user)).room_id, stream_of(chat, user)
    await chat.send(user, room_id, "good")
    await chat.persist()
    database = Refusing(chat)
    database.down = True
    for text in texts:
        await chat.send(user, room_id, text)
    await drain(chat, stream)
    assert chat.template.parts.consumer.writer.unfinished == {stream}
    await chat.forget_everything()
    database.down = False
    return room_id, stream, database


async def drain(chat: ChatHarness, stream: EventStream) -> None:
    await chat.template.parts.consumer.drain(stream, 0.0)


async def test_batches_log_an_outage_at_its_begin_and_end(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await chat.user()
    stream, database = stream_of(chat, user), Refusing(chat)
    await chat.send(user, (await chat.room(user)).room_id, "good")
    consumer = chat.template.parts.consumer
    with structlog.testing.capture_logs() as logs:
        for database.down in (True, True, True, False):
            await drain(chat, stream)
        with monkeypatch.context() as patch:
            patch.setattr(consumer.writer.marks, "check", unavailable)
            for _ in range(3):
                await consumer.check_marks()
        for _ in range(2):
            await consumer.check_marks()
    assert [line["event"] for line in logs if line["log_level"] != "debug"] == [
        "batch not written, it stays in the queue",
        "batches are written again",
        "the shards' marks could not be compared",
        "the shards' marks are compared again",
    ]


async def unavailable(*_: object) -> None:
    raise ServiceUnavailable("cache", "away")


async def test_refused_events_of_a_lost_batch_become_dead_letters(chat: ChatHarness) -> None:
    """cases/faults.md U3: they are written when the cause is gone, with what came after them."""
    user = await chat.user()
    room_id, stream, database = await lost_batch(chat, user, POISON, "behind")
    await drain(chat, stream)
    found = await letters(chat)
    assert [letter.fields["seq"] for letter in found] == ["3", "4", "5", "6"]
    assert {letter.group for letter in found} == {room_id}
    assert "refused by the database" in found[0].reason
    # It goes behind them, like in any room with dead letters.
    await chat.send(user, room_id, "later")
    await chat.persist()
    assert len(await letters(chat)) == 6
    database.on = False
    dead = ChatDeadLetters(
        chat.container.queue, chat.container.cache.get_bulk_client(), chat.template.wiring.settings
    )
    assert await dead.replay(stream, room_id) == DeadLetterCounts(6, 0)
    await chat.persist()
    questions = [content for _, content in await saved(chat, user, room_id)][::2]
    assert questions == ["good", POISON, "behind", "later"]
    assert await chat.questions(user, room_id) == questions


async def test_lost_batch_with_a_hosts_save_is_written(chat: ChatHarness) -> None:
    """cases/faults.md U3: a save without a seq is looked for in the database before the batch is
    written."""
    user = await chat.user()
    stream, database = stream_of(chat, user), Refusing(chat)
    with hosted(chat) as host:
        room_id = (await chat.room(user)).room_id
        await chat.persist()
        database.down = True
        await chat.send(user, room_id, "ours")
        await host.save(user, room_id, new_id(), content="theirs")
        await drain(chat, stream)
        assert chat.template.parts.consumer.writer.unfinished == {stream}
        await chat.forget_everything()
        database.down = False
        await drain(chat, stream)
    assert [content for _, content in await saved(chat, user, room_id)] == [
        "ours",
        "stub: ours",
        "theirs",
    ]


async def test_lost_batch_is_written_under_its_streams_lock(chat: ChatHarness) -> None:
    """cases/faults.md U3: another process that writes the stream meanwhile is not overtaken."""
    user = await chat.user()
    room_id, stream, _ = await lost_batch(chat, user, "two")
    before = await saved(chat, user, room_id)
    async with chat.container.queue.acquired(stream, 1.0):
        await drain(chat, stream)
        assert await saved(chat, user, room_id) == before
    await drain(chat, stream)
    assert [content for _, content in await saved(chat, user, room_id)] == [
        "good",
        "stub: good",
        "two",
        "stub: two",
    ]
    assert not chat.template.parts.consumer.writer.unfinished


async def test_lost_batch_stays_here_while_the_dead_letters_are_full(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await chat.user()
    _, stream, _ = await lost_batch(chat, user, POISON)

    async def full(*_: object) -> int:
        raise DeadLettersFull(QUEUE_NAME, 0)

    with monkeypatch.context() as patch:
        patch.setattr(chat.container.queue, "add_dead_letters", full)
        await drain(chat, stream)
    assert chat.template.parts.consumer.writer.unfinished == {stream}
    await drain(chat, stream)
    assert [letter.fields["seq"] for letter in await letters(chat)] == ["3", "4"]


async def test_dead_letters_of_lost_entries_are_added_once(chat: ChatHarness) -> None:
    """The answer of the first call may be lost: the call is made again."""
    stream = stream_of(chat, await chat.user())
    lost = [(QueueEntry(f"1-{n}", {"id": f"m{n}", "payload": "{}"}), "refused") for n in range(2)]
    queue = chat.container.queue
    assert await queue.add_dead_letters(stream, lost[:1], {"1-0": "room"}) == 1
    assert await queue.add_dead_letters(stream, lost, {"1-0": "room", "1-1": "room"}) == 1
    assert [(letter.entry_id, letter.fields["id"]) for letter in await letters(chat)] == [
        ("1-0", "m0"),
        ("1-1", "m1"),
    ]
    assert await chat.redis.execute("HGET", stream.blocked_key, "room") == "2"


async def test_batch_that_redis_still_has_is_kept_until_it_is_read_again(chat: ChatHarness) -> None:
    """Redis may lose it in the moment after it was asked."""
    user = await chat.user()
    room_id, stream = (await chat.room(user)).room_id, stream_of(chat, user)
    writer = chat.template.parts.consumer.writer
    database = Refusing(chat)
    database.down = True
    await chat.send(user, room_id, "one")
    await drain(chat, stream)
    database.down = False
    await writer.write_lost(stream)
    assert writer.unfinished == {stream}
    # Another process writes it.
    await chat.redis.execute("XTRIM", stream.key, "MAXLEN", "0")
    await writer.write_lost(stream)
    assert not writer.unfinished
