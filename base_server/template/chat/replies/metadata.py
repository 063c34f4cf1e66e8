"""What surrounds the text of a reply: the history that the AI gets, and the metadata of each kind
of end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast, overload

from base_server.service.core.logger import Logger
from base_server.service.llm.conversation import HistoryMessage, ReplyEnd, Sender
from base_server.service.llm.llm_errors import (
    AITimeout,
    AIUnavailable,
    ConversationTooLong,
    UnknownPersona,
)
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


class LazyHistory(Sequence[HistoryMessage]):
    """List entries as the AI's history, without messages that are deleted, empty or still running.

    Entries are parsed lazily, so trimming from the end is cheap."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = [
            text
            for text in entries
            if text[:1] != TOMBSTONE and RUNNING not in text and '"content":"",' not in text
        ]

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> HistoryMessage: ...

    @overload
    def __getitem__(self, index: slice) -> LazyHistory: ...

    def __getitem__(self, index: int | slice) -> HistoryMessage | LazyHistory:
        return (
            LazyHistory(self._entries[index])
            if isinstance(index, slice)
            else _parse(self._entries[index])
        )

    def __reversed__(self) -> Iterator[HistoryMessage]:
        return map(_parse, reversed(self._entries))


def _parse(entry: str) -> HistoryMessage:
    sender, content = sender_and_content(entry)
    return HistoryMessage(cast(Sender, sender), content)


def end_of(entry: str) -> str:
    """How a reply ended, from its final entry: its finish_reason, or ``deleted``."""
    return finish_reason_of(entry) if entry else "deleted"


def failure_of(metadata: dict[str, Any]) -> ApiError | None:
    """The error in a reply's metadata, as the waiting caller gets it."""
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


def usage_metadata(end: ReplyEnd) -> dict[str, Any]:
    """Metadata of a complete reply."""
    prompt, completion = end.prompt_tokens, end.completion_tokens
    return {
        "model": end.model,
        "tokens": {"prompt": prompt, "completion": completion, "total": prompt + completion},
        "finish_reason": end.finish_reason,
        "latency_ms": end.latency_ms,
    }


def failure_metadata(code: ErrorCode, cause: object, reply_id: str) -> dict[str, Any]:
    """Metadata of a reply that ended with an error: ``called``, and what the caller should know of
    the failed call."""
    metadata: dict[str, Any] = {"finish_reason": "error", "error": code.name}
    match cause:
        case AIUnavailable():
            metadata["called"] = cause.called
            if cause.retry_after_s is not None:
                metadata["retry_after_s"] = cause.retry_after_s
            if isinstance(cause, ConversationTooLong):
                metadata["too_long"] = True
        case AITimeout() | TimeoutError() if code is ErrorCode.AI_TIMED_OUT:
            pass
        case AITimeout() | TimeoutError() | UnknownPersona():
            # Nobody was asked: the deadline passed first, or the room's persona has left the
            # configuration.
            metadata["called"] = False
        case _:
            # Whatever it was, the reply ends (G7); the error is in the log.
            Logger.error("reply failed unexpectedly", message_id=reply_id, exc_info=cause)
    return metadata
