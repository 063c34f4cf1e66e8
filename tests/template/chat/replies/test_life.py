"""The life of a reply: its state machine, and a running reply under random sequences of events."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.conversation import (
    Question,
    ReplyChunk,
    ReplyEnd,
    ReplyItem,
    ReplyStart,
)
from base_server.service.llm.llm_errors import AIUnavailable
from base_server.template.chat.cache.load import Loaded
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.replies import ending, running
from base_server.template.chat.replies.life import FINISHES, ReplyLife, ReplyState, StopReason
from base_server.template.chat.replies.runner import ChatReplies
from base_server.template.chat.replies.running import ReplyServices
from base_server.template.chat.replies.signals import ReplySignal, ReplySignals
from base_server.template.chat.replies.slot import ReplySlot, RoomNotLoaded, SlotLost
from base_server.template.chat.replies.slots import EndedReply, SlotQuestion
from base_server.template.chat.settings import ChatSettings

# Written out by hand from the design, not from the table in the code: before -> after.
TRANSITIONS = {
    "waiting": "claiming ending",
    "claiming": "waiting answering ending",
    "answering": "ending",
    "ending": "done",
    "done": "",
}
# Reason -> what happens before the provider is called, and afterwards.
ENDS = {
    "completed": ("COMPLETE", "COMPLETE"),
    "question deleted": ("STOPPED", "STOPPED"),
    "timed out": ("UNAVAILABLE", "TIMED_OUT"),
    "failed": ("UNAVAILABLE", "UNAVAILABLE"),
    "no capacity": ("HANDED_OVER", "UNAVAILABLE"),
    "ended elsewhere": ("RELEASED", "RELEASED"),
    "shutdown": ("HANDED_OVER", "INTERRUPTED"),
}
RUNNING = (ReplyState.WAITING, ReplyState.CLAIMING, ReplyState.ANSWERING)


def life_in(state: ReplyState) -> ReplyLife:
    life = ReplyLife()
    life.state = state
    return life


@pytest.mark.parametrize(("before", "after"), [*itertools.product(ReplyState, ReplyState)])
def test_a_transition_is_allowed_only_by_the_table(before: ReplyState, after: ReplyState) -> None:
    life = life_in(before)
    if after.value in TRANSITIONS[before.value].split():
        life.move(after)
        assert life.state is after
    else:
        with pytest.raises(ValueError, match=f"from {before} to {after}"):
            life.move(after)
        assert life.state is before


@pytest.mark.parametrize(("state", "reason"), [*itertools.product(RUNNING, StopReason)])
def test_an_end_does_what_the_table_says(state: ReplyState, reason: StopReason) -> None:
    life = life_in(state)
    finish = life.end(reason)
    assert finish.name == ENDS[reason.value][state is ReplyState.ANSWERING]
    assert (life.state, life.reason) == (ReplyState.ENDING, reason)


@pytest.mark.parametrize(("first", "second"), [*itertools.product(StopReason, StopReason)])
def test_the_first_reason_to_stop_counts(first: StopReason, second: StopReason) -> None:
    life = ReplyLife()
    assert life.cancel(first)
    assert not life.cancel(second)
    assert life.end(second) is FINISHES[first][0]
    assert life.reason is first


@pytest.mark.parametrize("state", [ReplyState.ENDING, ReplyState.DONE])
def test_a_reply_that_ends_is_not_cancelled(state: ReplyState) -> None:
    life = life_in(state)
    assert not life.cancel(StopReason.SHUTDOWN)
    assert life.reason is None


@pytest.mark.parametrize("reason", StopReason)
def test_only_a_shutdown_awaits_a_claim_in_flight(reason: StopReason) -> None:
    assert life_in(ReplyState.CLAIMING).cancel(reason) is (reason is not StopReason.SHUTDOWN)


class Slots:
    """The slot of one reply, as Redis keeps it. Every call and every answer takes an iteration of
    the loop."""

    def __init__(self) -> None:
        self.is_granted = False
        self.is_over = False
        self.has_question = True
        self.needs_load = False
        self.outages = 0
        self.claimed_by = ""
        self.ends: list[dict[str, Any]] = []
        self.handed_over = 0

    async def _call(self, claim_id: str = "") -> None:
        await asyncio.sleep(0)
        if self.outages:
            self.outages -= 1
            raise ServiceUnavailable("cache", "away")
        if self.is_over or self.claimed_by not in ("", claim_id):
            raise SlotLost
        if self.needs_load:
            raise RoomNotLoaded

    async def read_question(self, _: ReplySlot, claim_id: str, **__: Any) -> SlotQuestion | None:
        await self._call(claim_id)
        text = "question" if self.has_question else ""
        return SlotQuestion(text, ()) if self.is_granted else None

    async def claim(self, _: ReplySlot, claim_id: str, **__: Any) -> bool | None:
        """A claim that was sent reaches Redis, late perhaps, also without a caller."""
        claim = asyncio.ensure_future(self._claim(claim_id))
        claim.add_done_callback(lambda done: done.exception())
        return await asyncio.shield(claim)

    async def _claim(self, claim_id: str) -> bool | None:
        for _ in range(3):
            await asyncio.sleep(0)
        await self._call(claim_id)
        if not self.is_granted:
            return None
        self.claimed_by = claim_id
        await asyncio.sleep(0)
        return self.has_question

    async def restore(self, _: ReplySlot) -> bool:
        return True

    async def load_room(self, _: Caller, __: str) -> Loaded:
        self.needs_load = False
        return Loaded.LOADED

    async def append(self, _: ReplySlot, claim_id: str, *__: Any, **___: Any) -> bool:
        await self._call(claim_id)
        return False

    async def end(
        self, _: ReplySlot, claim_id: str, __: str, metadata: dict[str, Any], **___: Any
    ) -> EndedReply:
        await asyncio.sleep(0)
        if self.is_over:
            return EndedReply("theirs", is_ours=False)
        if self.claimed_by not in ("", claim_id):
            raise SlotLost
        self.is_over = True
        self.ends.append(metadata)
        return EndedReply("ours", is_ours=True)

    async def hand_over(self, _: ReplySlot, claim_id: str) -> None:
        await asyncio.sleep(0)
        self.handed_over += 1
        if self.claimed_by == claim_id:
            self.claimed_by = ""

    async def release(self, _: ReplySlot) -> bool:
        return not self.is_over

    async def final(self, _: ReplySlot) -> str:
        return ""


class Provider:
    """Says what is put into ``items``. ``calls``: requests that went out."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[ReplyItem | Exception] = asyncio.Queue()
        self.calls = 0

    async def stream_claimed(
        self,
        ask: Callable[[], Awaitable[Question]],
        claim: Callable[[], Awaitable[None]],
        **_: Any,
    ) -> AsyncGenerator[ReplyItem, None]:
        await asyncio.sleep(0)
        await ask()
        yield ReplyStart("model", 1)
        await claim()
        self.calls += 1
        while True:
            item = await self.items.get()
            if isinstance(item, Exception):
                raise item
            yield item


