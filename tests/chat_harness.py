"""A running chat template on real servers, called without HTTP, with an AI provider that the test
scripts."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.base.client_session import ClientSession
from base_server.template.base.session_info import SessionInfo
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.chat_template_impl import ChatTemplateImpl, create_chat_template
from base_server.template.chat.common.chat_model import ChatMessage, ChatRoom
from base_server.template.chat.common.chat_serialize import (
    ChatMessageDeleteRequest,
    ChatMessageListRequest,
    ChatMessageListResponse,
    ChatMessageSendRequest,
    ChatMessageSendResponse,
    ChatRoomCreateRequest,
    ChatRoomListRequest,
    ChatRoomListResponse,
)
from base_server.template.chat.domain.events import QUEUE_NAME
from base_server.template.chat.messages.repository import Accepted, NewMessage
from base_server.template.chat.settings import ChatSettings
from tests.backends_mariadb import DatabaseBackend
from tests.openai_stub import OpenAIStub
from tests.waiting import until

PERSONA = "TALK"
NO_LIMITS = {"sends_per_minute": 1e6, "sends_at_once": 10**6, "max_open_replies": 10**6}
"""Tests send faster than a person; those of the limits set their own."""


@dataclass
class ChatHarness:
    """``now``: the batch interval is long, so that what is written is written by :meth:`persist`
    alone."""

    container: ServiceContainer
    template: ChatTemplateImpl
    provider: OpenAIStub

    @property
    def redis(self) -> CacheClient:
        return self.container.cache.get_client()

    @property
    def keys(self) -> ChatKeys:
        return ChatKeys(self.redis)

    async def user(self, name: str | None = None) -> ClientSession:
        """A new account with a shard of the mapping table."""
        account_id = name or f"user{uuid.uuid4().hex[:10]}"
        rows = await self.container.database.call_global_procedure(
            "fp_account_create", (account_id, "hash", account_id, "", "")
        )
        return ClientSession(
            SessionInfo(account_id, int(rows[0]["account_db_key"]), int(rows[0]["shard_id"]))
        )

    async def room(
        self, user: ClientSession, title: str | None = "room", **fields: Any
    ) -> ChatRoom:
        request = ChatRoomCreateRequest(ai_persona=PERSONA, title=title, **fields)
        response = await self.template.on_chat_room_create_req(user, request)
        assert response.errorCode == 0, response.error
        assert response.room is not None
        return response.room

    async def send(
        self, user: ClientSession, room_id: str, content: str = "hello", **fields: Any
    ) -> ChatMessage:
        """Send and have it answered; the question's message."""
        response = await self.try_send(user, room_id, content, **fields)
        assert response.errorCode == 0, response.error
        assert response.user_message is not None
        return response.user_message

    async def try_send(
        self, user: ClientSession, room_id: str, content: str = "hello", **fields: Any
    ) -> ChatMessageSendResponse:
        request = ChatMessageSendRequest(room_id=room_id, content=content, **fields)
        return await self.template.on_chat_message_send_req(user, request)

    async def accepted(self, user: ClientSession, room_id: str, content: str) -> Accepted:
        """A question as a process leaves it that is killed before it asks the AI."""
        caller = await self.template.caller_of(user)
        ids = [self.keys.new_id(caller.partition) for _ in range(3)]
        message = NewMessage(*ids, content, None, None, "queue")
        return await self.template.parts.messages.accept(caller, room_id, message)

    async def messages(
        self, user: ClientSession, room_id: str, **fields: Any
    ) -> ChatMessageListResponse:
        response = await self.try_messages(user, room_id, **fields)
        assert response.errorCode == 0, response.error
        return response

    async def try_messages(
        self, user: ClientSession, room_id: str, **fields: Any
    ) -> ChatMessageListResponse:
        return await self.template.on_chat_message_list_req(
            user, ChatMessageListRequest(room_id=room_id, **fields)
        )

    async def texts(self, user: ClientSession, room_id: str, **fields: Any) -> list[str]:
        """The contents of a page."""
        return [
            message.content for message in (await self.messages(user, room_id, **fields)).messages
        ]

    async def questions(self, user: ClientSession, room_id: str, limit: int = 100) -> list[str]:
        """What users said, oldest first."""
        page = await self.messages(user, room_id, limit=limit)
        return [message.content for message in page.messages if message.sender_type == "USER"]

    async def rooms(self, user: ClientSession, **fields: Any) -> ChatRoomListResponse:
        response = await self.template.on_chat_room_list_req(user, ChatRoomListRequest(**fields))
        assert response.errorCode == 0, response.error
        return response

    async def delete_message(self, user: ClientSession, room_id: str, message_id: str) -> int:
        request = ChatMessageDeleteRequest(room_id=room_id, message_id=message_id)
        return (await self.template.on_chat_message_delete_req(user, request)).errorCode

    async def hush(self) -> None:
        """No sweep any more: calls that are counted from now on are the test's own."""
        await self.container.scheduler.remove_job(self.template.wiring._sweep_job)

    async def backlog(self) -> int:
        return sum((await self.container.queue.backlog(QUEUE_NAME)).values())

    async def forget_everything(self) -> None:
        """Redis loses all that belongs to this harness."""
        names = await self.redis.scan(f"{self.container.settings.app_id}:*")
        await self.redis.execute_many([("DEL", name) for name in names])

    async def persist(self) -> None:
        """Have everything that waits written and settled."""
        assert self.template._running is not None

        async def empty() -> bool:
            await self.template.parts.consumer.write_waiting()
            return await self.backlog() == 0

        await until(empty, what="the backlog is written")
        # Who drains looks once more, and would take what the test sends next.
        await until(lambda: not self.template.parts.consumer.draining, what="the drains end")

    async def rows(self, user: ClientSession, procedure: str, *params: Any) -> list[dict[str, Any]]:
        """What a procedure of the user's shard answers."""
        return await self.container.database.call_shard_procedure(
            user.session.shard_id, procedure, params
        )

    async def state(self, message_id: str) -> str | None:
        state = await self.template.parts.states.get_message_state(message_id)
        return state.value if state else None

    async def ttl_ms(self, key: str) -> int:
        """PTTL: -1 no TTL, -2 no key."""
        return int(await self.redis.execute("PTTL", key))


