"""What goes into a reply and what comes out: plain values, free of LangChain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

Sender = Literal["USER", "AI", "SYSTEM"]
FinishReason = Literal["stop", "length"]

_SENDERS: Mapping[str, Sender] = {
    "user": "USER",
    "human": "USER",
    "ai": "AI",
    "assistant": "AI",
    "system": "SYSTEM",
}


_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ \n"
_NOT_ASCII = bytes(range(0x80, 0x100))


class HistoryMessage(NamedTuple):
    """One message of a conversation. SYSTEM is written by servers only, never by a client."""

    sender: Sender
    content: str


class Question(NamedTuple):
    """What is asked, and the conversation before it, oldest first."""

    message: str
    history: Sequence[HistoryMessage]


@dataclass(frozen=True, slots=True)
class ReplyStart:
    """A provider is asked now; again when a fallback takes over, or when half of the history is
    left out, which happens before the first piece only.

    ``model`` is the configured name, ``prompt_tokens`` an estimate: what a reply without an end is
    accounted with."""

    model: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class ReplyChunk:
    """A piece of the reply's text, never empty; all pieces joined are the reply.

    ``tokens`` is an estimate; those of a reply's pieces add up to that of its text.
    """

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class ReplyEnd:
    """The last item of a whole reply.

    Token counts are the provider's, or estimated when it sent none."""

    model: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    latency_ms: int


ReplyItem = ReplyStart | ReplyChunk | ReplyEnd


def as_history_message(message: Any) -> HistoryMessage:
    """A HistoryMessage from what callers hold: a HistoryMessage, a ChatMessage, a LangChain
    message, or a mapping with ``sender_type`` (or ``sender``, ``role``, ``type``) and ``content``.
    Raises ValueError for anything else."""
    if isinstance(message, HistoryMessage):
        return message
    fields = message if isinstance(message, Mapping) else _Attributes(message)
    names = (fields.get(name) for name in ("sender_type", "sender", "role", "type"))
    sender = _SENDERS.get(
        next((str(getattr(name, "value", name)) for name in names if name), "").casefold()
    )
    content = fields.get("content")
    if sender is None or not isinstance(content, str):
        raise ValueError(
            "a history message needs a sender (USER, AI or SYSTEM) and a text as content"
        )
    return HistoryMessage(sender, content)


class _Attributes:
    def __init__(self, message: Any) -> None:
        self._message = message

    def get(self, name: str) -> Any:
        return cast(Any, getattr(self._message, name, None))


def estimate_tokens(text: str) -> int:
    """About four UTF-8 bytes a token: near for English, and unlike counting characters near for
    Korean too."""
    return tokens_of_bytes(len(text) if text.isascii() else len(text.encode("utf-8", "replace")))


def tokens_of_bytes(length: int) -> int:
    """:func:`estimate_tokens` of a text of ``length`` UTF-8 bytes."""
    return (length + 3) // 4


def cautious_tokens(text: str) -> int:
    """More tokens than a usual tokenizer makes of ``text``, where too few would overflow a model's
    context.

    Measured on prose in nine languages, program code and JSON, with tokenizers of 32,000 to 131,000
    words (Mistral's v1, v3 and Tekken, OpenAI's cl100k): a letter is at most a third of a token in
    English and Latin text, digits and signs a whole one, a byte of any other script 0.6. Long
    hexadecimal, Base64 and rows of emoji can be more."""
    data = text.encode("utf-8", "replace")
    others = data.translate(None, _LETTERS)
    signs = len(others.translate(None, _NOT_ASCII))
    return (len(data) - len(others)) // 3 + signs + (len(others) - signs) * 2 // 3 + 1