class ServerHarness:
    """A reply that runs, and everything that can happen to it."""

    def __init__(self) -> None:
        self.slots, self.provider, self.signals = Slots(), Provider(), ReplySignals()
        self.tasks = TaskRegistry()
        services = ReplyServices(
            cast(Any, self.slots),
            self.slots.load_room,
            self.provider,
            self.signals,
            ChatSettings(delta_interval_s=0.001),
            self.tasks,
        )
        self.replies = ChatReplies(services)
        self.result: str | BaseException = ""
        self.is_stopped = self.is_cancelled = False
        slot = ReplySlot("token", Caller("account", 1, 1, 0), "room", "reply", 2, "q", 0, "persona")
        self.replies.start(slot, None, is_granted=False, is_watched=True)
        self.task = self.replies._running["reply"].task

    def slot_granted(self) -> None:
        self.slots.is_granted = True
        self.signals.notify_local("reply", ReplySignal.READY)

    def slot_waits_again(self) -> None:
        self.slots.is_granted = bool(self.slots.claimed_by)

    def provider_text(self) -> None:
        self.provider.items.put_nowait(ReplyChunk("text", 1))

    def provider_end(self) -> None:
        self.provider.items.put_nowait(ReplyEnd("model", 1, 1, "stop", 1))

    def provider_failure(self) -> None:
        self.provider.items.put_nowait(AIUnavailable("broken"))

    def stopped_by_user(self) -> None:
        self.slots.is_over = True
        self.signals.notify_local("reply", ReplySignal.ENDED)

    def deleted_unnoticed(self) -> None:
        self.slots.is_over = True

    def question_deleted(self) -> None:
        self.slots.has_question = False

    def slot_lost(self) -> None:
        self.slots.claimed_by = "another process"

    def room_expired(self) -> None:
        self.slots.needs_load = not self.slots.claimed_by

    def redis_away(self) -> None:
        self.slots.outages += 1

    def drained(self) -> None:
        self.is_stopped = True
        self.tasks.spawn(self.replies.stop(0.0), "drain")

    def shutdown(self) -> None:
        if (reply := self.replies._running.get("reply")) is not None:
            reply.cancel(StopReason.SHUTDOWN)

    def process_cancelled(self) -> None:
        self.is_stopped = self.is_cancelled = True
        self.task.cancel()

    async def settle(self, iterations: int) -> None:
        for _ in range(iterations):
            await asyncio.sleep(0)

    async def end(self) -> None:
        async with asyncio.timeout(10):
            if not self.task.done() and not self.is_stopped:
                await self.replies.stop(0.0)
            await asyncio.wait({self.task})
        # A second cancellation reaches the task, but not the end that it awaits.
        assert await self.tasks.drain(10) == 0
        await self.settle(10)
        if self.task.cancelled():
            self.result = asyncio.CancelledError()
        else:
            self.result = self.task.exception() or self.task.result()


