"""A shard database that came back older: a restore that is cut off, and rooms that are not as the
chat left them."""

from __future__ import annotations

from typing import Any

import pytest

from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.queue.event_stream import EventStream
from base_server.template.base.client_session import ClientSession
from base_server.template.chat.domain.events import QUEUE_NAME
from base_server.template.chat.persistence.dead_letters import ChatDeadLetters
from base_server.template.chat.persistence.older_shards import OlderShards
from base_server.template.chat.persistence.procedures import ShardProcedures
from base_server.template.chat.persistence.shard_marks import ShardMarks
from base_server.template.chat.persistence.shard_restore import ShardRestore
from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub
from tests.refusing_database import POISON, Refusing


def marks_of(chat: ChatHarness) -> ShardMarks:
    return chat.template.parts.consumer.writer.marks


def stream_of(chat: ChatHarness, user: ClientSession) -> EventStream:
    partition = chat.keys.account_partition(user.session.account_id)
    return chat.container.queue.stream(QUEUE_NAME, partition, str(user.session.shard_id))


async def lose_what_waits(chat: ChatHarness, stream: EventStream) -> None:
    """The state after a database came back older: Redis knows of events as written that no database
    has."""
    ((last, _),) = await chat.redis.execute("XREVRANGE", stream.key, "+", "-", "COUNT", 1)
    await chat.redis.execute("XTRIM", stream.key, "MAXLEN", "0")
    await chat.redis.execute(
        "HSET",
        chat.keys.partition(stream.partition).backlog_watermark(int(stream.name)),
        "saved",
        last,
    )


async def waiting(chat: ChatHarness, stream: EventStream) -> list[str]:
    """The rooms of the events that wait."""
    entries = await chat.redis.execute("XRANGE", stream.key, "-", "+")
    return [dict(zip(fields[::2], fields[1::2], strict=True))["key"] for _, fields in entries]


async def stored(chat: ChatHarness, user: ClientSession, room_id: str) -> list[tuple[int, str]]:
    return [
        (row["seq"], row["content"])
        for row in await chat.rows(user, "fp_chat_window_get", room_id, 100)
    ]


async def alarm(chat: ChatHarness) -> str:
    """What /readyz says of it."""
    checks = await chat.template.readiness()
    return next((check.reason for check in checks if check.name == "chat_older_shards"), "")


async def test_every_process_has_the_alarm_until_all_is_written_again(
    chat: ChatHarness,
    backends: tuple[CacheSettings, DatabaseBackend],
    app_id: str,
    provider: OpenAIStub,
) -> None:
    """cases/faults.md U12: an operator sees it whichever process answers, and it ends by itself."""
    user = await chat.user()
    stream, room_id = stream_of(chat, user), (await chat.room(user)).room_id
    await chat.send(user, room_id, "one")
    await lose_what_waits(chat, stream)
    async with running_harness(*backends, app_id, provider) as other:
        # Its start looked at the marks; this process has found nothing itself.
        assert "3 events are written again" in await alarm(chat)
        assert await alarm(chat) == await alarm(other)
        await chat.persist()
        assert await alarm(chat) == await alarm(other) == ""
    assert await OlderShards(chat.redis).reports([int(stream.name)])


async def test_alarm_of_lost_messages_stays_until_it_is_acknowledged(chat: ChatHarness) -> None:
    """cases/faults.md U12: another find meanwhile does not hide them."""
    user = await chat.user()
    stream, room_id = stream_of(chat, user), (await chat.room(user)).room_id
    for n in range(4):
        await chat.send(user, room_id, str(n))
    # As after a trim: the first half of the window is in no list any more, and its rows are lost.
    await chat.redis.execute("LPOP", chat.keys.room(room_id).messages, 4)
    await chat.redis.execute(
        "HSET", chat.keys.room(room_id).record, "floor", "5", "len", "4", "older", "1"
    )
    for text in ("more", "last"):
        await chat.send(user, room_id, text)
        await lose_what_waits(chat, stream)
        await marks_of(chat).check_stream(int(stream.name), stream.partition)
        await chat.persist()
    assert f"room {room_id} lacks messages 1 to 4" in await alarm(chat)
    assert [
        each.shard_id for each in await OlderShards(chat.redis).acknowledge(int(stream.name))
    ] == [int(stream.name)]
    assert await alarm(chat) == ""
    assert await OlderShards(chat.redis).acknowledge(int(stream.name)) == []


