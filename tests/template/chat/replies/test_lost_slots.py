"""Replies whose room has to be read from the database: they go on, nobody waits for them, nobody is
asked twice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.db.db_settings import DatabaseSettings
from base_server.template.base.client_session import ClientSession
from base_server.template.chat.cache.scripts import SCRIPTS
from base_server.template.chat.common.chat_serialize import (
    ChatMessageSendResponse,
    ChatMessageStopRequest,
)
from base_server.template.chat.messages.repository import NewMessage
from base_server.template.chat.replies.slots import ReplySlots
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub, Reply
from tests.template.chat.persistence.test_settling import keys_for_good
from tests.waiting import PATIENCE_S, until

# Nobody in these tests waits so long for a load or for the reply; its process lives, so its lease
# does not run out.
NEVER = {"load_timeout_s": 300, "reply_deadline_s": 300, "reply_lease_s": 6}
SOON_S = PATIENCE_S


async def half_said(
    chat: ChatHarness, user: ClientSession, room_id: str, client_id: str = ""
) -> list[asyncio.Task[ChatMessageSendResponse]]:
    """A reply that has said "half " and hangs, and a question that waits behind it; both asked and
    not answered."""
    chat.provider.script(Reply(tokens=["half "], hang=True))
    sends = []
    for n in range(2):
        sent_as = f"{client_id}{n}" if client_id else None
        sends.append(
            asyncio.create_task(chat.try_send(user, room_id, f"q{n}", client_message_id=sent_as))
        )

        async def listed(n: int = n) -> bool:
            messages = (await chat.messages(user, room_id)).messages
            return len(messages) == 2 * n + 4 and messages[3].content == "half "

        await until(listed, SOON_S)
    return sends


async def goes_on(chat: ChatHarness, user: ClientSession, room_id: str, *, first: str = "") -> None:
    """The room is served at once; the reply that hangs is stopped (or has ended), the one behind it
    is asked.

    ``first``: how the hanging reply has ended, if it did."""
    async with asyncio.timeout(SOON_S):
        messages = (await chat.messages(user, room_id)).messages
        assert [message.content for message in messages][:4] == ["first", "said", "q0", "half "]
        assert [message.seq for message in messages] == [1, 2, 3, 4, 5, 6]
        if messages[3].is_streaming:
            assert first != "interrupted"
            stop = ChatMessageStopRequest(room_id=room_id, message_id=messages[3].message_id)
            assert (await chat.template.on_chat_message_stop_req(user, stop)).errorCode == 0

        async def answered() -> bool:
            found = (await chat.messages(user, room_id)).messages
            return not any(message.is_streaming for message in found)

        await until(answered, SOON_S)
        messages = (await chat.messages(user, room_id)).messages
        assert messages[3].metadata["finish_reason"] in (
            {first} if first else {"stopped", "interrupted"}
        )
        assert [message.content for message in messages][4:] == ["q1", "stub: q1"]
        await chat.send(user, room_id, "next")
    assert (await chat.rooms(user)).rooms[0].message_count == 8


async def all_written(chat: ChatHarness, user: ClientSession, room_id: str) -> None:
    await chat.persist()
    rows = await chat.rows(user, "fp_chat_window_get", room_id, 100)
    assert [row["seq"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["content"] for row in rows][3:] == ["half ", "q1", "stub: q1", "next", "stub: next"]
    assert await keys_for_good(chat) == []


async def asked_once(chat: ChatHarness) -> None:
    asked = [request.messages[-1]["content"] for request in chat.provider.requests]
    assert sorted(asked) == ["first", "next", "q0", "q1"]


@pytest.fixture
async def crashable(
    private_server: RedisServer, tmp_path: Path, app_id: str, provider: OpenAIStub
) -> AsyncIterator[ChatHarness]:
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with running_harness(
        private_server.settings(), database, app_id, provider, **NEVER
    ) as harness:
        yield harness


@pytest.mark.parametrize("written", [False, True], ids=["nothing written", "question written"])
async def test_a_room_is_served_at_once_when_redis_restarted_while_its_reply_ran(
    crashable: ChatHarness, private_server: RedisServer, written: bool
) -> None:
    chat, user = crashable, await crashable.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["said"]))
    await chat.send(user, room.room_id, "first")
    sends = await half_said(chat, user, room.room_id)
    if written:
        await chat.persist()
    await asyncio.to_thread(private_server.kill)
    await asyncio.to_thread(private_server.start)
    await goes_on(chat, user, room.room_id, first="stopped")
    async with asyncio.timeout(SOON_S):
        assert [response.errorCode for response in await asyncio.gather(*sends)] == [0, 0]
    await all_written(chat, user, room.room_id)
    await asked_once(chat)


DAMAGES = {
    "new run": [],
    "record gone": ["record"],
    "list gone": ["messages"],
    "record of another type": ["record!"],
    "list of another type": ["messages!"],
    "waiting turns of another type": ["waiting!"],
}


@pytest.mark.chat_settings(**NEVER)
@pytest.mark.parametrize("damage", DAMAGES)
async def test_replies_outlive_what_redis_knew_of_their_room(
    chat: ChatHarness, damage: str
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["said"]))
    await chat.send(user, room.room_id, "first")
    await half_said(chat, user, room.room_id)
    for name in DAMAGES[damage]:
        key = getattr(chat.keys.room(room.room_id), name.rstrip("!"))
        await chat.redis.execute("DEL", key)
        if name.endswith("!"):
            await chat.redis.execute("ZADD", key, 1, "x")
    if damage == "new run":
        await chat.redis.execute(
            "INCR",
            chat.keys.partition(chat.keys.account_partition(user.session.account_id)).generation,
        )
    await goes_on(chat, user, room.room_id, first="" if "record" in damage else "stopped")
    await all_written(chat, user, room.room_id)
    await asked_once(chat)


@pytest.mark.chat_settings(**NEVER)
@pytest.mark.parametrize(
    ("field", "value"),
    [("shard", None), ("owner", "nobody"), ("turn", "nonsense"), ("turn", "|||||")],
)
async def test_a_turn_that_cannot_be_read_does_not_keep_others_open(
    chat: ChatHarness, field: str, value: str | None
) -> None:
    user = await chat.user()
    rooms = [await chat.room(user) for _ in range(2)]
    for room in rooms:
        chat.provider.script(Reply(tokens=["said"]))
        await chat.send(user, room.room_id, "first")
        await half_said(chat, user, room.room_id)
    record = chat.keys.room(rooms[0].room_id).record
    await chat.redis.execute(
        *(("HDEL", record, field) if value is None else ("HSET", record, field, value))
    )
    turns = ReplySlots(
        chat.redis, chat.template.parts.messages._streams, chat.template.wiring.settings
    )
    assert [found.slot.room_id for found in await turns.expired(all_open=True)] == [
        rooms[1].room_id
    ]


@pytest.mark.chat_settings(**NEVER)
async def test_somebody_elses_request_does_not_end_a_reply(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["said"]))
    await chat.send(user, room.room_id, "first")
    await chat.persist()
    await half_said(chat, user, room.room_id)
    stranger = await chat.user()
    while chat.keys.account_partition(stranger.session.account_id) != chat.keys.account_partition(
        user.session.account_id
    ):
        stranger = await chat.user()
    await chat.redis.execute("DEL", chat.keys.room(room.room_id).record)
    async with asyncio.timeout(SOON_S):
        assert (await chat.try_messages(stranger, room.room_id)).errorCode == 1004
    waiting = await chat.redis.execute("LRANGE", chat.keys.room(room.room_id).messages, 2, -1)
    assert [text.count('"is_streaming":true') for text in waiting] == [0, 1, 0, 1]
    await goes_on(chat, user, room.room_id)


async def test_everything_that_was_streamed_of_an_interrupted_reply_is_kept(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    parts, caller = chat.template.parts, await chat.template.caller_of(user)
    ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
    accepted = await parts.messages.accept(
        caller, room.room_id, NewMessage(*ids, "q", None, None, "queue")
    )
    assert accepted.slot is not None
    turns = ReplySlots(chat.redis, parts.messages._streams, chat.template.wiring.settings)
    await turns.append(accepted.slot, "claim", 0, "said ", "")
    await turns.append(accepted.slot, "claim", 5, "meanwhile", "")
    assert await turns.interrupt(accepted.slot) is not None
    reply = (await chat.messages(user, room.room_id)).messages[1]
    assert (reply.content, reply.is_streaming) == ("said meanwhile", False)


async def stored_by_a_lost_redis(
    chat: ChatHarness, user: ClientSession, room_id: str, *seqs: int
) -> None:
    """A batch of a Redis that was lost comes to the database: another pair of messages with these
    numbers."""
    partition, parent = chat.keys.account_partition(user.session.account_id), None
    for seq, sender in zip(seqs, ("USER", "AI"), strict=True):
        message_id = chat.keys.new_id(partition)
        row = (
            message_id,
            room_id,
            user.session.account_db_key,
            seq,
            sender,
            f"late {seq}",
            parent,
            "{}",
        )
        await chat.rows(user, "fp_chat_message_save", *row, "2026-01-01 00:00:00.000", None, None)
        parent = message_id


@pytest.mark.chat_settings(**NEVER)
async def test_reply_goes_on_when_its_question_got_another_number(chat: ChatHarness) -> None:
    """Decision 0033: a late batch took the number of the question of a running reply, and of one
    that waits."""
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["said"]))
    await chat.send(user, room.room_id, "first")
    await chat.persist()
    sends = await half_said(chat, user, room.room_id)
    await stored_by_a_lost_redis(chat, user, room.room_id, 3, 4)
    await chat.persist()
    async with asyncio.timeout(SOON_S):
        messages = (await chat.messages(user, room.room_id)).messages
        assert [(message.seq, message.content) for message in messages[2:]] == [
            (3, "late 3"),
            (4, "late 4"),
            (5, "q0"),
            (6, "half "),
            (7, "q1"),
            (8, ""),
        ]
        stop = ChatMessageStopRequest(room_id=room.room_id, message_id=messages[5].message_id)
        assert (await chat.template.on_chat_message_stop_req(user, stop)).errorCode == 0
        answers = await asyncio.gather(*sends)
    assert [
        (answer.errorCode, answer.message and answer.message.content) for answer in answers
    ] == [
        (0, "half "),
        (0, "stub: q1"),
    ]
    await chat.persist()
    rows = await chat.rows(user, "fp_chat_window_get", room.room_id, 100)
    assert [row["content"] for row in rows[4:]] == ["q0", "half ", "q1", "stub: q1"]
    assert [request.messages[-1]["content"] for request in chat.provider.requests] == [
        "first",
        "q0",
        "q1",
    ]


@pytest.mark.chat_settings(**NEVER)
async def test_reply_goes_on_when_its_place_is_taken(chat: ChatHarness) -> None:
    """A host's message took the number directly after the question: the reply comes after it."""
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["said"]))
    await chat.send(user, room.room_id, "first")
    sends = await half_said(chat, user, room.room_id, client_id="q")
    await chat.persist()
    await stored_by_a_lost_redis(chat, user, room.room_id, 4, 6)
    await chat.redis.execute(
        "INCR", chat.keys.partition(chat.keys.account_partition(user.session.account_id)).generation
    )
    async with asyncio.timeout(SOON_S):
        messages = (await chat.messages(user, room.room_id)).messages
        assert [message.content for message in messages[2:]] == [
            "q0",
            "late 4",
            "q1",
            "late 6",
            "half ",
            "",
        ]
        stop = ChatMessageStopRequest(room_id=room.room_id, message_id=messages[6].message_id)
        assert (await chat.template.on_chat_message_stop_req(user, stop)).errorCode == 0
        answers = await asyncio.gather(*sends)
    assert [
        (answer.errorCode, answer.message and answer.message.content) for answer in answers
    ] == [
        (0, "half "),
        (0, "stub: q1"),
    ]
    again = await chat.try_send(user, room.room_id, "q0", client_message_id="q0")
    assert again.message == answers[0].message
    asked = [request.messages[-1]["content"].split()[-1] for request in chat.provider.requests]
    assert asked == ["first", "q0", "q1"]


