"""What is told of a reply beside its text: the AI's view of the history, and the metadata of each kind of end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast, overload

from base_server.service.core.logger import Logger
from base_server.service.llm.conversation import HistoryMessage, ReplyEnd, Sender
from base_server.service.llm.llm_errors import AIUnavailable, ConversationTooLong
from base_server.template.base.errors import (
    AINotCalledError,
    ApiError,
    ConversationTooLongError,
    ErrorCode,
)
from base_server.template.chat.domain.message_format import (
    RUNNING,
    TOMBSTONE,
    finish_reason_of,
    sender_and_content,
)
from base_server.template.chat.replies.slot import ReplySlot


class LazyHistory(Sequence[HistoryMessage]):
    """List entries as the AI's history: what was deleted, failed empty or still runs is left out.

    An entry is read when it is looked at: who trims from the end does not pay for what is trimmed."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = [
            text
            for text in entries
            if text[:1] != TOMBSTONE and RUNNING not in text and '"content":"",' not in text
        ]

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, place: int) -> HistoryMessage: ...

    @overload
    def __getitem__(self, place: slice) -> LazyHistory: ...

    def __getitem__(self, place: int | slice) -> HistoryMessage | LazyHistory:
        return (
            LazyHistory(self._entries[place])
            if isinstance(place, slice)
            else _said_in(self._entries[place])
        )

    def __reversed__(self) -> Iterator[HistoryMessage]:
        return map(_said_in, reversed(self._entries))


def _said_in(entry: str) -> HistoryMessage:
    sender, content = sender_and_content(entry)
    return HistoryMessage(cast(Sender, sender), content)


def end_of(entry: str) -> str:
    """How a reply ended, from its final entry: its finish_reason, or ``deleted``."""
    return finish_reason_of(entry) if entry else "deleted"


def failure_of(metadata: dict[str, Any]) -> ApiError | None:
    """The error that a reply's metadata tells of, as the waiting caller gets it."""
    if metadata.get("finish_reason") != "error":
        return None
    code, retry_after_s = (
        ErrorCode[metadata.get("error", ErrorCode.AI_UNAVAILABLE.name)],
        metadata.get("retry_after_s"),
    )
    if code is ErrorCode.AI_UNAVAILABLE and metadata.get("called") is False:
        return AINotCalledError(retry_after_s=retry_after_s)
    if code is ErrorCode.AI_UNAVAILABLE and metadata.get("too_long"):
        return ConversationTooLongError()
    return ApiError(code, retry_after_s=retry_after_s)


def end_facts(end: ReplyEnd) -> dict[str, Any]:
    """Metadata of a whole reply."""
    prompt, completion = end.prompt_tokens, end.completion_tokens
    return {
        "model": end.model,
        "tokens": {"prompt": prompt, "completion": completion, "total": prompt + completion},
        "finish_reason": end.finish_reason,
        "latency_ms": end.latency_ms,
    }


def failed(turn: ReplySlot, code: ErrorCode) -> dict[str, Any]:
    """Metadata of a reply that ended with an error."""
    Logger.warn("reply failed", room_id=turn.room_id, message_id=turn.reply_id, code=code.name)
    return {"finish_reason": "error", "error": code.name}


def call_facts(error: AIUnavailable) -> dict[str, Any]:
    """What the caller should know of the failed call."""
    facts: dict[str, Any] = {"called": error.called}
    if error.retry_after_s is not None:
        facts["retry_after_s"] = error.retry_after_s
    if isinstance(error, ConversationTooLong):
        facts["too_long"] = True
    return facts
