"""The whole HTTP interface against a model of a few lines: whatever is done, the model knows what
is answered.

Two accounts, two servers (servers that come and go), a small window, client clocks that are wrong,
keys that expire in any combination, events delivered again, a Redis that restarts as it was, empty,
or as it was earlier. Hypothesis looks for the shortest story that ends in a difference.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from base_server.service.cache.partition import Partitions
from base_server.service.queue.queue_settings import QueueSettings
from tests.event_client import Event, streaming
from tests.openai_stub import Reply
from tests.record_check import check_records
from tests.story.driver import ID_FORMS, OK, Account, Message, Room, StoryDriver
from tests.story.servers import Files
from tests.template.chat.persistence.test_settling import is_for_good
from tests.waiting import PATIENCE_S, until

WINDOW = 4
SERVERS = st.integers(0, 1)
WHICH = st.integers(0, 30)
"""Picks one of however many there are."""
CLIENT_IDS = st.sampled_from(ID_FORMS)
# Kinds of keys that may have a TTL.
KINDS = (
    "room_rec",
    "messages",
    "room",
    "room_state",
    "msg_state",
    "rooms_rec",
    "rooms",
    "rooms_order",
    "operation",
)
HALF = "half "
MISMATCH, NOT_ALLOWED, NO_ROOM, NO_MESSAGE, NO_SESSION = 1007, 1008, 1004, 1005, 10000


class ChatStory(StoryDriver):
    """What may happen, and what must be true then."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: list[
            tuple[str, dict[str, str]]
        ] = []  # stream and fields of events that were written
        self.earlier: tuple[Files, list[set[str]]] = {}, []  # Redis' files, and the tokens of then
        self.steps = 0

    # Accounts

    @initialize()
    def sign_up(self) -> None:
        partitions = Partitions(QueueSettings().partitions)
        while len(self.accounts) < 2:
            account = Account(f"a{uuid.uuid4().hex[:12]}")
            # In one partition, so that nothing but their owners keeps them apart.
            if self.accounts and partitions.of_id(account.name) != partitions.of_id(
                self.accounts[0].name
            ):
                continue
            fields = {"account_id": account.name, "password": "correct horse"}
            assert self.run(self.ask(0, None, "/api/account/signup", fields))["errorCode"] == OK
            self.accounts.append(account)
        self.create_room(0, 0, "none")
        for form in ("uuid7", "none"):
            self.send(0, 0, form, busy=False)
        self.something_is_restarted("redis copied", 0)

    @rule(
        what=st.sampled_from(["log in", "log out", "use one that ended"]),
        which=WHICH,
        server=SERVERS,
    )
    def something_about_sessions(self, what: str, which: int, server: int) -> None:
        account = max(self.accounts, key=lambda account: len(account.tokens))
        dead = [token for account in self.accounts for token in account.dead_tokens]
        if what == "log out" and account.tokens:
            token = account.tokens.pop(which % len(account.tokens))
            assert self.run(self.ask(server, token, "/api/account/logout", {}))["errorCode"] == OK
            account.dead_tokens.append(token)
            account.logged_out.add(token)
        elif what == "log in" or not dead:
            self.log_in(self.account(which), server)
        else:
            create = ("/api/chat/room/create", {"ai_persona": self.servers.persona})
            for path, fields in (("/api/chat/rooms", {}), create):
                assert (
                    self.run(self.ask(server, dead[which % len(dead)], path, fields))["errorCode"]
                    == NO_SESSION
                )

    # Rooms

    @rule(which=WHICH, server=SERVERS, form=CLIENT_IDS)
    def create_room(self, which: int, server: int, form: str) -> None:
        account, title = self.account(which), self.next("room ")
        fields = {"ai_persona": self.servers.persona, "title": title}
        for request_id in self.client_id(form).values():
            fields["client_request_id"] = request_id
        made = self.ok(account, server, "/api/chat/room/create", **fields)["room"]
        room = Room(made["room_id"], title)
        account.rooms.append(room)
        if "client_request_id" in fields:
            account.made[fields["client_request_id"]] = room, title

    @precondition(lambda self: any(account.made for account in self.accounts))
    @rule(which=WHICH, server=SERVERS, other_body=st.booleans())
    def repeat_a_create(self, which: int, server: int, other_body: bool) -> None:
        account = max(self.accounts, key=lambda account: len(account.made))
        request_id = list(account.made)[which % len(account.made)]
        room, title = account.made[request_id]
        fields = {"ai_persona": self.servers.persona, "title": "other" if other_body else title}
        answer = self.post(
            account, server, "/api/chat/room/create", client_request_id=request_id, **fields
        )
        if other_body:
            assert answer["errorCode"] == MISMATCH, answer
        elif room in account.gone:
            assert answer["errorCode"] == NO_ROOM, answer
        else:
            assert answer["room"]["room_id"] == room.room_id, answer

    def any_room(self, which: int) -> tuple[Account, Room]:
        pairs = [(account, room) for account in self.accounts for room in account.rooms]
        return pairs[which % len(pairs)]

    @precondition(lambda self: any(account.rooms for account in self.accounts))
    @rule(which=WHICH, server=SERVERS)
    def rename(self, which: int, server: int) -> None:
        account, room = self.any_room(which)
        room.title = self.next("title ")
        self.ok(
            account, server, "/api/chat/room/update", room_id=room.room_id, new_title=room.title
        )

    @precondition(lambda self: any(account.rooms or account.gone for account in self.accounts))
    @rule(which=WHICH, server=SERVERS)
    def delete_room(self, which: int, server: int) -> None:
        pairs = [
            (account, room) for account in self.accounts for room in account.gone + account.rooms
        ]
        account, room = pairs[which % len(pairs)]
        self.ok(account, server, "/api/chat/room/delete", room_id=room.room_id)
        if room in account.rooms:
            account.rooms.remove(room)
            account.gone.append(room)

    @precondition(lambda self: any(account.rooms or account.gone for account in self.accounts))
    @rule(which=WHICH, server=SERVERS)
    def what_is_not_ones_own_is_not_there(self, which: int, server: int) -> None:
        pairs = [
            (account, room) for account in self.accounts for room in account.rooms + account.gone
        ]
        account, room = pairs[which % len(pairs)]
        stranger = next(other for other in self.accounts if other is not account)
        self.finds_nothing(stranger, server, room)
        if room in account.rooms:
            fields = {"room_id": room.room_id, "message_id": room.room_id}
            assert self.code(account, server, "/api/chat/message/delete", **fields) == NO_MESSAGE

    def finds_nothing(self, account: Account, server: int, room: Room) -> None:
        message_id = room.messages[0].message_id if room.messages else room.room_id
        asked = self.asked
        for path, fields in (
            ("/api/chat/messages", {}),
            ("/api/chat/message/send", {"content": "anybody there?"}),
            ("/api/chat/room/update", {"new_title": "mine"}),
            ("/api/chat/message/delete", {"message_id": message_id}),
        ):
            assert self.code(account, server, path, room_id=room.room_id, **fields) == NO_ROOM
        assert self.asked == asked

    # Messages

    def send_fields(self, room: Room, form: str = "none") -> dict[str, Any]:
        fields = {"room_id": room.room_id, "content": self.next("m") + " 말 🎲"}
        for client_id in self.client_id(form).values():
            fields["client_message_id"] = client_id
        return fields

    def accepted(self, account: Account, room: Room, answer: dict[str, Any]) -> int:
        """Check an answer with two new messages and put them into the model; the question's
        index."""
        assert answer["errorCode"] == OK, answer
        question, reply = answer["user_message"], answer["message"]
        assert (reply["content"], reply["parent_message_id"]) == (
            f"re: {question['content']}",
            question["message_id"],
        )
        assert (question["seq"], reply["seq"]) == (len(room.messages) + 1, len(room.messages) + 2)
        assert not reply["is_streaming"]
        for message in (question, reply):
            room.messages.append(
                Message(message["message_id"], message["content"], message["timestamp"])
            )
        account.touch(room)
        return len(room.messages) - 2

    @precondition(lambda self: any(account.rooms for account in self.accounts))
    @rule(which=WHICH, server=SERVERS, form=CLIENT_IDS, written=st.booleans())
    def send_as_much_as_the_window_holds(
        self, which: int, server: int, form: str, written: bool
    ) -> None:
        for n in range(WINDOW // 2):
            self.send(which, (server + n) % 2, form, busy=False)
        if written:
            self.write()

    @precondition(lambda self: any(account.rooms for account in self.accounts))
    @rule(which=WHICH, server=SERVERS, form=CLIENT_IDS, busy=st.booleans())
    def send(self, which: int, server: int, form: str, busy: bool) -> None:
        """``busy``: what waits is written at the same time."""
        account, room = self.any_room(which)
        if not account.tokens:
            self.log_in(account, server)
        fields = self.send_fields(room, form)

        async def both() -> dict[str, Any]:
            sending = self.ask(server, account.tokens[0], "/api/chat/message/send", fields)
            answer, _ = await asyncio.gather(
                sending, self.servers.write() if busy else asyncio.sleep(0)
            )
            return dict(answer)

        alive = [message.content for message in room.visible]
        last = [message.content for message in room.messages[-2:]]
        index = self.accepted(account, room, self.run(both()))
        if "client_message_id" in fields:
            room.sent[fields["client_message_id"]] = index
        assert self.heard == alive[len(alive) - len(self.heard) :]
        # A reply whose question is gone may be left out.
        assert alive[-2:] != last or self.heard[-2:] == last

    @precondition(lambda self: any(account.rooms for account in self.accounts))
    @rule(which=WHICH, same=st.booleans(), form=CLIENT_IDS)
    def send_two_at_once(self, which: int, same: bool, form: str) -> None:
        """At both servers; ``same``: one message, by an impatient client."""
        account, room = self.any_room(which)
        if not account.tokens:
            self.log_in(account, 0)
        fields = [self.send_fields(room, form), self.send_fields(room)]
        same = same and "client_message_id" in fields[0]

        async def both() -> list[dict[str, Any]]:
            path, token = "/api/chat/message/send", account.tokens[0]
            sends = (
                self.ask(server, token, path, fields[0 if same else server]) for server in (0, 1)
            )
            return list(await asyncio.gather(*sends))

        asked, answers = self.asked, self.run(both())
        if same:
            first, second = (answer["message"] | {"state": ""} for answer in answers)
            assert first == second
            room.sent[fields[0]["client_message_id"]] = self.accepted(account, room, answers[0])
            assert self.asked == asked + 1
            return
        for answer in sorted(answers, key=lambda answer: answer["user_message"]["seq"]):
            index = self.accepted(account, room, answer)
            if (
                "client_message_id" in fields[0]
                and room.messages[index].content == fields[0]["content"]
            ):
                room.sent[fields[0]["client_message_id"]] = index

    @precondition(
        lambda self: any(room.sent for account in self.accounts for room in account.rooms)
    )
    @rule(which=WHICH, server=SERVERS, other_body=st.booleans())
    def repeat_a_send(self, which: int, server: int, other_body: bool) -> None:
        sends = [
            (account, room, client_id)
            for account in self.accounts
            for room in account.rooms
            for client_id in room.sent
        ]
        self.ask_again(*sends[which % len(sends)], server, other_body=other_body)

    def ask_again(
        self, account: Account, room: Room, client_id: str, server: int, *, other_body: bool = False
    ) -> None:
        """A send with the id of an earlier one: the same two messages, and the AI is not asked."""
        question, reply = room.messages[room.sent[client_id] : room.sent[client_id] + 2]
        fields = {"room_id": room.room_id, "client_message_id": client_id}
        fields["content"] = "other" if other_body else question.content
        asked, answer = self.asked, self.post(account, server, "/api/chat/message/send", **fields)
        if other_body:
            assert answer["errorCode"] == MISMATCH, answer
        elif question.deleted or reply.deleted:
            assert answer["errorCode"] == NOT_ALLOWED, answer
        else:
            assert answer["errorCode"] == OK, answer
            found = [answer["user_message"]["message_id"], answer["message"]["message_id"]]
            assert found == [question.message_id, reply.message_id]
        assert self.asked == asked

    # Replies as they are written

    async def told(self, server: int, token: str, path: str, fields: dict[str, Any]) -> list[Event]:
        """The events of a streaming route, checked against each other."""
        async with streaming(
            self.servers.http, self.servers.urls[server] + path, token, **fields
        ) as events:
            heard = [event async for event in events]
        assert [event.is_last for event in heard] == [False] * (len(heard) - 1) + [True], heard
        ids = [event.id for event in heard]
        assert ids == sorted(ids)
        return heard

    def rest_of(self, heard: Sequence[Event], offset: int, message: Message) -> None:
        """These are exactly what comes behind ``offset`` of a reply."""
        text = "".join(event.data["text"] for event in heard if event.name == "reply.delta")
        assert text.encode() == message.content.encode()[offset:]
        assert heard[-1].id == len(message.content.encode()) + 1
        last = heard[-1].data["message"]
        assert (last["message_id"], last["content"]) == (message.message_id, message.content)

    @precondition(lambda self: any(account.rooms for account in self.accounts))
    @rule(which=WHICH, server=SERVERS, form=CLIENT_IDS)
    def send_and_listen(self, which: int, server: int, form: str) -> None:
        account, room = self.any_room(which)
        if not account.tokens:
            self.log_in(account, server)
        fields = self.send_fields(room, form)
        heard = self.run(self.told(server, account.tokens[0], "/api/chat/message/stream", fields))
        question, reply = heard[0].data["user_message"], heard[-1].data["message"]
        assert (heard[0].name, heard[0].id, heard[0].data["message_id"]) == (
            "message.accepted",
            0,
            reply["message_id"],
        )
        index = self.accepted(
            account, room, {"errorCode": OK, "user_message": question, "message": reply}
        )
        self.rest_of(heard, 0, room.messages[index + 1])
        if "client_message_id" in fields:
            room.sent[fields["client_message_id"]] = index

    @precondition(
        lambda self: any(room.messages for account in self.accounts for room in account.rooms)
    )
    @rule(which=WHICH, place=WHICH, server=SERVERS, heard=st.integers(0, 20))
    def listen_again(self, which: int, place: int, server: int, heard: int) -> None:
        """From any place in any reply, however long ago it was."""
        replies = [
            (account, room, reply)
            for account in self.accounts
            for room in account.rooms
            for reply in room.replies
        ]
        account, room, reply = replies[(which * 31 + place) % len(replies)]
        offset = len(reply.content[:heard].encode())
        fields = {
            "room_id": room.room_id,
            "message_id": reply.message_id,
            "last_event_id": str(offset),
        }
        if reply.deleted:
            assert self.code(account, server, "/api/chat/message/resume", **fields) == NO_MESSAGE
            return
        if not account.tokens:
            self.log_in(account, server)
        self.rest_of(
            self.run(self.told(server, account.tokens[0], "/api/chat/message/resume", fields)),
            offset,
            reply,
        )
        stopped = self.ok(
            account,
            server,
            "/api/chat/message/stop",
            room_id=room.room_id,
            message_id=reply.message_id,
        )
        assert stopped["message"]["content"] == reply.content

    @precondition(lambda self: any(account.rooms for account in self.accounts))
    @rule(which=WHICH, server=SERVERS, how=st.sampled_from(["stop", "interrupt", "redis restarts"]))
    def cut_a_reply_short(self, which: int, server: int, how: str) -> None:
        """What it has said stays, and the room goes on."""
        account, room = self.any_room(which)
        self.ok(account, server, "/api/chat/rooms")
        fields, token = self.send_fields(room), account.tokens[0]
        other = 1 - server
        sending, running = self.run(self.half_said(server, token, fields))
        where = {"room_id": room.room_id}
        if how == "stop":
            self.ok(
                account, other, "/api/chat/message/stop", **where, message_id=running["message_id"]
            )
        elif how == "redis restarts":
            self.run(self.servers.restart_redis(None))
        next_fields = self.send_fields(room) | {"on_busy": "interrupt"}
        next_answer = self.ok(account, other, "/api/chat/message/send", **next_fields)
        page = self.ok(account, other, "/api/chat/messages", **where, limit=4)["messages"]
        question, reply = page[-4:-2]
        assert (question["content"], reply["content"]) == (fields["content"], HALF)
        assert reply["metadata"]["finish_reason"] in ("stopped", "interrupted")
        for message in (question, reply):
            room.messages.append(
                Message(message["message_id"], message["content"], message["timestamp"])
            )
        self.accepted(account, room, next_answer)
        answer = self.run(asyncio.wait_for(sending, PATIENCE_S))
        assert answer["errorCode"] in (OK, 5003), answer
        if answer["errorCode"] == OK:
            assert answer["message"]["content"] == HALF

    async def half_said(
        self, server: int, token: str, fields: dict[str, Any]
    ) -> tuple[asyncio.Task[dict[str, Any]], dict[str, Any]]:
        """A send whose reply has said half and says no more; the reply as the other server lists
        it."""
        self.servers.provider.script(Reply([HALF], hang=True))
        sending = asyncio.create_task(self.ask(server, token, "/api/chat/message/send", fields))
        listed: list[dict[str, Any]] = []

        async def running() -> bool:
            where = {"room_id": fields["room_id"], "limit": 1}
            answer = await self.ask(1 - server, token, "/api/chat/messages", where)
            listed[:] = [message for message in answer["messages"] if message["content"] == HALF]
            return bool(listed)

        await until(running)
        assert listed[0]["is_streaming"]
        return sending, listed[0]

    @precondition(
        lambda self: any(room.messages for account in self.accounts for room in account.rooms)
    )
    @rule(which=WHICH, place=WHICH, server=SERVERS)
    def delete_message(self, which: int, place: int, server: int) -> None:
        pairs = [
            (account, room) for account in self.accounts for room in account.rooms if room.messages
        ]
        account, room = pairs[which % len(pairs)]
        message = room.messages[place % len(room.messages)]
        self.ok(
            account,
            server,
            "/api/chat/message/delete",
            room_id=room.room_id,
            message_id=message.message_id,
        )
        message.deleted = True

    # What happens to the servers

    @rule()
    def write(self) -> None:
        for stream in self.redis("KEYS", "*}:queue:chat_persistence:*"):
            self.settled += [
                (stream, fields) for _, fields in self.redis("XRANGE", stream, "-", "+")
            ]
        self.run(self.servers.write())

    @rule(
        kinds=st.sets(st.sampled_from(KINDS), min_size=1),
        part=st.sampled_from([0.3, 1.0]),
        seed=st.integers(0, 99),
    )
    def expire(self, kinds: set[str], part: float, seed: int) -> None:
        """Some of the keys that may expire, do."""
        chosen = random.Random(seed)
        for kind in sorted(kinds):
            for name in sorted(self.redis("KEYS", f"*}}:{kind}:*")):
                if self.redis("PTTL", name) > 0 and chosen.random() < part:
                    self.redis("DEL", name)

    @precondition(lambda self: self.settled)
    @rule(seed=st.integers(0, 99), count=st.integers(1, 5))
    def deliver_again(self, seed: int, count: int) -> None:
        """As after a consumer that died between its commit and its settle."""
        chosen = random.Random(seed)
        for _ in range(count):
            stream, fields = chosen.choice(self.settled)
            self.redis("XADD", stream, "*", *(word for pair in fields.items() for word in pair))

    @precondition(lambda self: any(account.rooms for account in self.accounts))
    @rule(which=WHICH)
    def hours_pass(self, which: int) -> None:
        """For one account: what it does next is two hours later than its newest activity."""
        account = self.account(which)
        if not account.rooms:
            return
        room = account.rooms[-1]
        self.ok(account, 0, "/api/chat/rooms")
        (order,) = self.redis("KEYS", f"*}}:rooms_order:{account.name}")
        self.redis("ZINCRBY", order, 7_200_000, room.room_id)
        self.accepted(
            account, room, self.ok(account, 0, "/api/chat/message/send", **self.send_fields(room))
        )

    @rule(
        what=st.sampled_from(
            ["server", "redis", "redis empty", "redis copied", "redis as it was", "redis as it was"]
        ),
        server=SERVERS,
    )
    def something_is_restarted(self, what: str, server: int) -> None:
        """A Redis that is empty, or as it was when it was copied, lost nothing but sessions: all is
        written before."""
        if what == "server":
            self.run(self.servers.restart_server(server))
        elif what == "redis":
            self.run(self.servers.restart_redis(None))
        elif what == "redis copied":
            self.earlier = (
                self.servers.redis_files(),
                [set(account.tokens) for account in self.accounts],
            )
        else:
            files, tokens = ({}, [set(), set()]) if what == "redis empty" else self.earlier
            self.write()
            self.run(self.servers.restart_redis(files))
            self.sessions_are(tokens)

    def sessions_are(self, known: Sequence[set[str]]) -> None:
        """Those that Redis knows now. A logout is permanent; a lost one comes back with an older
        Redis."""
        for account, tokens in zip(self.accounts, known, strict=True):
            all_tokens = account.tokens + account.dead_tokens
            account.tokens = [token for token in all_tokens if token in tokens - account.logged_out]
            account.dead_tokens = [token for token in all_tokens if token not in account.tokens]

    # What must be true

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        """Looked at now and then: to look is to load, and much is to happen to what is not
        loaded."""
        self.steps += 1
        if self.accounts and self.steps % 3 == 0:
            self.check(self.account(self.steps // 3), self.steps % 2)

    def check(self, account: Account, server: int) -> None:
        """The lists, and the answers to whatever is asked again."""
        page = self.ok(account, server, "/api/chat/rooms", limit=100)
        expected = [
            (room.room_id, room.title, len(room.visible)) for room in reversed(account.rooms)
        ]
        assert [
            (found["room_id"], found["title"], found["message_count"]) for found in page["rooms"]
        ] == expected
        assert (page["total_count"], page["has_more"]) == (len(account.rooms), False)
        for room in account.rooms:
            assert self.read(account, server, room) == [
                (n.message_id, n.content) for n in room.visible
            ]
            for client_id in list(room.sent)[:2]:
                self.ask_again(account, room, client_id, 1 - server)
        for room in account.gone[-1:]:
            self.finds_nothing(account, server, room)

    def read(self, account: Account, server: int, room: Room) -> list[tuple[str, str]]:
        """The room's messages by cursor, checked against has_more."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = self.ok(
                account, server, "/api/chat/messages", room_id=room.room_id, limit=5, **cursor
            )
            assert page["messages"] or not cursor
            assert not page.get("stale")
            found = page["messages"] + found
            if not page["has_more"]:
                return [(message["message_id"], message["content"]) for message in found]
            cursor = {"cursor": page["next_cursor"]}

    @precondition(lambda self: any(account.rooms for account in self.accounts))
    @rule(which=WHICH, server=SERVERS, limit=st.integers(1, 7))
    def read_by_page_number(self, which: int, server: int, limit: int) -> None:
        """Page 1 is full, and all pages together leave nothing out."""
        account, room = self.any_room(which)
        ids = [message.message_id for message in room.visible]
        found: dict[str, None] = {}
        page, more = 0, True
        while more:
            page += 1
            answer = self.ok(
                account, server, "/api/chat/messages", room_id=room.room_id, page=page, limit=limit
            )
            read, more = (
                [message["message_id"] for message in answer["messages"]],
                answer["has_more"],
            )
            if page == 1:
                assert (read, more) == (ids[-limit:], len(ids) > limit)
            found |= dict.fromkeys(reversed(read))
            assert more == (len(found) < len(ids))
        assert list(found) == ids[::-1]

    @precondition(
        lambda self: any(room.messages for account in self.accounts for room in account.rooms)
    )
    @rule(which=WHICH, place=WHICH, server=SERVERS, limit=st.integers(1, 7))
    def read_before_a_time(self, which: int, place: int, server: int, limit: int) -> None:
        pairs = [
            (account, room) for account in self.accounts for room in account.rooms if room.messages
        ]
        account, room = pairs[which % len(pairs)]
        before = room.messages[place % len(room.messages)].timestamp
        fields = {"room_id": room.room_id, "before_timestamp": before, "limit": limit}
        answer = self.ok(account, server, "/api/chat/messages", **fields)
        moment = datetime.fromisoformat(before)
        earlier = [
            message
            for message in room.visible
            if datetime.fromisoformat(message.timestamp) < moment
        ]
        assert [message["content"] for message in answer["messages"]] == [
            n.content for n in earlier[-limit:]
        ]
        assert answer["has_more"] == (len(earlier) > limit)

    def teardown(self) -> None:
        """The rows are what was acknowledged, nothing is left over, and every state has come to its
        end."""
        if not self.accounts:
            return
        for account in self.accounts:
            self.check(account, 0)
        check_records(self.redis("KEYS", "*"), self.redis)
        self.run(self.servers.write())
        for account in self.accounts:
            for room in account.rooms:
                query = (
                    "SELECT seq, message_id, deleted FROM chat_messages"
                    f" WHERE room_id = '{room.room_id}' ORDER BY seq"
                )
                stored = [
                    (row["seq"], row["message_id"], bool(row["deleted"]))
                    for row in self.servers.rows(query)
                ]
                expected = [
                    (n, message.message_id, message.deleted)
                    for n, message in enumerate(room.messages, 1)
                ]
                assert stored == expected
                for message in self.ok(account, 0, "/api/chat/messages", room_id=room.room_id)[
                    "messages"
                ]:
                    assert message["state"] == "SENT"
            rooms = self.ok(account, 0, "/api/chat/rooms", limit=100)["rooms"]
            assert {room["state"] for room in rooms} <= {"ACTIVE"}
        names = self.redis("KEYS", "*")
        check_records(names, self.redis)
        assert [
            name for name in names if self.redis("PTTL", name) == -1 and not is_for_good(name)
        ] == []
        assert [self.redis("XLEN", key) for key in self.redis("KEYS", "*}:queue_dead:*")] in (
            [],
            [0],
        )
