"""The documented state calls on Valkey and Redis: the whole table, races, logs, memory."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceNotRunning, ServiceUnavailable
from base_server.template.chat.chat_state_machine import (
    ChatStateMachine,
    MessageState,
    RoomState,
    get_chat_state_machine,
)
from base_server.template.chat.common.chat_serialize import ChatMessageStopRequest
from base_server.template.chat.domain.states import ABSENT
from base_server.template.chat.settings import ChatSettings
from tests.backends_redis import RedisServer, running_cache
from tests.chat_harness import ChatHarness
from tests.openai_stub import Reply
from tests.waiting import until

# Written out by hand from the design, not from the table in the code: before -> after.
ROOM = {
    ABSENT: "CREATING",
    "CREATING": "PENDING DELETED",
    "PENDING": "PROCESSING DELETING DELETED",
    "PROCESSING": "PROCESSING ACTIVE DELETING",
    "ACTIVE": "DELETING",
    "DELETING": "DELETED",
    "DELETED": "",
}
MESSAGE = {
    ABSENT: "COMPOSING PENDING",
    "COMPOSING": "PENDING DELETED",
    "PENDING": "PROCESSING DELETED",
    "PROCESSING": "PROCESSING SENT DELETING",
    "SENT": "DELETING",
    "DELETING": "DELETED",
    "DELETED": "",
}
SMART_DELETE = {
    ABSENT: (False, None),
    "COMPOSING": (True, "DELETED"),
    "PENDING": (True, "DELETED"),
    "PROCESSING": (True, "DELETING"),
    "SENT": (True, "DELETING"),
    "DELETING": (True, "DELETING"),
    "DELETED": (True, "DELETED"),
}
LONGEST_PATH = (
    MessageState.COMPOSING,
    MessageState.PENDING,
    MessageState.PROCESSING,
    MessageState.PROCESSING,
    MessageState.SENT,
    MessageState.DELETING,
    MessageState.DELETED,
)


class States:
    """A state machine with ids of the test's own; ``put`` writes a state as the scripts store
    it."""

    def __init__(self, cache: CacheService, **settings: int) -> None:
        self.redis: CacheClient = cache.get_client()
        self.machine = ChatStateMachine(self.redis, ChatSettings(**settings))

    async def put(self, kind: str, state: str) -> str:
        name = uuid.uuid4().hex
        if state != ABSENT:
            await self.redis.set_string(f"{kind}:{name}", f"{state}|")
        return name

    async def walk(self, message_id: str, path: Sequence[MessageState]) -> None:
        for state in path:
            assert await self.machine.transition_message(message_id, state), state


@pytest.fixture
def states(real_cache: CacheService) -> States:
    return States(real_cache)


async def test_every_pair_of_room_states_moves_or_is_refused_as_designed(states: States) -> None:
    machine = states.machine
    for before, to in itertools.product(ROOM, RoomState):
        for from_state in (None, *RoomState):
            room_id = await states.put("room_state", before)
            result = await machine.transition_room(room_id, to, from_state)
            allowed = to.value in ROOM[before].split() and (
                from_state is None or from_state.value == before
            )
            assert bool(result) == allowed, (before, to, from_state)
            stored = await machine.get_room_state(room_id)
            assert (stored.value if stored else ABSENT) == (to.value if allowed else before)
            assert allowed or result.reason


async def test_every_pair_of_message_states_moves_or_is_refused_as_designed(states: States) -> None:
    machine = states.machine
    for before, to in itertools.product(MESSAGE, MessageState):
        for from_state in (None, *MessageState):
            message_id = await states.put("msg_state", before)
            result = await machine.transition_message(message_id, to, from_state)
            allowed = to.value in MESSAGE[before].split() and (
                from_state is None or from_state.value == before
            )
            assert bool(result) == allowed, (before, to, from_state)
            stored = await machine.get_message_state(message_id)
            assert (stored.value if stored else ABSENT) == (to.value if allowed else before)
            assert allowed or result.reason


async def test_a_refusal_says_what_stood_in_the_way(states: States) -> None:
    machine = states.machine
    message_id = await states.put("msg_state", "SENT")
    result = await machine.transition_message(message_id, MessageState.PENDING)
    assert (result.moved, result.before) == (False, "SENT")
    assert "SENT -> PENDING" in result.reason
    moved = await machine.transition_message(message_id, MessageState.DELETING)
    assert (moved.moved, moved.before, moved.reason) == (True, "SENT", "")
    absent = await machine.transition_room(uuid.uuid4().hex, RoomState.ACTIVE)
    assert (absent.moved, absent.before) == (False, None)


async def test_of_concurrent_transitions_one_wins(states: States) -> None:
    machine = states.machine
    for _ in range(5):
        message_id = await states.put("msg_state", "SENT")
        results = await asyncio.gather(
            *(machine.transition_message(message_id, MessageState.DELETING) for _ in range(20))
        )
        assert sum(map(bool, results)) == 1
        assert {result.before for result in results if not result} == {"DELETING"}
        room_id = await states.put("room_state", "PENDING")
        rivals = [RoomState.DELETED, RoomState.DELETING] * 10
        rooms = await asyncio.gather(
            *(machine.transition_room(room_id, to, RoomState.PENDING) for to in rivals)
        )
        (winner,) = [to for to, result in zip(rivals, rooms, strict=True) if result]
        assert await machine.get_room_state(room_id) is winner
        assert len(await machine.get_room_log(room_id)) == 1


async def test_the_log_has_the_last_transitions_with_their_times(states: States) -> None:
    machine = states.machine
    began = datetime.now(UTC) - timedelta(seconds=1)
    room_id = uuid.uuid4().hex
    for state in (RoomState.CREATING, RoomState.PENDING, RoomState.PROCESSING, RoomState.ACTIVE):
        assert await machine.transition_room(room_id, state)
    assert not await machine.transition_room(room_id, RoomState.CREATING)
    log = await machine.get_room_log(room_id)
    assert [state for state, _ in log] == ["CREATING", "PENDING", "PROCESSING", "ACTIVE"]
    times = [at for _, at in log]
    assert times == sorted(times)
    assert began <= times[0] <= times[-1] <= datetime.now(UTC) + timedelta(seconds=1)
    message_id = uuid.uuid4().hex
    await states.walk(message_id, LONGEST_PATH)
    last = [state for state, _ in await machine.get_message_log(message_id)]
    assert last == [state.value for state in LONGEST_PATH[-len(last) :]]
    assert len(last) >= 5
    assert await machine.get_message_log(uuid.uuid4().hex) == []


async def test_states_and_logs_end_with_their_ttl(real_cache: CacheService) -> None:
    states = States(real_cache, state_ttl_s=100, transition_log_ttl_s=50)
    message_id = uuid.uuid4().hex
    await states.walk(message_id, LONGEST_PATH[:2])
    key = states.redis.key(f"msg_state:{message_id}")
    assert 99_000 < await states.redis.execute("PTTL", key) <= 100_000
    old, new = (round((datetime.now(UTC).timestamp() - age_s) * 1000) for age_s in (60, 40))
    await states.redis.execute("SET", key, f"SENT|P{old},S{new}")
    assert [state for state, _ in await states.machine.get_message_log(message_id)] == ["SENT"]
    assert await states.machine.get_message_state(message_id) is MessageState.SENT
    await states.redis.execute("PEXPIRE", key, 1)
    while await states.redis.execute("EXISTS", key):
        await asyncio.sleep(0.001)
    assert await states.machine.get_message_state(message_id) is None
    assert await states.machine.transition_message(message_id, MessageState.PENDING)


@pytest.mark.parametrize("before", MESSAGE)
async def test_smart_delete_takes_the_shortest_way(states: States, before: str) -> None:
    message_id = await states.put("msg_state", before)
    done, after = SMART_DELETE[before]
    ok, text = await states.machine.smart_delete_message(message_id)
    assert ok is done
    assert text
    state = await states.machine.get_message_state(message_id)
    assert (state.value if state else None) == after
    assert (await states.machine.smart_delete_message(message_id))[0] is done


async def test_of_smart_deletes_and_a_consumer_at_once_the_message_ends_deleted(
    states: States,
) -> None:
    machine = states.machine
    for _ in range(10):
        message_id = await states.put("msg_state", "PENDING")
        results = await asyncio.gather(
            machine.transition_message(message_id, MessageState.PROCESSING),
            machine.smart_delete_message(message_id),
            machine.transition_message(message_id, MessageState.SENT),
            machine.smart_delete_message(message_id),
        )
        assert results[1][0]
        assert results[3][0]
        assert await machine.get_message_state(message_id) in (
            MessageState.DELETING,
            MessageState.DELETED,
        )


@pytest.mark.parametrize("stored", ["", "NONSENSE|P1", "|", "SENT", "SENT|garbage"])
async def test_invalid_state_value_counts_as_absent(states: States, stored: str) -> None:
    """A value that is no state counts as absent and is never an exception."""
    message_id = uuid.uuid4().hex
    await states.redis.set_string(f"msg_state:{message_id}", stored)
    expected = MessageState.SENT if stored.startswith("SENT") else None
    assert await states.machine.get_message_state(message_id) is expected
    assert await states.machine.get_message_log(message_id) == []
    to = MessageState.DELETING if expected else MessageState.PENDING
    assert await states.machine.transition_message(message_id, to)


async def test_a_key_of_another_type_counts_as_absent(states: States) -> None:
    message_id = uuid.uuid4().hex
    await states.redis.list_push_right(f"msg_state:{message_id}", "x")
    assert await states.machine.get_message_state(message_id) is None
    assert await states.machine.get_message_log(message_id) == []
    assert await states.machine.transition_message(message_id, MessageState.PENDING)


@pytest.mark.parametrize("real_cache_backend", ["valkey"], indirect=True)
async def test_state_and_log_of_a_message_take_at_most_250_bytes(states: States) -> None:
    partitions = states.redis.partitions
    redelivered = [*LONGEST_PATH[:3], *[MessageState.PROCESSING] * 20, *LONGEST_PATH[3:]]
    message_id = partitions.new_id(partitions.count - 1)
    key = states.redis.key(f"msg_state:{message_id}")
    for state in redelivered:
        await states.walk(message_id, [state])
        size = await states.redis.execute("MEMORY", "USAGE", key)
        assert size <= 250, await states.redis.execute("GET", key)


async def test_an_outage_is_raised_and_is_no_refusal(
    private_server: RedisServer, app_id: str
) -> None:
    async with running_cache(private_server.settings(timeout_s=1), app_id) as cache:
        machine = States(cache).machine
        message_id = uuid.uuid4().hex
        assert await machine.transition_message(message_id, MessageState.PENDING)
        private_server.kill()
        for attempt in (
            machine.transition_message(message_id, MessageState.PROCESSING),
            machine.get_message_state(message_id),
            machine.smart_delete_message(message_id),
            machine.get_room_log("room"),
        ):
            with pytest.raises(ServiceUnavailable):
                await attempt
        private_server.start()
        assert await machine.transition_message(message_id, MessageState.PROCESSING)


async def test_the_documented_name_speaks_to_the_running_chat(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    question = await chat.send(user, room.room_id)
    await chat.persist()
    machine = get_chat_state_machine()
    assert await machine.get_room_state(room.room_id) is RoomState.ACTIVE
    assert await machine.get_message_state(question.message_id) is MessageState.SENT
    await chat.template.stop()
    with pytest.raises(ServiceNotRunning):
        get_chat_state_machine()


async def test_smart_delete_message_deletes_the_message(chat: ChatHarness) -> None:
    """cases/promises.md P1."""
    user = await chat.user()
    room = await chat.room(user)
    question = await chat.send(user, room.room_id)
    await chat.persist()
    ok, text = await get_chat_state_machine().smart_delete_message(question.message_id)
    assert (ok, text) == (True, "DELETING")
    assert await chat.texts(user, room.room_id) == ["stub: hello"]
    assert await chat.delete_message(user, room.room_id, question.message_id) == 0
    await chat.persist()
    assert await chat.texts(user, room.room_id) == ["stub: hello"]
    assert await chat.state(question.message_id) == "DELETED"


@pytest.mark.parametrize("stopped", [False, True], ids=["ends", "is stopped"])
async def test_smart_delete_message_ends_a_running_reply(chat: ChatHarness, stopped: bool) -> None:
    """cases/promises.md P1."""
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(["half"], hang=stopped, delay_s=0.5))
    sending = asyncio.create_task(chat.try_send(user, room.room_id))
    await until(lambda: chat.provider.calls == 1)
    reply_id = (await chat.messages(user, room.room_id)).messages[1].message_id
    assert await get_chat_state_machine().smart_delete_message(reply_id) == (True, "DELETED")
    if stopped:
        request = ChatMessageStopRequest(room_id=room.room_id, message_id=reply_id)
        answer = await chat.template.on_chat_message_stop_req(user, request)
        assert answer.errorCode == 1005
    assert (await sending).errorCode == 1005
    assert await chat.texts(user, room.room_id) == ["hello"]
    assert await chat.state(reply_id) == "DELETED"
    await chat.persist()
    assert await chat.state(reply_id) == "DELETED"


@pytest.mark.parametrize("place", [0, 1], ids=["question", "reply"])
@pytest.mark.parametrize("before", ["PENDING", "PROCESSING", "SENT"])
async def test_states_that_an_older_process_wrote_on_are_understood(
    chat: ChatHarness, before: str, place: int
) -> None:
    """In a rolling change a process of the version before appends its log behind the room that it
    does not know."""
    user = await chat.user()
    room = await chat.room(user)
    await chat.send(user, room.room_id, "kept")
    await chat.send(user, room.room_id, "gone")
    if before == "SENT":
        await chat.persist()
    message = (await chat.messages(user, room.room_id)).messages[2 + place]
    key = chat.keys.message_state(message.message_id)
    now_ms = round(time.time() * 1000)
    more = {"PENDING": "", "PROCESSING": f",R{now_ms}", "SENT": f",R{now_ms},S{now_ms}"}[before]
    await chat.redis.execute("SET", key, f"{before}|P{now_ms}|{room.room_id}{more}")
    states = chat.template.parts.states
    log = [state for state, _ in await states.get_message_log(message.message_id)]
    assert log == ["PENDING", "PROCESSING", "SENT"][: len(log)]
    assert log[-1] == before
    done, _ = await states.smart_delete_message(message.message_id)
    assert done
    after = str(await chat.redis.execute("GET", key))
    if before == "PENDING":
        assert re.fullmatch(rf"DELETED\|P{now_ms},D\d+", after)
    else:
        assert re.fullmatch(rf"DELETING\|P{now_ms}{more},X\d+\|{room.room_id}", after)
    await chat.persist()
    assert re.fullmatch(r"DELETED\|P\d+(,[RSXD]\d+)+", str(await chat.redis.execute("GET", key)))
    rows = await chat.rows(user, "fp_chat_window_get", room.room_id, 100)
    assert [row["seq"] for row in rows if row["deleted"]] == [3 + place]


async def test_state_of_an_older_process_goes_to_sent_without_its_room(
    chat: ChatHarness,
) -> None:
    """State that an older process wrote on goes to sent without its room."""
    user = await chat.user()
    room = await chat.room(user)
    question = await chat.send(user, room.room_id, "one")
    key = chat.keys.message_state(question.message_id)
    await chat.redis.execute("SET", key, f"PROCESSING|P1764000000000|{room.room_id},R1764000000003")
    await chat.persist()
    text = str(await chat.redis.execute("GET", key))
    assert re.fullmatch(r"SENT\|P1764000000000,R1764000000003,S\d+", text)


async def test_state_sent_by_hand_keeps_its_room_until_mysql_has_it(chat: ChatHarness) -> None:
    """cases/promises.md P1: a delete must find the message until then."""
    user = await chat.user()
    room = await chat.room(user)
    question = await chat.send(user, room.room_id, "one")
    states, key = chat.template.parts.states, chat.keys.message_state(question.message_id)
    for to in (MessageState.PROCESSING, MessageState.SENT):
        assert await states.transition_message(question.message_id, to)
    text = str(await chat.redis.execute("GET", key))
    assert re.fullmatch(rf"SENT\|P\d+,R\d+,S\d+\|{room.room_id}", text)
    assert await chat.redis.execute("PTTL", key) == -1
    await chat.persist()
    assert await chat.redis.execute("GET", key) == text.rpartition("|")[0]
    assert await chat.redis.execute("PTTL", key) > 0