async def copied(chat: ChatHarness) -> dict[str, str]:
    """All keys, kept aside beside each other: key → copy."""
    names = await chat.redis.scan(f"{chat.container.settings.app_id}:*")
    copies = {name: f"{name}:older" for name in names}
    for name, copy in copies.items():
        await chat.redis.execute("COPY", name, copy)
    return copies


async def come_back_older(chat: ChatHarness, user: ClientSession, copies: dict[str, str]) -> None:
    """Redis is another run of the file that it wrote when ``copies`` were made."""
    names = await chat.redis.scan(f"{chat.container.settings.app_id}:*")
    commands: list[tuple[str, ...]] = [
        ("DEL", name) for name in names if name not in copies.values()
    ]
    commands += [("COPY", copy, name) for name, copy in copies.items()]
    commands += [("DEL", copy) for copy in copies.values()]
    commands += [
        (
            "INCR",
            chat.keys.partition(chat.keys.account_partition(user.session.account_id)).generation,
        )
    ]
    await chat.redis.execute_many(commands)


@pytest.mark.chat_settings(**NEVER | {"reply_lease_s": 3})
@pytest.mark.parametrize("then", ["answered", "running"])
async def test_replies_go_on_when_redis_came_back_without_their_questions(
    chat: ChatHarness, then: str
) -> None:
    """The record is whole, of an older run, and does not know the questions, which are in the
    database.

    ``then``: what the reply before them was doing when that record was written."""
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(tokens=["said"], hang=then == "running"))
    first = asyncio.create_task(chat.try_send(user, room.room_id, "first"))

    async def said() -> bool:
        return (await chat.texts(user, room.room_id))[1:] == ["said"]

    await until(said)
    if then == "answered":
        await first
        await chat.persist()
    older = await copied(chat)
    turn = await chat.redis.execute("HGET", chat.keys.room(room.room_id).record, "turn")
    if then == "running":
        reply = (await chat.messages(user, room.room_id)).messages[1]
        stop = ChatMessageStopRequest(room_id=room.room_id, message_id=reply.message_id)
        assert (await chat.template.on_chat_message_stop_req(user, stop)).errorCode == 0
        await first
    sends = await half_said(chat, user, room.room_id)
    await chat.persist()
    await come_back_older(chat, user, older)

    async def noticed() -> bool:
        is_back = await chat.redis.execute(
            "HGET", chat.keys.room(room.room_id).record, "turn"
        ) not in (None, turn)
        return is_back or sends[0].done()

    await until(noticed)
    await goes_on(chat, user, room.room_id, first="stopped")
    async with asyncio.timeout(SOON_S):
        answers = await asyncio.gather(*sends)
    assert [answer.errorCode for answer in answers] == [0, 0]
    await all_written(chat, user, room.room_id)
    await asked_once(chat)


