"""The chat against a model of a few lines: whatever is done in whatever order, lists show what was acknowledged.

Two processes on the same servers, a small window, keys that expire in any combination, events delivered
again, new Redis runs, an emptied Redis. Hypothesis looks for the shortest story that ends in a difference.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.llm.conversation import ReplyChunk, ReplyEnd, ReplyItem, ReplyStart, Turn
from template.base.client_session import ClientSession
from template.chat.chat_events import QUEUE_NAME
from template.chat.common.chat_model import ChatMessage
from template.chat.common.chat_serialize import (
    ChatMessageSendResponse,
    ChatRoomDeleteRequest,
    ChatRoomUpdateRequest,
)
from tests.backends_mariadb import DatabaseBackend
from tests.chat_world import ChatWorld, running_world
from tests.openai_stub import OpenAIStub
from tests.template.chat.test_chat_settling import keys_for_good

T = TypeVar("T")
WINDOW = 4
# Kinds of keys that may have a TTL.
KINDS = ("room_rec", "messages", "room", "room_state", "msg_state", "rooms_rec", "rooms", "rooms_order")


@dataclass
class Message:
    message_id: str
    content: str
    deleted: bool = False


@dataclass
class Room:
    """``messages[n]`` has the seq n + 1; ``sent``: what each client_message_id sent, by the question's index."""

    room_id: str
    title: str
    messages: list[Message] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

    @property
    def visible(self) -> list[Message]:
        return [message for message in self.messages if not message.deleted]


class Echo:
    """The AI: says what it was asked. Keeps what it was given as history."""

    def __init__(self) -> None:
        self.heard: set[str] = set()
        self.calls = 0

    async def stream(
        self, message: str, session_id: str, *, ai_persona: str | None = None, history: Sequence[Turn] | None = None
    ) -> AsyncIterator[ReplyItem]:
        self.calls += 1
        self.heard = {turn.content for turn in history or ()}
        yield ReplyStart("echo", 1)
        yield ReplyChunk(f"re: {message}", 1)
        yield ReplyEnd("echo", 1, 1, "stop", 1)


