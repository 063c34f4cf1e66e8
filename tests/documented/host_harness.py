"""What the tests of this folder do with the document's handlers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.queue.queue_service import QueueService
from service.queue.stream_store import DeadLetter
from template.base.client_session import ClientSession
from template.base.session_info import SessionInfo
from template.base.template_context import TemplateContext
from template.base.template_service import Call, TemplateService
from template.base.template_type import TemplateType

from tests.chat_harness import ChatHarness
from tests.documented.host_template import HOST, MESSAGE_SEND, ROOM_LIST, DocumentedTemplate


@dataclass
class HostHarness:
    """Calls go the way of a request: protocol id → TemplateService → the document's handler →
    envelope."""

    chat: ChatHarness

    async def list_rooms(self, user: ClientSession) -> dict[str, Any]:
        return await self._call(user, ROOM_LIST)

    async def send(
        self, user: ClientSession, room_id: str, content: str, persona: str | None = None
    ) -> dict[str, Any]:
        return await self._call(
            user, MESSAGE_SEND, room_id=room_id, content=content, ai_persona=persona
        )

    async def save(self, user: ClientSession, room_id: str, message_id: str, **message: Any) -> str:
        """The document's event alone, as ``on_chat_message_send_req`` sends it."""
        message_data = {
            "message_id": message_id,
            "room_id": room_id,
            "sender_type": "USER",
            "content": "안녕 🎉",
            "timestamp": datetime.now().isoformat(),
            "metadata": {"ai_persona": None},
        } | message
        return await self.enqueue(user, {"type": "save_user_message", "message_data": message_data})

    async def enqueue(
        self, user: ClientSession, payload: dict[str, Any], message_type: str = "chat_save"
    ) -> str:
        base = {"account_db_key": user.session.account_db_key, "shard_id": user.session.shard_id}
        return await QueueService.get_instance().send_message(
            queue_name="chat_persistence",
            payload=base | payload,
            message_type=message_type,
            priority=2,
        )

    async def rows(
        self, user: ClientSession, room_id: str, shard_id: int | None = None
    ) -> list[dict[str, Any]]:
        """All rows of the room in a shard, by default the account's, in order."""
        shard = user.session.shard_id if shard_id is None else shard_id
        return await self.chat.container.database.call_shard_procedure(
            shard, "fp_chat_window_get", (room_id, 1000)
        )

    async def dead(self) -> list[DeadLetter]:
        return await self.chat.container.queue.dead_letters("chat_persistence")

    async def _call(self, user: ClientSession, protocol_id: int, **fields: Any) -> dict[str, Any]:
        service = TemplateService(_OneSession(user.session))
        protocol = TemplateContext.find_by_protocol(protocol_id)
        assert protocol is not None
        body = json.dumps({"accessToken": "host token"} | fields).encode()
        answer: dict[str, Any] = json.loads((await service.handle(protocol, Call(body))).body)
        return answer


@contextmanager
def hosted(chat: ChatHarness) -> Iterator[HostHarness]:
    """The document's handlers, registered as a host registers them, in the one context of the
    process."""
    TemplateContext.add_template(TemplateType.CHAT, chat.template)
    TemplateContext.add_template(HOST, DocumentedTemplate())
    try:
        yield HostHarness(chat)
    finally:
        TemplateContext.clear()


@dataclass
class _OneSession:
    session: SessionInfo

    async def find(self, token: str) -> SessionInfo | None:
        return self.session