@pytest.mark.chat_settings(reply_lease_s=0.3)
async def test_lost_reply_ends_though_the_database_takes_no_writes(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room is read at once; what ends the reply is written when the database takes it."""
    user = await chat.user()
    room = await chat.room(user)
    accepted = await chat.accepted(user, room.room_id, "one")
    assert accepted.slot is not None
    await chat.hush()
    await chat.persist()
    await chat.forget_everything()
    database = chat.container.database
    call = database.call_shard_procedure

    async def read_only(shard_id: int, name: str, params: Any = ()) -> list[dict[str, Any]]:
        if not name.endswith(("_get", "_find", "_latest")):
            raise ServiceUnavailable("database", "read only")
        return await call(shard_id, name, params)

    with monkeypatch.context() as patch:
        patch.setattr(database, "call_shard_procedure", read_only)
        reply = (await chat.messages(user, room.room_id)).messages[1]
    assert (reply.content, reply.metadata["finish_reason"], reply.seq) == ("", "interrupted", 2)
    assert reply.parent_message_id == accepted.slot.question_id
    assert (await chat.rooms(user)).rooms[0].message_count == 2
    await chat.send(user, room.room_id, "two")
    await chat.persist()
    assert await keys_for_good(chat) == []
    rows = await chat.rows(user, "fp_chat_window_get", room.room_id, 100)
    assert [row["content"] for row in rows] == ["one", "", "two", "stub: two"]
    assert rows[1]["message_id"] == reply.message_id
    await chat.forget_everything()
    assert await chat.texts(user, room.room_id) == ["one", "", "two", "stub: two"]
    assert chat.provider.calls == 1


@pytest.mark.chat_settings(reply_lease_s=0.3)
@pytest.mark.parametrize("ran", [False, True], ids=["before the fill", "after it"])
async def test_lost_reply_ends_once_when_the_loading_process_dies(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch, ran: bool
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    await chat.accepted(user, room.room_id, "one")
    await chat.hush()
    await chat.persist()
    await chat.forget_everything()
    cache = chat.template.parts.messages._loaders.rooms.context.cache
    run_script = cache.run_script

    async def dies(which: Any, *args: Any, **more: Any) -> Any:
        if which is not SCRIPTS["finish_room_load"]:
            return await run_script(which, *args, **more)
        if ran:
            await run_script(which, *args, **more)
        raise ServiceUnavailable("cache", "the process is dead")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "run_script", dies)
        await chat.try_messages(user, room.room_id)
    assert await chat.texts(user, room.room_id) == ["one", ""]
    await chat.persist()
    assert [
        row["content"] for row in await chat.rows(user, "fp_chat_window_get", room.room_id, 9)
    ] == ["one", ""]
    await chat.send(user, room.room_id, "two")
    assert await chat.texts(user, room.room_id) == ["one", "", "two", "stub: two"]
    assert chat.provider.calls == 1


@pytest.mark.chat_settings(reply_lease_s=0.3)
async def test_reply_that_comes_after_all_takes_the_place_of_its_stand_in(
    chat: ChatHarness,
) -> None:
    """The batch with the reply was on its way while Redis was lost; the room shows the reply,
    once."""
    user = await chat.user()
    room = await chat.room(user)
    question = await chat.accepted(user, room.room_id, "one")
    assert question.slot is not None
    await chat.hush()
    await chat.persist()
    await chat.forget_everything()
    assert await chat.texts(user, room.room_id) == ["one", ""]
    await chat.persist()
    turn = question.slot
    row = (
        turn.reply_id,
        room.room_id,
        user.session.account_db_key,
        2,
        "AI",
        "said",
        turn.question_id,
        "{}",
    )
    await chat.rows(user, "fp_chat_message_save", *row, "2026-01-01 00:00:00.000", None, None)
    await chat.forget_everything()
    messages = (await chat.messages(user, room.room_id)).messages
    assert [(message.content, message.seq) for message in messages] == [("one", 1), ("said", 2)]
    assert messages[1].message_id == turn.reply_id


async def test_a_repeat_does_not_ask_what_an_older_redis_forgot(
    private_server: RedisServer, shared_sqlite: DatabaseBackend, app_id: str, provider: OpenAIStub
) -> None:
    """cases/faults.md U6: Redis comes back as it was before the claim; the client repeats its send
    elsewhere."""
    client_id = str(uuid.uuid4())
    settings = private_server.settings()
    async with (
        running_harness(settings, shared_sqlite, app_id, provider, batch_interval_s=0.2) as one,
        running_harness(settings, shared_sqlite, app_id, provider, batch_interval_s=0.2) as other,
    ):
        user = await one.user()
        room_id = (await one.room(user)).room_id
        provider.script(Reply(["on", "ce"], delay_s=2.0), *(Reply(["twice"]) for _ in range(3)))
        first = asyncio.create_task(
            one.try_send(user, room_id, "question", client_message_id=client_id)
        )
        await until(lambda: provider.calls == 1)
        await until(lambda: is_written(one))
        p = one.keys.account_partition(user.session.account_id)
        record = one.keys.room(room_id, p).record
        await one.redis.execute("HSET", record, "turn_phase", "ready")
        await one.redis.execute("HDEL", record, "turn_at", "turn_facts")
        await one.redis.execute("SET", one.keys.partition(p).generation, "77")
        again = await other.try_send(user, room_id, "question", client_message_id=client_id)
        sent = await first
        assert [each.message and each.message.content for each in (sent, again)] == ["once", "once"]
        assert provider.calls == 1


async def is_written(chat: ChatHarness) -> bool:
    return await chat.backlog() == 0


async def test_a_slot_in_doubt_is_free_after_its_lease(
    private_server: RedisServer, shared_sqlite: DatabaseBackend, app_id: str, provider: OpenAIStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """cases/faults.md U6: Redis restarts before the claim. Its process waits for the lease, which
    it does not renew."""
    claim, lost = ReplySlots.claim, asyncio.Event()

    async def claim_lost(self: ReplySlots, *args: Any, **options: Any) -> bool | None:
        if not lost.is_set():
            lost.set()
            partition = chat.keys.account_partition(user.session.account_id)
            await chat.redis.execute("SET", chat.keys.partition(partition).generation, "77")
            raise ServiceUnavailable("cache", "cut off")
        return await claim(self, *args, **options)

    never = {"reply_lease_s": 1.5, "reply_deadline_s": 300, "batch_interval_s": 0.2}
    async with running_harness(
        private_server.settings(), shared_sqlite, app_id, provider, **never
    ) as chat:
        user = await chat.user()
        room_id = (await chat.room(user)).room_id
        monkeypatch.setattr(ReplySlots, "claim", claim_lost)
        async with asyncio.timeout(PATIENCE_S):
            await chat.send(user, room_id, "question")
        assert provider.calls == 1