class ChatStory(RuleBasedStateMachine):
    """``worlds`` and ``loop`` are set by the test; every story has an account of its own."""

    worlds: Sequence[ChatWorld]
    loop: asyncio.AbstractEventLoop
    echo: Echo

    def __init__(self) -> None:
        super().__init__()
        self.rooms: list[Room] = []  # live, oldest activity first
        self.gone: list[Room] = []
        self.settled: list[tuple[str, list[str]]] = []  # stream and fields of events that were written
        self.count = 0
        self.user: ClientSession

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    @property
    def chat(self) -> ChatWorld:
        return self.worlds[0]

    def pick(self, index: int, rooms: Sequence[Room]) -> Room:
        return rooms[index % len(rooms)]

    def touch(self, room: Room) -> None:
        self.rooms.remove(room)
        self.rooms.append(room)

    @initialize()
    def sign_up(self) -> None:
        self.user = self.run(self.chat.user())

    # What users do

    @rule(via=st.integers(0, 1))
    def create_room(self, via: int) -> None:
        self.count += 1
        request = {"title": f"room {self.count}", "client_request_id": f"r{self.count}"}
        made = self.run(self.worlds[via].room(self.user, **request))
        again = self.run(self.worlds[1 - via].room(self.user, **request))
        assert again.room_id == made.room_id
        self.rooms.append(Room(made.room_id, made.title))

    def accepted(self, room: Room, response: ChatMessageSendResponse) -> int:
        """Check an answer with two new messages and put them into the model; the question's index."""
        assert response.errorCode == 0, response.error
        question, reply = response.user_message, response.message
        assert question is not None
        assert reply is not None
        assert (reply.content, reply.parent_message_id) == (f"re: {question.content}", question.message_id)
        assert (question.seq, reply.seq) == (len(room.messages) + 1, len(room.messages) + 2)
        room.messages += [Message(message.message_id, message.content) for message in (question, reply)]
        self.touch(room)
        return len(room.messages) - 2

    @precondition(lambda self: self.rooms)
    @rule(index=st.integers(0, 9), via=st.integers(0, 1), busy=st.booleans())
    def send(self, index: int, via: int, busy: bool) -> None:
        """``busy``: what waits is written at the same time."""
        room = self.pick(index, self.rooms)
        self.count += 1
        client_id, work = f"c{self.count}", self.worlds[1 - via].persist() if busy else asyncio.sleep(0)

        async def both() -> ChatMessageSendResponse:
            sending = self.worlds[via].try_send(self.user, room.room_id, f"m{self.count}", client_message_id=client_id)
            return (await asyncio.gather(sending, work))[0]

        alive = {message.content for message in room.visible}
        room.sent[client_id] = self.accepted(room, self.run(both()))
        assert self.echo.heard <= alive
        assert {message.content for message in room.messages[-4:-2] if not message.deleted} <= self.echo.heard

    @precondition(lambda self: self.rooms)
    @rule(index=st.integers(0, 9))
    def send_two_at_once(self, index: int) -> None:
        room = self.pick(index, self.rooms)
        self.count += 1

        async def both() -> list[ChatMessageSendResponse]:
            sends = [
                world.try_send(self.user, room.room_id, f"m{self.count}.{n}") for n, world in enumerate(self.worlds)
            ]
            return list(await asyncio.gather(*sends))

        for response in sorted(self.run(both()), key=lambda found: (found.user_message or ChatMessage()).seq or 0):
            self.accepted(room, response)

    @precondition(lambda self: any(room.sent for room in self.rooms))
    @rule(index=st.integers(0, 9), which=st.integers(0, 9), via=st.integers(0, 1), other_body=st.booleans())
    def repeat_a_send(self, index: int, which: int, via: int, other_body: bool) -> None:
        room = self.pick(index, [room for room in self.rooms if room.sent])
        client_id = sorted(room.sent)[which % len(room.sent)]
        question, reply = room.messages[room.sent[client_id] : room.sent[client_id] + 2]
        calls = self.echo.calls
        body = "other" if other_body else question.content
        response = self.run(self.worlds[via].try_send(self.user, room.room_id, body, client_message_id=client_id))
        if other_body:
            assert response.errorCode == 1007
        elif question.deleted or reply.deleted:
            assert response.errorCode == 1008
        else:
            assert response.errorCode == 0, response.error
            found = (response.user_message, response.message)
            assert [message and message.message_id for message in found] == [question.message_id, reply.message_id]
        assert self.echo.calls == calls

    @precondition(lambda self: self.rooms)
    @rule(index=st.integers(0, 9), via=st.integers(0, 1))
    def rename(self, index: int, via: int) -> None:
        room = self.pick(index, self.rooms)
        self.count += 1
        room.title = f"title {self.count}"
        request = ChatRoomUpdateRequest(room_id=room.room_id, new_title=room.title)
        assert self.run(self.worlds[via].template.on_chat_room_update_req(self.user, request)).errorCode == 0

    @precondition(lambda self: any(room.messages for room in self.rooms))
    @rule(index=st.integers(0, 9), which=st.integers(0, 30), via=st.integers(0, 1))
    def delete_message(self, index: int, which: int, via: int) -> None:
        room = self.pick(index, [room for room in self.rooms if room.messages])
        message = room.messages[which % len(room.messages)]
        assert self.run(self.worlds[via].delete_message(self.user, room.room_id, message.message_id)) == 0
        message.deleted = True

    @precondition(lambda self: self.rooms)
    @rule(index=st.integers(0, 9), via=st.integers(0, 1))
    def delete_an_unknown_message(self, index: int, via: int) -> None:
        room = self.pick(index, self.rooms)
        assert self.run(self.worlds[via].delete_message(self.user, room.room_id, room.room_id)) == 1005

    @precondition(lambda self: self.rooms or self.gone)
    @rule(index=st.integers(0, 9), via=st.integers(0, 1))
    def delete_room(self, index: int, via: int) -> None:
        room = self.pick(index, self.rooms + self.gone)
        request = ChatRoomDeleteRequest(room_id=room.room_id)
        assert self.run(self.worlds[via].template.on_chat_room_delete_req(self.user, request)).errorCode == 0
        if room in self.rooms:
            self.rooms.remove(room)
            self.gone.append(room)

    # What happens to the servers

    @rule(via=st.integers(0, 1))
    def write(self, via: int) -> None:
        for lane in self.chat.container.queue.lanes(QUEUE_NAME):
            for _, fields in self.run(self.chat.redis.execute("XRANGE", lane.stream_key, "-", "+")):
                self.settled.append((lane.stream_key, fields))
        self.run(self.worlds[via].persist())

    @rule(kinds=st.sets(st.sampled_from(KINDS), min_size=1), part=st.sampled_from([0.3, 1.0]), seed=st.integers(0, 99))
    def expire(self, kinds: set[str], part: float, seed: int) -> None:
        """Some of the keys that may expire, do. (Events that wait are settled by whoever writes them.)"""
        chosen = random.Random(seed)
        names = sorted(name for kind in sorted(kinds) for name in self.keys(f"*}}:{kind}:*"))
        ttls = self.run(self.chat.redis.execute_many([("PTTL", name) for name in names]))
        dead = [name for name, ttl in zip(names, ttls, strict=True) if ttl > 0 and chosen.random() < part]
        if dead:
            self.run(self.chat.redis.execute("DEL", *dead))

    @precondition(lambda self: self.settled)
    @rule(seed=st.integers(0, 99), count=st.integers(1, 5))
    def deliver_again(self, seed: int, count: int) -> None:
        chosen = random.Random(seed)
        for _ in range(count):
            stream, fields = chosen.choice(self.settled)
            self.run(self.chat.redis.execute("XADD", stream, "*", *fields))

    @rule()
    def redis_begins_a_new_run(self) -> None:
        partition = self.chat.keys.account_partition(self.user.session.account_id)
        self.run(self.chat.redis.execute("INCR", self.chat.keys.epoch(partition)))

    @rule()
    def redis_comes_back_empty(self) -> None:
        self.run(self.chat.persist())
        if names := self.keys("*"):
            self.run(self.chat.redis.execute("DEL", *names))

    def keys(self, pattern: str) -> list[str]:
        return list(self.run(self.chat.redis.execute("KEYS", f"{self.chat.container.settings.app_id}:{pattern}")))

    # What must be true

    @invariant()
    def lists_show_what_was_acknowledged(self) -> None:
        if not hasattr(self, "user"):
            return
        world = self.worlds[self.count % 2]
        page = self.run(world.rooms(self.user, limit=100))
        expected = [(room.room_id, room.title, len(room.visible)) for room in reversed(self.rooms)]
        assert [(found.room_id, found.title, found.message_count) for found in page.rooms] == expected
        assert (page.total_count, page.has_more) == (len(self.rooms), False)
        for room in self.rooms:
            assert self.run(self.read(world, room)) == [(n.message_id, n.content) for n in room.visible]
        for room in self.gone[-2:]:
            assert self.run(world.try_messages(self.user, room.room_id)).errorCode == 1004
            assert self.run(world.try_send(self.user, room.room_id)).errorCode == 1004

    async def read(self, world: ChatWorld, room: Room) -> list[tuple[str, str]]:
        """The room's messages by cursor, checked against has_more."""
        page = await world.messages(self.user, room.room_id, limit=3)
        found = page.messages
        while page.next_cursor is not None:
            assert page.has_more
            page = await world.messages(self.user, room.room_id, limit=3, cursor=page.next_cursor)
            assert page.messages
            found = page.messages + found
        assert not page.has_more
        return [(message.message_id, message.content) for message in found]

    def teardown(self) -> None:
        if not hasattr(self, "user"):
            return
        self.run(self.chat.persist())
        for room in self.rooms:
            rows = self.run(self.chat.rows(self.user, "fp_chat_window_get", room.room_id, 1000))
            stored = [(row["seq"], row["message_id"], bool(row["deleted"])) for row in rows]
            assert stored == [(n, message.message_id, message.deleted) for n, message in enumerate(room.messages, 1)]
            for message in self.run(self.chat.messages(self.user, room.room_id)).messages:
                assert message.state == "SENT"
        assert {found.state for found in self.run(self.chat.rooms(self.user, limit=100)).rooms} <= {"ACTIVE"}
        assert self.run(self.chat.container.queue.dead_letters(QUEUE_NAME)) == []
        assert self.run(keys_for_good(self.chat)) == []


@pytest.mark.chat_settings(window=WINDOW)
async def test_the_chat_does_what_its_model_does(
    backends: tuple[Any, DatabaseBackend], chat: ChatWorld, app_id: str, provider: OpenAIStub
) -> None:
    async with running_world(*backends, app_id, provider, window=WINDOW) as other:
        echo = Echo()
        for world in (chat, other):
            world.template._parts.replies._ai = echo

        class Story(ChatStory):
            worlds = (chat, other)
            loop = asyncio.get_running_loop()

        Story.echo = echo
        await asyncio.to_thread(
            run_state_machine_as_test,  # type: ignore[no-untyped-call]
            Story,
            settings=settings(
                max_examples=int(os.environ.get("CHAT_STORIES", "45")),
                stateful_step_count=25,
                deadline=None,
                database=None,
                derandomize=bool(os.environ.get("CI")),
                suppress_health_check=list(HealthCheck),
            ),
        )
