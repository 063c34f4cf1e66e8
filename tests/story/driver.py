"""Who tells a story: the model of two accounts, and what is needed to ask the servers as one of
them."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from tests.openai_stub import Reply, texts_of
from tests.server_process import Client
from tests.story.servers import StoryServers, ask_redis

T = TypeVar("T")
_CLOCKS_MS = {
    "uuid7": 0,
    "behind": -3_600_000,
    "soon": 300,
    "ahead": 600_000,
    "far ahead": 36_000_000,
}
ID_FORMS = ("none", "plain", *_CLOCKS_MS)
"""Of a client's own id; the later ones of a client whose clock is wrong."""
OK = 0


@dataclass
class Message:
    message_id: str
    content: str
    timestamp: str
    deleted: bool = False


@dataclass
class Room:
    """``messages[n]`` has the seq n + 1; ``sent``: what each client_message_id sent, by the
    question's index."""

    room_id: str
    title: str
    messages: list[Message] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

    @property
    def replies(self) -> list[Message]:
        return self.messages[1::2]

    @property
    def visible(self) -> list[Message]:
        return [message for message in self.messages if not message.deleted]


@dataclass
class Account:
    """``rooms``: live ones, oldest activity first. ``made``: request id → (room, its title at
    first)."""

    name: str
    tokens: list[str] = field(default_factory=list)
    dead_tokens: list[str] = field(default_factory=list)
    logged_out: set[str] = field(default_factory=set)
    rooms: list[Room] = field(default_factory=list)
    gone: list[Room] = field(default_factory=list)
    made: dict[str, tuple[Room, str]] = field(default_factory=dict)

    def touch(self, room: Room) -> None:
        self.rooms.remove(room)
        self.rooms.append(room)


class StoryDriver(RuleBasedStateMachine):
    """``servers`` and ``loop`` are set by the test; every story has accounts of its own."""

    servers: StoryServers
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        self.accounts: list[Account] = []
        self.count = 0
        self.asked = 0
        self.heard: list[str] = []
        self.servers.provider.responder = self.answer

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    def redis(self, *command: Any) -> Any:
        return ask_redis(self.servers, *command)

    def answer(self, body: dict[str, Any]) -> Reply:
        """The AI: says what it was asked. Keeps what it was given as history."""
        texts = texts_of(
            {"messages": [message for message in body["messages"] if message["role"] != "system"]}
        )
        self.asked, self.heard = self.asked + 1, texts[:-1]
        return Reply([f"re: {texts[-1]}"])

    def account(self, which: int) -> Account:
        return self.accounts[which % len(self.accounts)]

    def next(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def client_id(self, form: str) -> dict[str, str]:
        """A new id of a client, under no name for 'none'."""
        if form == "none":
            return {}
        if form == "plain":
            return {"id": self.next("c")}
        seconds, micros = self.redis("TIME")
        ms = int(seconds) * 1000 + int(micros) // 1000 + _CLOCKS_MS[form]
        head = uuid.UUID(
            int=(ms << 80) | (7 << 76) | random.getrandbits(74) & ~(3 << 62) | (2 << 62)
        )
        return {"id": str(head)}

    async def ask(
        self, server: int, token: str | None, path: str, fields: dict[str, Any]
    ) -> dict[str, Any]:
        client = Client(self.servers.http, self.servers.urls[server])
        client.token = token
        return await client.post(path, **fields)

    def post(self, account: Account, server: int, path: str, /, **fields: Any) -> dict[str, Any]:
        """The envelope that an account gets; it logs in first when it is logged in nowhere."""
        if not account.tokens:
            self.log_in(account, server)
        return self.run(
            self.ask(server, account.tokens[self.count % len(account.tokens)], path, fields)
        )

    def ok(self, account: Account, server: int, path: str, /, **fields: Any) -> dict[str, Any]:
        answer = self.post(account, server, path, **fields)
        assert answer["errorCode"] == OK, answer
        return answer

    def code(self, account: Account, server: int, path: str, /, **fields: Any) -> int:
        return int(self.post(account, server, path, **fields)["errorCode"])

    def log_in(self, account: Account, server: int) -> None:
        fields = {"account_id": account.name, "password": "correct horse"}
        answer = self.run(self.ask(server, None, "/api/account/login", fields))
        assert answer["errorCode"] == OK, answer
        account.tokens.append(answer["accessToken"])