def llm_settings(provider: OpenAIStub) -> LlmSettings:
    """One persona, answered by ``provider``, which may hang for as long as a slow machine needs."""
    return LlmSettings.model_validate(
        {
            "default_persona": PERSONA,
            "personas": {
                PERSONA: {"provider": "openai", "model": "stub", "system_prompt": "Be brief."}
            },
            "providers": {
                "openai": {
                    "base_url": provider.base_url,
                    "api_key": "key",
                    "max_retries": 0,
                    "idle_timeout_s": 600,
                    "timeout_s": 600,
                }
            },
        }
    )


@asynccontextmanager
async def running_harness(
    cache: CacheSettings,
    database: DatabaseBackend,
    app_id: str,
    provider: OpenAIStub,
    *,
    data_dir: Path | None = None,
    **chat: Any,
) -> AsyncIterator[ChatHarness]:
    """A started harness. ``chat``: changes to ChatSettings; jobs hardly run by themselves unless
    they say so."""
    container = ServiceContainer(
        ServiceSettings(
            app_id=app_id,
            env="TEST",
            data_dir=data_dir or database.data_dir,
            cache=cache,
            database=database.settings,
            llm=llm_settings(provider),
            environ={"NOTHING": ""},
        )
    )
    settings = ChatSettings.model_validate({"batch_interval_s": 3600} | NO_LIMITS | chat)
    template = create_chat_template(container, settings)
    await container.start()
    try:
        await template.start()
        try:
            yield ChatHarness(container, template, provider)
        finally:
            await template.stop()
    finally:
        await container.stop(2.0)