async def test_room_with_pushed_entries_is_written_again(chat: ChatHarness) -> None:
    """cases/faults.md U12: an entry of a host's own has no seq, and moves nobody else's."""
    user = await chat.user()
    stream, room_id = stream_of(chat, user), (await chat.room(user)).room_id
    await chat.send(user, room_id, "one")
    await lose_what_waits(chat, stream)
    messages = chat.keys.room(room_id, stream.partition).messages
    for text in ('{"message_id": "m1", "content": "pushed"}', '{"seq":null}', "pushed"):
        await chat.redis.execute("LPUSH", messages, text)
    await marks_of(chat).check_stream(int(stream.name), stream.partition)
    await chat.persist()
    assert await stored(chat, user, room_id) == [(1, "one"), (2, "stub: one")]


async def test_interrupted_restore_goes_on_after_the_rooms_it_had_done(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cases/faults.md U12: no event is queued twice, the report is whole, and each room counts as
    progress."""
    user = await chat.user()
    stream, rooms = stream_of(chat, user), [(await chat.room(user)).room_id for _ in range(3)]
    for room_id in rooms:
        await chat.send(user, room_id, "one")
    await lose_what_waits(chat, stream)
    marks, further, calls = marks_of(chat), [], []
    marks.on_progress(further.append)
    queue_again = ShardRestore._queue_again

    async def cut_off(self: ShardRestore, *args: Any) -> str:
        calls.append(args)
        if len(calls) == 3:
            raise ServiceUnavailable("cache", "OOM")
        return await queue_again(self, *args)

    monkeypatch.setattr(ShardRestore, "_queue_again", cut_off)
    with pytest.raises(ServiceUnavailable):
        await marks.check_stream(int(stream.name), stream.partition)
    assert len(await waiting(chat, stream)) == 6
    await marks.check_stream(int(stream.name), stream.partition)
    queued = await waiting(chat, stream)
    assert {room_id: queued.count(room_id) for room_id in rooms} == dict.fromkeys(rooms, 3)
    assert further == [stream] * 3
    (found,) = await OlderShards(chat.redis).reports([int(stream.name)])
    assert found.written_again == 9
    await chat.persist()
    for room_id in rooms:
        assert await stored(chat, user, room_id) == [(1, "one"), (2, "stub: one")]


async def test_put_back_again_during_its_restore_loses_nothing(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cases/faults.md U12: what the cut restore wrote again is gone again."""
    user = await chat.user()
    stream = stream_of(chat, user)
    rooms = sorted([(await chat.room(user)).room_id for _ in range(2)])
    for room_id in rooms:
        await chat.send(user, room_id, "one")
    await lose_what_waits(chat, stream)
    marks = marks_of(chat)
    queue_again = ShardRestore._queue_again

    async def cut_off(self: ShardRestore, stream: EventStream, room_id: str, *args: Any) -> str:
        if room_id == rooms[1]:
            raise ServiceUnavailable("cache", "OOM")
        return await queue_again(self, stream, room_id, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ShardRestore, "_queue_again", cut_off)
        with pytest.raises(ServiceUnavailable):
            await marks.check_stream(int(stream.name), stream.partition)
    assert set(await waiting(chat, stream)) == {rooms[0]}
    await lose_what_waits(chat, stream)
    await marks.check_stream(int(stream.name), stream.partition)
    (found,) = await OlderShards(chat.redis).reports([int(stream.name)])
    assert found.written_again == 9
    await chat.persist()
    for room_id in rooms:
        assert await stored(chat, user, room_id) == [(1, "one"), (2, "stub: one")]


async def test_batch_is_settled_though_the_restore_behind_it_fails(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cases/faults.md U12: a full Redis gets rid of the batch, whose windows stay as long as they
    are."""
    user = await chat.user()
    stream, room_id = stream_of(chat, user), (await chat.room(user)).room_id
    for n in range(12):  # beyond the window of 20
        await chat.send(user, room_id, str(n))
    await lose_what_waits(chat, stream)
    await chat.send(user, room_id, "last")
    marks = marks_of(chat)

    async def full(*args: Any) -> str:
        raise ServiceUnavailable("cache", "OOM")

    with monkeypatch.context() as patch:
        patch.setattr(ShardRestore, "_queue_again", full)
        await chat.template.parts.consumer.drain(stream, 1.0)
    assert await waiting(chat, stream) == []
    await marks.check_stream(int(stream.name), stream.partition)
    await chat.persist()
    assert [seq for seq, _ in await stored(chat, user, room_id)] == list(range(1, 27))


async def test_room_with_dead_letters_is_written_again_before_them(chat: ChatHarness) -> None:
    """cases/faults.md U12: what was in the database does not wait behind what it refused; a replay
    does the rest."""
    user = await chat.user()
    stream, room_id = stream_of(chat, user), (await chat.room(user)).room_id
    await chat.send(user, room_id, "one")
    await chat.send(user, room_id, "two")
    # All of this is lost with the database, before it was asked to store the next one.
    await lose_what_waits(chat, stream)
    database = Refusing(chat)
    for text in (POISON, "behind"):
        await chat.send(user, room_id, text)
    entries = await chat.container.queue.store.head(stream, 100)
    await chat.container.queue.dead_letter(
        stream,
        [(entry.entry_id, "refused") for entry in entries],
        {entry.entry_id: room_id for entry in entries},
    )
    await marks_of(chat).check_stream(int(stream.name), stream.partition)
    await chat.persist()
    texts = ["one", "stub: one", "two", "stub: two"]
    assert await stored(chat, user, room_id) == list(enumerate(texts, start=1))
    assert await alarm(chat) == ""
    letters = await chat.container.queue.dead_letters(QUEUE_NAME)
    assert [letter.fields["seq"] for letter in letters] == ["5", "6", "7", "8"]
    database.on = False
    dead = ChatDeadLetters(
        chat.container.queue, chat.container.cache.get_bulk_client(), chat.template.wiring.settings
    )
    await dead.replay(stream, room_id)
    await chat.persist()
    texts += [POISON, f"stub: {POISON}", "behind", "stub: behind"]
    assert await stored(chat, user, room_id) == list(enumerate(texts, start=1))


async def test_damaged_room_is_named(chat: ChatHarness) -> None:
    """cases/faults.md U12: the others are written again."""
    user = await chat.user()
    stream, rooms = stream_of(chat, user), [(await chat.room(user)).room_id for _ in range(2)]
    for room_id in rooms:
        await chat.send(user, room_id, "one")
    await lose_what_waits(chat, stream)
    await chat.redis.execute("HSET", chat.keys.room(rooms[0]).record, "floor", "?")
    await marks_of(chat).check_stream(int(stream.name), stream.partition)
    await chat.persist()
    assert await stored(chat, user, rooms[1]) == [(1, "one"), (2, "stub: one")]
    assert f"room {rooms[0]} is damaged in Redis" in await alarm(chat)
    await OlderShards(chat.redis).acknowledge(int(stream.name))
    assert await alarm(chat) == ""


async def test_mark_that_is_not_too_low_is_only_read(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cases/faults.md U12: a shard that takes no writes is loaded from."""
    user = await chat.user()
    stream, room_id = stream_of(chat, user), (await chat.room(user)).room_id
    await chat.send(user, room_id, "one")
    await chat.persist()

    async def read_only(*args: object) -> int:
        raise ServiceUnavailable("database", "read only")

    monkeypatch.setattr(ShardProcedures, "raise_mark", read_only)
    assert await chat.redis.execute(
        "HGET", chat.keys.partition(stream.partition).backlog_watermark(int(stream.name)), "saved"
    )
    await marks_of(chat).check_stream(int(stream.name), stream.partition)


@pytest.mark.chat_settings(window=4)
async def test_deleted_messages_below_the_window_are_not_lost(chat: ChatHarness) -> None:
    """cases/faults.md U12: what the report names as lacking was not deleted before."""
    user = await chat.user()
    stream, room_id = stream_of(chat, user), (await chat.room(user)).room_id
    for n in range(4):
        await chat.send(user, room_id, str(n))
    await chat.persist()
    for message in (await chat.messages(user, room_id, limit=8)).messages[2:4]:
        assert await chat.delete_message(user, room_id, message.message_id) == 0
    await chat.persist()
    await chat.send(user, room_id, "last")
    await lose_what_waits(chat, stream)
    await marks_of(chat).check_stream(int(stream.name), stream.partition)
    (found,) = await OlderShards(chat.redis).reports([int(stream.name)])
    assert found.lost == {}
    assert found.written_again == 2
