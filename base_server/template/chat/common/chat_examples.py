"""A request and its answer for each chat protocol, for the API's description. A test sends the
requests, in the order of a life: the answers have these shapes."""

from __future__ import annotations

from typing import Any

from base_server.template.base.endpoint import Example
from base_server.template.base.event_stream import StreamEvent
from base_server.template.chat.common.chat_protocol import ChatProtocol

_ROOM_ID = "01965b8a-4c21-8075-9a1e-2f6c1d0b7e43"
_QUESTION_ID, _REPLY_ID = (
    "01965b8a-5e02-8075-b3c4-90d1a2e4f566",
    "01965b8a-5e03-8075-8f20-7be1c3d5a799",
)
_CLIENT_ID = "01965b8a-5dff-7c31-a9e2-4b7d8f60c1aa"
_TITLE = "The old mine"

_ROOM: dict[str, Any] = {
    "room_id": _ROOM_ID,
    "title": _TITLE,
    "ai_persona": "GPT4O",
    "created_at": "2026-11-25T09:00:00.000+00:00",
    "last_message_at": "2026-11-25T09:00:00.000+00:00",
    "message_count": 0,
    "state": "PENDING",
}
_QUESTION: dict[str, Any] = {
    "message_id": _QUESTION_ID,
    "room_id": _ROOM_ID,
    "seq": 1,
    "sender_type": "USER",
    "content": "Where is the mine?",
    "timestamp": "2026-11-25T09:00:05.120+00:00",
    "state": "PENDING",
    "parent_message_id": None,
    "metadata": {"ai_persona": "GPT4O"},
    "is_streaming": False,
}
_REPLY: dict[str, Any] = {
    "message_id": _REPLY_ID,
    "room_id": _ROOM_ID,
    "seq": 2,
    "sender_type": "AI",
    "content": "Follow the river north.",
    "timestamp": "2026-11-25T09:00:05.121+00:00",
    "state": "PENDING",
    "parent_message_id": _QUESTION_ID,
    "metadata": {
        "ai_persona": "GPT4O",
        "model": "gpt-4o",
        "tokens": {"prompt": 21, "completion": 6, "total": 27},
        "finish_reason": "stop",
        "latency_ms": 640,
    },
    "is_streaming": False,
}


def _ok(**fields: Any) -> dict[str, Any]:
    return {"errorCode": 0, "sequence": 0, **fields}


_SEND = {"room_id": _ROOM_ID, "content": "Where is the mine?", "client_message_id": _CLIENT_ID}
# The id of an event is the text's length up to and with it; the last one's is one more than all of
# it.
_DONE = StreamEvent("reply.done", {"message": _REPLY}, 24)

EXAMPLES = {
    ChatProtocol.PERSONAS: Example(
        {},
        _ok(
            personas=[
                {
                    "ai_persona": "GPT4O",
                    "title": "GPT-4o",
                    "description": "General assistant.",
                    "model": "gpt-4o",
                    "default": True,
                }
            ]
        ),
    ),
    ChatProtocol.ROOM_CREATE: Example({"ai_persona": "GPT4O", "title": _TITLE}, _ok(room=_ROOM)),
    ChatProtocol.ROOM_LIST: Example(
        {"limit": 20}, _ok(rooms=[_ROOM], total_count=1, has_more=False, stale=False)
    ),
    ChatProtocol.ROOM_UPDATE: Example(
        {"room_id": _ROOM_ID, "new_title": "The new mine"},
        _ok(message="The room's title was changed.", new_title="The new mine"),
    ),
    ChatProtocol.MESSAGE_SEND: Example(_SEND, _ok(message=_REPLY, user_message=_QUESTION)),
    ChatProtocol.MESSAGE_STREAM: Example(
        _SEND,
        events=(
            StreamEvent(
                "message.accepted", {"user_message": _QUESTION, "message_id": _REPLY_ID}, 0
            ),
            StreamEvent("reply.delta", {"text": "Follow"}, 6),
            StreamEvent("reply.delta", {"text": " the river north."}, 23),
            _DONE,
        ),
    ),
    ChatProtocol.MESSAGE_RESUME: Example(
        {"room_id": _ROOM_ID, "message_id": _REPLY_ID, "last_event_id": "6"},
        events=(StreamEvent("reply.delta", {"text": " the river north."}, 23), _DONE),
    ),
    ChatProtocol.MESSAGE_STOP: Example(
        {"room_id": _ROOM_ID, "message_id": _REPLY_ID}, _ok(message=_REPLY)
    ),
    ChatProtocol.MESSAGE_LIST: Example(
        {"room_id": _ROOM_ID, "limit": 50},
        _ok(messages=[_QUESTION, _REPLY], has_more=False, next_cursor=None, stale=False),
    ),
    ChatProtocol.MESSAGE_DELETE: Example(
        {"room_id": _ROOM_ID, "message_id": _QUESTION_ID}, _ok(message="The message was deleted.")
    ),
    ChatProtocol.ROOM_DELETE: Example({"room_id": _ROOM_ID}, _ok(message="The room was deleted.")),
}
