"""What a request costs, in calls of functions: a count that no busy machine changes, so that a
detour shows.

A limit is what it takes now and a tenth more. One that is broken for a good reason is raised; `make
bench` tells what that costs in time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import FrameType
from typing import Any

import pytest

from base_server.service.core import logger
from base_server.service.llm.conversation import (
    Question,
    ReplyChunk,
    ReplyEnd,
    ReplyItem,
    ReplyStart,
)
from base_server.template.base.session_info import SessionInfo
from base_server.template.base.template_service import Call, HttpResponse, TemplateService
from base_server.template.chat.common.chat_protocol import ChatProtocol
from tests.chat_harness import ChatHarness

LIMITS = {
    ChatProtocol.MESSAGE_LIST: 345,
    ChatProtocol.ROOM_LIST: 400,
    ChatProtocol.MESSAGE_SEND: 1350,
}


class OneSession:
    def __init__(self, session: SessionInfo) -> None:
        self._session = session

    async def find(self, token: str) -> SessionInfo | None:
        return self._session


async def _say_something(
    ask: Callable[[], Awaitable[Question]], claim: Callable[[], Awaitable[None]], **_: Any
) -> AsyncGenerator[ReplyItem, None]:
    await ask()
    await claim()
    yield ReplyStart("stub", 1)
    yield ReplyChunk("An answer of forty characters, no more...", 10)
    yield ReplyEnd("stub", 1, 10, "stop", 0)


async def _calls_of(work: Callable[[], Awaitable[HttpResponse]]) -> int:
    """The fewest of some tries: what runs beside the request is not its own."""
    counts = []
    for _ in range(8):
        count = 0

        def note(frame: FrameType, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            answer = await work()
        finally:
            sys.setprofile(None)
        assert answer.error_code == 0
        counts.append(count)
        await asyncio.sleep(0.01)
    return min(counts)


@pytest.mark.parametrize("protocol", LIMITS, ids=lambda protocol: protocol.name.lower())
async def test_a_request_takes_no_more_calls_than_it_did(
    chat: ChatHarness, protocol: ChatProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat.container.ai, "stream_claimed", _say_something)
    monkeypatch.setattr(logger, "_lowest", logging.WARNING)
    user = await chat.user()
    rooms = [await chat.room(user) for _ in range(20)]
    for _ in range(25):  # more than a page, and a history
        await chat.send(user, rooms[0].room_id)
    await chat.persist()
    (row,) = (row for row in chat.template.endpoints() if row.id == protocol.id)
    fields: dict[str, Any] = {"limit": 20}
    if protocol is not ChatProtocol.ROOM_LIST:
        fields["room_id"] = rooms[0].room_id
    if protocol is ChatProtocol.MESSAGE_SEND:
        fields["content"] = "What would forty characters ask of you?!"
    driver = TemplateService(OneSession(user.session))
    body = json.dumps(fields).encode()
    calls = await _calls_of(lambda: driver.handle(row, Call(body, bearer="token")))
    assert calls <= LIMITS[protocol]
