"""Questions of a test's own: each sent once or again with the same id, and looked for at a server
of choice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.faults.harness import FaultServer, ServerHarness
from tests.faults.provider import full_reply
from tests.load_clients import Player, Unanswered, uuid7
from tests.server_process import Client
from tests.waiting import until

_WITHIN_S = 90.0


@dataclass
class Question:
    """A question of a player."""

    harness: ServerHarness
    player: Player
    room_id: str
    text: str
    send: Callable[[], Awaitable[None]]

    async def try_once(self) -> None:
        """Send it, and do not repeat it when it is not answered."""
        with suppress(Unanswered):
            await self.send()

    async def answered(self) -> dict[str, Any]:
        """The AI's message, asked for until it is answered."""
        await self.player.act(self.send)
        assert self.text in self.player.replies, self.player.history[-1]
        return self.player.replies[self.text]

    async def answered_whole(self) -> None:
        reply = await self.answered()
        assert reply["content"] == full_reply(self.text), reply

    async def messages(self, server: FaultServer) -> list[dict[str, Any]]:
        """The room as this server lists it; empty when it does not answer."""
        client = Client(self.harness.http, server.process.base_url)
        client.token = self.player.client.token
        page = await client.post("/api/chat/messages", room_id=self.room_id, limit=100)
        return list(page.get("messages", []))

    async def is_stored(self, server: FaultServer) -> bool:
        return self.text in [message["content"] for message in await self.messages(server)]

    async def is_answered_whole(self, server: FaultServer) -> bool:
        """Whether the room lists question and reply; nobody has to repeat it for that."""
        return full_reply(self.text) in [
            message["content"] for message in await self.messages(server)
        ]

    async def has_ended(self, server: FaultServer) -> bool:
        """Whether it is the room's only one and has a reply, however that ended."""
        messages = await self.messages(server)
        return [message["sender_type"] for message in messages] == ["USER", "AI"] and not messages[
            1
        ]["is_streaming"]

    async def stored(self, server: FaultServer) -> None:
        await until(lambda: self.is_stored(server), _WITHIN_S, f"question {self.text} is listed")

    async def listed_whole(self, server: FaultServer) -> None:
        await until(
            lambda: self.is_answered_whole(server),
            _WITHIN_S,
            f"question {self.text} is asked and answered",
        )

    async def persisted(self) -> None:
        """In the database."""
        query = f"SELECT seq FROM chat_messages WHERE content = '{self.text}'"
        await until(
            lambda: any(
                self.harness.shard_rows(shard_id, query) for shard_id in self.harness.shard_ids
            ),
            _WITHIN_S,
            query,
        )


def question(harness: ServerHarness, player: Player, room_id: str) -> Question:
    text = player.nonce()
    return Question(harness, player, room_id, text, player.sending(room_id, text, uuid7()))


async def questions_in_new_rooms(
    harness: ServerHarness, player: Player, count: int
) -> list[Question]:
    """One for each of so many new rooms; nothing is sent yet."""
    for _ in range(count):
        await player.act(player.creating())
    return [question(harness, player, room_id) for room_id in list(player.rooms)[-count:]]
