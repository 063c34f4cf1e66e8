"""A reply as Server-Sent Events: accepted, text as it arrives, and exactly one last event."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from base_server.template.base.envelope import error_body
from base_server.template.base.errors import ApiError
from base_server.template.base.event_stream import Events, StreamEvent
from base_server.template.chat.common.chat_model import ChatMessage
from base_server.template.chat.common.chat_serialize import (
    MessageAcceptedEvent,
    ReplyDeltaEvent,
    ReplyEndEvent,
    ReplyErrorEvent,
)
from base_server.template.chat.replies.metadata import failure_of
from base_server.template.chat.replies.reader import Piece

ACCEPTED, DELTA, DONE, STOPPED, ERROR = (
    "message.accepted",
    "reply.delta",
    "reply.done",
    "reply.stopped",
    "reply.error",
)
RESUME_EVENTS = {
    DELTA: ReplyDeltaEvent,
    DONE: ReplyEndEvent,
    STOPPED: ReplyEndEvent,
    ERROR: ReplyErrorEvent,
}
STREAM_EVENTS = {ACCEPTED: MessageAcceptedEvent} | RESUME_EVENTS

_COMPLETE = ("stop", "length")


def accepted(question: ChatMessage, reply_id: str) -> StreamEvent:
    return StreamEvent(
        ACCEPTED, {"user_message": question.model_dump(mode="json"), "message_id": reply_id}, 0
    )


async def reply_events(
    pieces: AsyncGenerator[Piece | ChatMessage, None], offset: int, *first: StreamEvent
) -> Events:
    """``first``, then the events of a reading from ``offset`` on.

    An event's id is the offset after it; the last event's is the length of the text plus 1. Without
    a last event when the reading ends early: the client resumes elsewhere."""
    try:
        for event in first:
            yield event
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Piece):
                    offset = piece.offset
                    yield StreamEvent(DELTA, {"text": piece.text}, offset)
                else:
                    yield last_event(piece)
    except ApiError as error:
        # It was deleted, with its room or alone.
        yield _failure(error, None, offset + 1)


def last_event(message: ChatMessage) -> StreamEvent:
    """The last event of a reply, from its final message."""
    event_id = len(message.content.encode()) + 1
    if (failure := failure_of(message.metadata)) is not None:
        return _failure(failure, message, event_id)
    complete = message.metadata.get("finish_reason", "stop") in _COMPLETE
    return StreamEvent(
        DONE if complete else STOPPED, {"message": message.model_dump(mode="json")}, event_id
    )


def _failure(error: ApiError, message: ChatMessage | None, event_id: int) -> StreamEvent:
    data: dict[str, Any] = {
        "error": error_body(error).model_dump(mode="json", exclude_none=True),
        "message": message and message.model_dump(mode="json"),
    }
    return StreamEvent(ERROR, data, event_id, error_code=int(error.code))
