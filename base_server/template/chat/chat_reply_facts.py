"""What is told of a reply beside its text: the AI's view of the history, and the metadata of each kind of end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.core.logger import Logger
from service.llm.conversation import ReplyEnd
from service.llm.conversation import Turn as SpokenTurn
from service.llm.llm_errors import AIUnavailable
from template.base.errors import ApiError, ErrorCode
from template.chat.chat_text import from_json, is_tombstone
from template.chat.chat_turn import Turn


def spoken(entries: Sequence[str]) -> list[SpokenTurn]:
    """List entries as the AI's history: what was deleted, failed empty or still runs is left out."""
    turns = []
    for text in entries:
        if is_tombstone(text):
            continue
        message = from_json(text)
        if message["content"] and not message.get("is_streaming"):
            turns.append(SpokenTurn(message["sender_type"], message["content"]))
    return turns


def end_of(entry: str) -> str:
    """How a reply ended, from its final entry: its finish_reason, or ``deleted``."""
    return str(from_json(entry)["metadata"].get("finish_reason", "stop")) if entry else "deleted"


def failure_of(metadata: dict[str, Any]) -> ApiError | None:
    """The error that a reply's metadata tells of, as the waiting caller gets it."""
    if metadata.get("finish_reason") != "error":
        return None
    code = ErrorCode[metadata.get("error", ErrorCode.AI_UNAVAILABLE.name)]
    not_called = code is ErrorCode.AI_UNAVAILABLE and metadata.get("called") is False
    return ApiError(code, http_status=503 if not_called else None, retry_after_s=metadata.get("retry_after_s"))


def end_facts(end: ReplyEnd) -> dict[str, Any]:
    """Metadata of a whole reply."""
    prompt, completion = end.prompt_tokens, end.completion_tokens
    return {
        "model": end.model,
        "tokens": {"prompt": prompt, "completion": completion, "total": prompt + completion},
        "finish_reason": end.finish_reason,
        "latency_ms": end.latency_ms,
    }


def failed(turn: Turn, code: ErrorCode) -> dict[str, Any]:
    """Metadata of a reply that ended with an error."""
    Logger.warn("reply failed", room_id=turn.room_id, message_id=turn.reply_id, code=code.name)
    return {"finish_reason": "error", "error": code.name}


def call_facts(error: AIUnavailable) -> dict[str, Any]:
    """What the caller should know of the failed call."""
    facts: dict[str, Any] = {"called": error.called}
    if error.retry_after_s is not None:
        facts["retry_after_s"] = error.retry_after_s
    return facts
