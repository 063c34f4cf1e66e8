"""The seven documented handlers, called with (client_session, request): they answer, and raise only
cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from service.db.db_settings import DatabaseSettings
from template.base.client_session import ClientSession
from template.base.encoding import encode
from template.base.envelope import Response
from template.base.session_info import SessionInfo
from template.chat.common import chat_serialize as wire
from template.chat.common.chat_model import ChatMessage, ChatRoom

from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import PERSONA, ChatHarness, running_harness
from tests.openai_stub import OpenAIStub, Reply
from tests.waiting import PATIENCE_S, until

HANDLERS = {
    "on_chat_room_list_req": wire.ChatRoomListResponse,
    "on_chat_room_create_req": wire.ChatRoomCreateResponse,
    "on_chat_message_send_req": wire.ChatMessageSendResponse,
    "on_chat_message_list_req": wire.ChatMessageListResponse,
    "on_chat_room_delete_req": wire.ChatRoomDeleteResponse,
    "on_chat_room_update_req": wire.ChatRoomUpdateResponse,
    "on_chat_message_delete_req": wire.ChatMessageDeleteResponse,
}


def requests_for(room: ChatRoom, message: ChatMessage) -> dict[str, wire.Request]:
    """One request a handler that succeeds on a running server, deletes last."""
    return {
        "on_chat_room_list_req": wire.ChatRoomListRequest(),
        "on_chat_room_create_req": wire.ChatRoomCreateRequest(ai_persona=PERSONA),
        "on_chat_message_send_req": wire.ChatMessageSendRequest(room_id=room.room_id, content="hi"),
        "on_chat_message_list_req": wire.ChatMessageListRequest(room_id=room.room_id),
        "on_chat_room_update_req": wire.ChatRoomUpdateRequest(
            room_id=room.room_id, new_title="new"
        ),
        "on_chat_message_delete_req": wire.ChatMessageDeleteRequest(
            room_id=room.room_id, message_id=message.message_id
        ),
        "on_chat_room_delete_req": wire.ChatRoomDeleteRequest(room_id=room.room_id),
    }


async def call(chat: ChatHarness, handler: str, *arguments: Any) -> Any:
    """The handler's answer, of its own type and fit for the wire."""
    async with asyncio.timeout(PATIENCE_S):
        response = await getattr(chat.template, handler)(*arguments)
    assert type(response) is HANDLERS[handler]
    assert encode(response)
    return response


def assert_failed(response: Response, *codes: int) -> None:
    assert response.errorCode in codes, response
    assert response.error is not None
    assert response.error.message


@pytest.fixture
async def talk(chat: ChatHarness) -> tuple[ClientSession, dict[str, wire.Request]]:
    user = await chat.user()
    room = await chat.room(user)
    return user, requests_for(room, await chat.send(user, room.room_id))


async def test_called_with_a_session_and_a_request_they_succeed(
    chat: ChatHarness, talk: tuple[ClientSession, dict[str, wire.Request]]
) -> None:
    user, requests = talk
    assert set(requests) == set(HANDLERS)
    for handler, request in requests.items():
        response = await call(chat, handler, user, request)
        assert (response.errorCode, response.error) == (0, None), handler


@pytest.mark.parametrize("handler", HANDLERS)
async def test_wrong_arguments_are_an_answer(chat: ChatHarness, handler: str) -> None:
    user = await chat.user()
    nobody = ClientSession(SessionInfo(""))
    for arguments in (
        (),
        (user,),
        (user, None),
        (None, None),
        (user, object()),
        (user, {"room_id": "x"}),
    ):
        if handler == "on_chat_room_list_req" and arguments == (user, object()):
            continue
        assert_failed(await call(chat, handler, *arguments), 1000, 1002)
    assert_failed(await call(chat, handler, nobody, None), 10000, 1000)