EVENTS = [name for name in vars(ServerHarness) if name not in ("settle", "end") and name[0] != "_"]


async def play(events: list[tuple[str, int]]) -> ServerHarness:
    harness = ServerHarness()
    await harness.settle(1)
    for name, iterations in events:
        getattr(harness, name)()
        await harness.settle(iterations)
    await harness.end()
    slots, provider, outcome = harness.slots, harness.provider, harness.result
    assert not len(harness.replies)
    assert provider.calls <= 1
    assert len(slots.ends) + slots.handed_over <= 1, "one end, or one hand-over"
    if slots.handed_over:
        assert not provider.calls, "a slot that is handed over was not used"
        assert harness.is_cancelled or slots.claimed_by in ("", "another process")
    if isinstance(outcome, ending.ReplyHandedOver):
        assert slots.claimed_by == "another process"
    elif not isinstance(outcome, asyncio.CancelledError):
        # A process that cancels an end leaves the reply to the sweeper of another one.
        assert slots.is_over or not provider.calls, "a reply that was asked has ended"
        assert isinstance(outcome, ending.ReplyPostponed) == bool(slots.handed_over)
        assert (outcome == "ours") == bool(slots.ends)
    return harness


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 6)), max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_reply_ends_once_whatever_happens(events: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (running, ending):
            patch.setattr(module, "_RETRY_S", 0.0)
        asyncio.run(play(events))


@pytest.mark.parametrize("event", ["drained", "shutdown"])
@pytest.mark.parametrize("iterations", range(12))
def test_a_shutdown_at_any_moment_of_a_claim_ends_once(iterations: int, event: str) -> None:
    harness = asyncio.run(play([("slot_granted", iterations), (event, 20)]))
    assert len(harness.slots.ends) == harness.provider.calls


async def test_a_shutdown_before_its_first_step_hands_the_slot_over() -> None:
    harness = ServerHarness()
    harness.is_stopped = True
    harness.shutdown()
    await harness.end()
    assert isinstance(harness.result, ending.ReplyPostponed)


@pytest.mark.parametrize("text", [[], ["provider_text"]], ids=["at the end", "at a write"])
def test_a_reply_that_another_process_has_is_left_to_it(text: list[str]) -> None:
    names = ["slot_granted", "slot_lost", *text, "provider_end"]
    harness = asyncio.run(play([(name, 20) for name in names]))
    assert harness.provider.calls == 1
    assert isinstance(harness.result, ending.ReplyHandedOver)


def test_a_second_cancellation_does_not_cut_the_end() -> None:
    events = [("slot_granted", 20), ("process_cancelled", 1), ("process_cancelled", 1)]
    harness = asyncio.run(play(events))
    assert [end["finish_reason"] for end in harness.slots.ends] == ["interrupted"]


@pytest.mark.parametrize(
    ("events", "finish_reason"),
    [
        ("slot_granted provider_text provider_end", "stop"),
        ("slot_granted provider_text provider_failure", "error"),
        ("slot_granted provider_text drained", "interrupted"),
        ("slot_granted provider_text process_cancelled", "interrupted"),
        ("question_deleted slot_granted", "stopped"),
        ("room_expired slot_granted redis_away provider_text provider_end", "stop"),
        ("drained", None),
        ("slot_granted provider_text stopped_by_user", None),
        ("slot_lost slot_granted", None),
    ],
)
def test_an_event_leads_to_its_finish_reason(events: str, finish_reason: str | None) -> None:
    harness = asyncio.run(play([(name, 20) for name in events.split()]))
    assert [end["finish_reason"] for end in harness.slots.ends] == (
        [finish_reason] if finish_reason else []
    )
