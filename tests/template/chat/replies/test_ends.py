"""Replies end once and whole: when their process stops, when keys are broken, when the Redis user
has few rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.llm.conversation import ReplyItem
from base_server.service.llm.llm_errors import AIUnavailable
from base_server.service.redis_client.errors import CacheCommandError
from base_server.template.base.client_session import ClientSession
from base_server.template.chat.replies.running import RunningReply
from base_server.template.chat.replies.slot import ReplySlot, RoomNotLoaded
from base_server.template.chat.replies.slots import ReplySlots, SlotQuestion
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub, Reply
from tests.waiting import PATIENCE_S, until

HALF = Reply(tokens=["half "], hang=True)


async def listed(chat: ChatHarness, user: ClientSession, room_id: str, count: int) -> None:
    async def all_there() -> bool:
        return len((await chat.messages(user, room_id)).messages) == count

    await until(all_there)


async def test_a_stop_does_not_cut_an_end_that_waits_for_redis(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    end, tried = ReplySlots.end, asyncio.Event()

    async def away_once(self: ReplySlots, *args: Any, **options: Any) -> Any:
        if tried.is_set():
            return await end(self, *args, **options)
        tried.set()
        raise ServiceUnavailable("cache", "away for a moment")

    monkeypatch.setattr(ReplySlots, "end", away_once)
    chat.provider.script(Reply(tokens=["all of it"]))
    sending = asyncio.create_task(chat.try_send(user, room.room_id, "one"))
    await tried.wait()
    await chat.template.parts.replies.stop(0.0)
    response = await sending
    assert response.message is not None
    assert (response.message.content, response.message.metadata["finish_reason"]) == (
        "all of it",
        "stop",
    )


async def test_a_question_that_waits_outlives_the_stop_of_its_process(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    replies = chat.template.parts.replies
    chat.provider.script(HALF)
    running = asyncio.create_task(chat.try_send(user, room.room_id, "one"))
    await until(lambda: chat.provider.calls == 1)
    waiting = asyncio.create_task(chat.try_send(user, room.room_id, "two", client_message_id="two"))
    await listed(chat, user, room.room_id, 4)
    await replies.stop(0.0)
    assert (await running).errorCode == 0
    assert (await waiting).errorCode == 5003
    assert [message.is_streaming for message in (await chat.messages(user, room.room_id)).messages][
        1::2
    ] == [
        False,
        True,
    ]
    # Who stops takes up nothing; who comes next answers it, and the repeated send gets that answer.
    replies.quiet()
    await replies.sweep(all_open=True)
    assert len(replies) == 0
    replies._is_quiet = False
    await replies.sweep(all_open=True)
    assert (await chat.try_send(user, room.room_id, "two", client_message_id="two")).errorCode == 0
    assert (await chat.texts(user, room.room_id))[2:] == ["two", "stub: two"]
    assert chat.provider.calls == 2


@pytest.mark.chat_settings(reply_lease_s=0.3, sweep_interval_s=0.1)
async def test_room_with_broken_keys_does_not_stop_the_sweep_of_others(
    chat: ChatHarness,
) -> None:
    """A room with broken keys does not keep other rooms from being swept."""
    user = await chat.user()
    rooms = [(await chat.room(user)).room_id for _ in range(3)]
    for room_id in rooms:
        await chat.accepted(user, room_id, "one")
    for key in (chat.keys.room(rooms[0]).record, chat.keys.room(rooms[1]).messages):
        await chat.redis.execute("SET", key, "not ours")

    async def ended() -> bool:
        return not any(
            message.is_streaming for message in (await chat.messages(user, rooms[2])).messages
        )

    await until(ended)


async def test_keys_of_another_type_do_not_keep_a_reply_from_its_end(
    chat: ChatHarness,
) -> None:
    """Waiting reply slots and a stream of another type do not keep a reply from its end."""
    user = await chat.user()
    room = await chat.room(user)
    sent = await chat.accepted(user, room.room_id, "one")
    assert sent.slot is not None
    stream = chat.keys.room(room.room_id).reply_stream(sent.slot.reply_id)
    for key in (chat.keys.room(room.room_id).waiting, stream):
        await chat.redis.execute("SET", key, "not ours")
    events = await chat.backlog()
    assert (
        await chat.template.parts.replies._services.slots.end(
            sent.slot, "claim", "said", {"finish_reason": "stop"}
        )
    ).is_ours
    assert await chat.backlog() == events + 1
    await chat.persist()
    await chat.send(user, room.room_id, "two")
    assert await chat.texts(user, room.room_id) == ["one", "said", "two", "stub: two"]


@pytest.mark.parametrize(
    "command", [("DEL",), ("SET", "not ours")], ids=["deleted", "of another type"]
)
@pytest.mark.chat_settings(sweep_interval_s=0.2, reply_lease_s=2)
async def test_leases_that_are_gone_block_no_room(
    chat: ChatHarness, command: tuple[str, ...]
) -> None:
    """cases/faults.md U5: nor the room of a process that died, once somebody sends there again."""
    user = await chat.user()
    room_id, other_id = [(await chat.room(user)).room_id for _ in range(2)]
    await chat.accepted(user, room_id, "one")
    name, *rest = command
    await chat.redis.execute(
        name,
        chat.keys.partition(chat.keys.account_partition(user.session.account_id)).leases,
        *rest,
    )
    await chat.send(user, other_id, "beside")
    assert await chat.texts(user, other_id) == ["beside", "stub: beside"]
    await chat.send(user, room_id, "two")
    assert await chat.texts(user, room_id) == ["one", "stub: one", "two", "stub: two"]


@pytest.mark.parametrize("step", ["append", "end", "look", "claim"])
async def test_a_reply_goes_on_beside_leases_of_another_type(chat: ChatHarness, step: str) -> None:
    """cases/faults.md U5."""
    user = await chat.user()
    room = await chat.room(user)
    turn = (await chat.accepted(user, room.room_id, "one")).slot
    assert turn is not None
    turns = chat.template.parts.replies._services.slots
    leases = chat.keys.partition(chat.keys.account_partition(user.session.account_id)).leases
    await chat.redis.execute("SET", leases, "not ours")
    if step == "append":
        await turns.append(turn, "claim", 0, "said", "")
    elif step == "end":
        assert (await turns.end(turn, "claim", "said", {"finish_reason": "stop"})).is_ours
    elif step == "look":
        assert await turns.read_question(turn, "claim")
    else:
        assert await turns.claim(turn, "claim")
    if step != "look":  # which needs no lease
        assert await chat.redis.execute("TYPE", leases) in ("zset", "none")


@pytest.mark.chat_settings(checkpoint_interval_s=0.01)
async def test_a_refused_piece_of_text_is_not_left_out(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    append, refused = ReplySlots.append, asyncio.Event()

    async def refused_once(
        self: ReplySlots, turn: Any, claim_id: str, start: int, text: str, usage: str, **more: Any
    ) -> bool:
        if text and not refused.is_set():
            refused.set()
            raise CacheCommandError("NOPERM", "for a moment")
        return await append(self, turn, claim_id, start, text, usage, **more)

    monkeypatch.setattr(ReplySlots, "append", refused_once)
    chat.provider.script(Reply(tokens=["one ", "two "], delay_s=0.1, hang=True))
    sending = asyncio.create_task(chat.try_send(user, room.room_id, "q"))
    await refused.wait()

    async def stored() -> str:
        messages = (await chat.messages(user, room.room_id)).messages
        return messages[1].content

    await until(stored)
    assert (await stored()).startswith("one ")
    await chat.template.parts.replies.stop(0.0)
    await sending


async def test_a_redis_user_who_may_not_publish_gets_whole_writes(
    private_server: RedisServer, tmp_path: Path, app_id: str, provider: OpenAIStub
) -> None:
    """Redis gives a new ACL user no channels; a script that fails after its first write leaves half
    of it."""
    limited = ("ACL", "SETUSER", "chat", "on", ">pw", "~*", "+@all", "resetchannels")
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with running_harness(
        private_server.settings(timeout_s=2), database, app_id, provider
    ) as chat:
        await chat.redis.execute(*limited)
    settings = private_server.settings(timeout_s=2, username="chat", password="pw")
    async with running_harness(settings, database, app_id, provider) as chat:
        user = await chat.user()
        room = await chat.room(user)
        provider.script(HALF)
        first = asyncio.create_task(chat.try_send(user, room.room_id, "one"))
        await until(lambda: provider.calls == 1)
        assert (await chat.try_send(user, room.room_id, "two", on_busy="interrupt")).errorCode == 0
        response = await first
        assert response.message is not None
        assert response.message.metadata["finish_reason"] == "stopped"
        assert (await chat.texts(user, room.room_id))[2:] == ["two", "stub: two"]


@pytest.mark.chat_settings(reply_lease_s=1.5)
async def test_lease_of_a_claim_with_lost_answer_is_renewed_while_loading(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 0037: the claim may have been stored; its process still asks, so nobody may end the
    reply meanwhile."""
    user = await chat.user()
    room = await chat.room(user)
    claim, look = ReplySlots.claim, ReplySlots.read_question
    is_claimed, is_loaded = asyncio.Event(), asyncio.Event()

    async def answer_lost(
        self: ReplySlots, turn: ReplySlot, claim_id: str, **options: Any
    ) -> bool | None:
        taken = await claim(self, turn, claim_id, **options)
        if not is_claimed.is_set():
            is_claimed.set()
            raise RoomNotLoaded
        return taken

    async def cold(
        self: ReplySlots, turn: ReplySlot, claim_id: str, **options: Any
    ) -> SlotQuestion | None:
        # A slow process looks again before it claims.
        if is_claimed.is_set() and not is_loaded.is_set():
            raise RoomNotLoaded
        return await look(self, turn, claim_id, **options)

    async def slow_load(_: RunningReply) -> float:
        await is_loaded.wait()
        return 0.0

    monkeypatch.setattr(ReplySlots, "claim", answer_lost)
    monkeypatch.setattr(ReplySlots, "read_question", cold)
    monkeypatch.setattr(RunningReply, "_load_room", slow_load)
    sending = asyncio.create_task(chat.try_send(user, room.room_id, "one"))
    leases = chat.keys.partition(chat.keys.account_partition(user.session.account_id)).leases

    async def ends_at() -> float:
        return float(await chat.redis.execute("ZSCORE", leases, room.room_id) or 0)

    try:
        await until(is_claimed.is_set)
        for _ in range(2):
            before = await ends_at()

            async def renewed(before: float = before) -> bool:
                return await ends_at() > before

            await until(renewed)
    finally:
        is_loaded.set()
    assert (await sending).errorCode == 0
    assert await chat.texts(user, room.room_id) == ["one", "stub: one"]
    assert chat.provider.calls == 1


async def test_handed_over_question_is_given_back_without_capacity(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 0037: a process that takes up a question and has no place among its calls does not
    end the reply."""
    user = await chat.user()
    room = await chat.room(user)
    await chat.hush()
    await chat.accepted(user, room.room_id, "one")
    replies = chat.template.parts.replies

    async def full(*args: Any, **options: Any) -> AsyncIterator[ReplyItem]:
        raise AIUnavailable("too many requests wait", called=False)
        yield

    with monkeypatch.context() as patch:
        patch.setattr(chat.container.ai, "stream_claimed", full)
        await replies.sweep(all_open=True)
        await until(lambda: len(replies) == 0)
    assert (await chat.messages(user, room.room_id)).messages[1].is_streaming
    await replies.sweep(all_open=True)
    await until(lambda: len(replies) == 0)
    assert await chat.texts(user, room.room_id) == ["one", "stub: one"]
    assert chat.provider.calls == 1
