"""Requests, responses and models: made with the document's arguments, changed freely, normalised on
the way out."""

from __future__ import annotations

import inspect
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from template.base.encoding import encode
from template.base.envelope import Request, Response
from template.chat.common import chat_serialize
from template.chat.common.chat_model import ChatMessage, ChatRoom

MODELS = [model for _, model in inspect.getmembers(chat_serialize, inspect.isclass)]
RESPONSES = [model for model in MODELS if issubclass(model, Response) and model is not Response]
REQUESTS = [model for model in MODELS if issubclass(model, Request) and model is not Request]
ARGUMENTS: dict[str, Any] = {
    "room_id": "room_123",
    "message_id": "msg_456",
    "content": "안녕",
    "ai_persona": "GPT4O",
    "new_title": "제목",
}


@pytest.mark.parametrize("model", RESPONSES)
def test_a_response_needs_no_arguments_and_can_be_changed(model: type[Response]) -> None:
    response = model()
    assert json.loads(encode(response))["errorCode"] == 0
    for code, name in ((1000, "CHAT_FAILED"), (1001, "MESSAGE_NOT_SENT")):
        response.errorCode = code
        assert json.loads(encode(response))["error"]["code"] == name


@pytest.mark.parametrize("model", REQUESTS)
def test_a_request_takes_the_documents_arguments_and_can_be_changed(model: type[Request]) -> None:
    request = model(
        **{name: value for name, value in ARGUMENTS.items() if name in model.model_fields}
    )
    request.sequence = 7
    for name in model.model_fields:
        setattr(request, name, getattr(request, name))


def test_the_list_answers_lists_can_be_set_and_filled() -> None:
    response = chat_serialize.ChatRoomListResponse()
    rooms = [ChatRoom(room_id="room_123", message_count="12")]  # type: ignore[arg-type]
    response.rooms = rooms
    response.total_count = len(rooms)
    response.rooms.append(ChatRoom())
    body = json.loads(encode(response))
    assert (body["total_count"], [room["message_count"] for room in body["rooms"]]) == (1, [12, 0])


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("12", 12), (3, 3)])
def test_a_message_count_may_be_a_digit_string_and_goes_out_as_a_number(
    text: Any, number: int
) -> None:
    assert ChatRoom(message_count=text).model_dump(mode="json")["message_count"] == number


NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
TIMES = {
    "": "",
    NOW.isoformat(): "2026-01-02T03:04:05.678+00:00",
    "2026-01-02T03:04:05+00:00": "2026-01-02T03:04:05.000+00:00",
    "2026-01-02T03:04:05.678+00:00": "2026-01-02T03:04:05.678+00:00",
    "2026-01-02T12:04:05.678+09:00": "2026-01-02T03:04:05.678+00:00",
    "2026-01-02T03:04:05Z": "2026-01-02T03:04:05.000+00:00",
}


@pytest.mark.parametrize("given", TIMES)
@pytest.mark.parametrize(
    "make", [lambda t: ChatMessage(timestamp=t), lambda t: ChatRoom(created_at=t)]
)
def test_a_time_goes_out_in_utc_with_milliseconds(make: Any, given: str) -> None:
    fields = make(given).model_dump(mode="json")
    assert TIMES[given] in (fields.get("timestamp"), fields.get("created_at"))


@pytest.mark.parametrize("zone", ["UTC", "Asia/Seoul", "America/New_York"])
def test_a_naive_time_is_the_servers_local_time(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        before = datetime.now(UTC)
        shown = ChatMessage(timestamp=datetime.now().isoformat()).model_dump(mode="json")[
            "timestamp"
        ]
        assert abs(datetime.fromisoformat(shown) - before) < timedelta(seconds=5)
        assert shown.endswith("+00:00")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_message_takes_the_documents_dictionary() -> None:
    message_data = {
        "message_id": "msg_456",
        "room_id": "room_123",
        "sender_type": "USER",
        "content": "안녕 🎉",
        "timestamp": datetime.now().isoformat(),
        "metadata": {"ai_persona": "GPT4O"},
    }
    message = ChatMessage(**message_data)  # type: ignore[arg-type]
    message.content, message.seq, message.state = "changed", 3, "SENT"
    out = message.model_dump(mode="json")
    assert out | message_data == out | {
        "content": "안녕 🎉",
        "timestamp": message_data["timestamp"],
    }
    assert (out["content"], out["seq"], out["state"]) == ("changed", 3, "SENT")
    other = ChatMessage()
    other.metadata["ai_persona"] = "OTHER"
    assert ChatMessage().metadata == {}