async def test_a_request_can_be_changed_but_not_into_something_invalid(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    request = wire.ChatMessageSendRequest(room_id=room.room_id, content="hi")
    for field, value in {
        "content": [None, 5, "\ud800", ["a"], "", "a\0b"],
        "room_id": [7, "a b"],
    }.items():
        for wrong in value:
            with pytest.raises(ValidationError):
                setattr(request, field, wrong)
    request.content = "hello"
    assert (await call(chat, "on_chat_message_send_req", user, request)).errorCode == 0
    assert await chat.texts(user, room.room_id) == ["hello", "stub: hello"]


@pytest.mark.parametrize("handler", HANDLERS)
async def test_before_the_start_and_after_the_stop_they_say_so(
    chat: ChatHarness, talk: tuple[ClientSession, dict[str, wire.Request]], handler: str
) -> None:
    user, requests = talk
    await chat.template.stop()
    assert_failed(await call(chat, handler, user, requests[handler]), 5003)


async def test_cancellation_is_raised_and_what_was_accepted_is_answered(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user)
    chat.provider.script(Reply(["late"], delay_s=0.2))
    sending = asyncio.create_task(chat.try_send(user, room.room_id, "question"))
    await until(lambda: chat.provider.calls == 1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending

    async def answered() -> bool:
        return await chat.texts(user, room.room_id) == ["question", "late"]

    await until(answered)


async def test_session_without_shard_is_mapped_or_gets_the_default(
    chat: ChatHarness,
) -> None:
    """A session without a shard is found by the mapping table or gets the default."""
    users = [await chat.user(), await chat.user()]
    mapped = next(user for user in users if user.session.shard_id == 2)
    unmapped = ClientSession(SessionInfo("host-account", account_db_key=2**40, shard_id=0))
    for session, shard_id in ((mapped.session, 2), (unmapped.session, 1)):
        user = ClientSession(SessionInfo(session.account_id, session.account_db_key))
        room = await chat.room(user)
        await chat.send(user, room.room_id)
        await chat.persist()
        rows = await chat.container.database.call_shard_procedure(
            shard_id, "fp_chat_messages_get", (room.room_id, None, 10)
        )
        assert len(rows) == 2
        await call(
            chat, "on_chat_room_delete_req", user, wire.ChatRoomDeleteRequest(room_id=room.room_id)
        )


@asynccontextmanager
async def mortal_harness(
    server: RedisServer, folder: Path, app_id: str
) -> AsyncIterator[ChatHarness]:
    async with OpenAIStub() as provider:
        database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), folder, None)
        async with running_harness(
            server.settings(timeout_s=1), database, app_id, provider
        ) as chat:
            yield chat


async def test_without_redis_lists_read_the_database_and_writes_retry(
    private_server: RedisServer, tmp_path: Path, app_id: str
) -> None:
    """Without Redis lists come from the database and writes say try again."""
    async with mortal_harness(private_server, tmp_path, app_id) as chat:
        user = await chat.user()
        room = await chat.room(user)
        requests = requests_for(room, await chat.send(user, room.room_id))
        await chat.persist()
        private_server.kill()
        rooms = await call(
            chat, "on_chat_room_list_req", user, requests.pop("on_chat_room_list_req")
        )
        assert (rooms.errorCode, rooms.stale, [r.room_id for r in rooms.rooms]) == (
            0,
            True,
            [room.room_id],
        )
        messages = await call(
            chat, "on_chat_message_list_req", user, requests.pop("on_chat_message_list_req")
        )
        assert (messages.errorCode, messages.stale) == (0, True)
        assert [message.content for message in messages.messages] == ["hello", "stub: hello"]
        for handler, request in requests.items():
            response = await call(chat, handler, user, request)
            assert_failed(response, 5003, 1001)
            assert response.error.retryable
        private_server.start()
        for handler, request in requests.items():
            response = await call(chat, handler, user, request)
            assert response.errorCode == 0, (handler, response.error)
