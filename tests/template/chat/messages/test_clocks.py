"""Clocks that are wrong: the process's beside Redis', Redis' own going back, a client's running
ahead."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest

from base_server.template.chat.messages.repository import NewMessage
from tests.chat_harness import ChatHarness

MINUTE_MS = 60_000


async def redis_ms(chat: ChatHarness) -> int:
    seconds, micros = await chat.redis.execute("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_process_whose_clock_is_wrong_still_answers(
    chat: ChatHarness, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    user = await chat.user()
    room = await chat.room(user)
    right_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: right_ns() + minutes * MINUTE_MS * 1_000_000)
    await chat.send(user, room.room_id, "what time is it?")


async def test_lease_runs_out_by_redis_clock_despite_later_messages(
    chat: ChatHarness,
) -> None:
    """A lease runs out by Redis clock though messages are dated ahead of it."""
    user = await chat.user()
    room = await chat.room(user)
    caller = await chat.template.caller_of(user)
    # As after a failover to a server whose clock is an hour behind.
    ahead = await redis_ms(chat) + 60 * MINUTE_MS
    await chat.redis.execute(
        "ZADD", chat.keys.account(user.session.account_id).order, ahead, room.room_id
    )
    ids = [chat.keys.new_id(caller.partition) for _ in range(3)]
    accepted = await chat.template.parts.messages.accept(
        caller, room.room_id, NewMessage(*ids, "one", None, None, "queue")
    )
    assert accepted.slot is not None
    now_ms = await redis_ms(chat)
    lease = float(
        await chat.redis.execute(
            "ZSCORE", chat.keys.partition(caller.partition).leases, room.room_id
        )
    )
    assert now_ms < lease < now_ms + MINUTE_MS
    assert accepted.slot.deadline_ms < now_ms + 10 * MINUTE_MS
    assert (
        datetime.fromisoformat(
            (await chat.messages(user, room.room_id)).messages[0].timestamp
        ).timestamp()
        > ahead / 1000
    )


@pytest.mark.chat_settings(window=4)
async def test_before_timestamp_takes_naive_times_and_microseconds(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    for n in range(4):
        await chat.send(user, room.room_id, f"q{n}")
    everything = (await chat.messages(user, room.room_id)).messages
    await chat.persist()
    for index, message in enumerate(everything):
        at = datetime.fromisoformat(message.timestamp)
        naive = at.astimezone().replace(tzinfo=None)  # this server's local time
        found = await chat.messages(user, room.room_id, before_timestamp=naive)
        assert [earlier.seq for earlier in found.messages] == list(range(1, index + 1))
        just_after = at + timedelta(microseconds=1)
        found = await chat.messages(user, room.room_id, before_timestamp=just_after)
        assert [earlier.seq for earlier in found.messages] == list(range(1, index + 2))
