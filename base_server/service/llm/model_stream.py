"""What a LangChain model streams, and how its chunks are read: text, usage, and why it ended.

Taken from the model's own ``_astream``, below LangChain's callbacks and tracing (docs/decisions):
``astream`` keeps every chunk and joins them on the event loop when a reply ends or is left, and
with a tracer in the environment it would send conversations to a third party."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration

Chunks = AsyncGenerator[ChatGeneration, None]

# What integrations call the same thing, in the chunk's own metadata or in its message's.
_REASONS = ("finish_reason", "stop_reason", "done_reason", "stopReason")
_MODELS = ("model_name", "model")
_LONGEST_NAME = 200
_MOST_TOKENS = 1_000_000_000
_BETWEEN_WORDS = str.maketrans("", "", "_- \t\r\n")


def fold_reason(reason: str) -> str:
    """A finish reason as it is compared: ``end_turn``, ``End-Turn`` and ``EndTurn`` are the
    same."""
    return reason.translate(_BETWEEN_WORDS).casefold()


def _folded(*reasons: str) -> frozenset[str]:
    return frozenset(map(fold_reason, reasons))


_WHOLE = _folded(
    *[
        "stop",
        "eos",
        "eos_token",
        "end_turn",
        "stop_sequence",
        "complete",
        "completed",
        "finished",
        "done",
    ]
)
_LENGTH = _folded(
    *["length", "max_tokens", "max_length", "max_output_tokens", "max_completion_tokens"],
    *["max_new_tokens", "model_length", "token_limit", "context_length"],
    "model_context_window_exceeded",
)
_WITHHELD = _folded(
    *["content_filter", "refusal", "safety", "recitation", "blocklist", "prohibited_content"],
    *["spii", "guardrail_intervened", "content_filtered", "sensitive"],
)
_NO_REASON = frozenset({"", "null", "none"})
"""Some servers write these into every chunk but the last."""
_LOGGED_REASON = re.compile(r"[^A-Za-z0-9_.:/-]")
_LONGEST_LOGGED_REASON = 64

EndKind = Literal["stop", "length", "unknown", "withheld"]
_SEVERITY: dict[EndKind | None, int] = {
    None: 0,
    "stop": 1,
    "length": 2,
    "unknown": 3,
    "withheld": 4,
}


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """How a model streams.

    ``says_why``: an end without a reason is a reply that was cut off. ``usage_adds_up``:
    LangChain's rule, a chunk's usage is what came on top; with the OpenAI protocol the last one is
    the whole usage, and some servers repeat it with every chunk. ``whole_reasons``: folded finish
    reasons that mean a whole reply, beside those that are known anyway. ``done_is_whole``: OpenAI's
    ``[DONE]`` ends a whole reply where no reason was given. ``obtains_permit``: its HTTP client
    obtains the call's permit; that of another model is obtained before it is asked.
    ``joins_neighbours``: in its prompt user and AI alternate."""

    says_why: bool
    usage_adds_up: bool
    whole_reasons: frozenset[str] = frozenset()
    done_is_whole: bool = True
    obtains_permit: bool = False
    joins_neighbours: bool = True


def open_chunks(model: BaseChatModel, messages: list[BaseMessage]) -> Chunks:
    """The model's chunks; a model that cannot stream gives its whole reply as one.

    Nothing is sent yet."""
    if model._should_stream(async_api=True, stream=True):
        return cast(Chunks, model._astream(messages))
    return _whole(model, messages)


class ChunkReader:
    """Reads a reply's chunks."""

    def __init__(self, traits: ModelTraits) -> None:
        self._adds_up = traits.usage_adds_up
        self._whole = _WHOLE | traits.whole_reasons
        self.reason: EndKind | None = None
        """None until the model has given a reason."""
        self.unknown_reason = ""
        """The finish reason that is not known, for the log: bounded, and without anything that
        could be text."""
        self.model_name: str | None = None
        self.usage: tuple[int, int] | None = None
        """(prompt, completion) tokens."""

    def text(self, chunk: ChatGeneration) -> str:
        """The chunk's text; everything else in it is noted."""
        message = chunk.message
        # A chunk may be of another kind than AIMessageChunk: some servers name the user's role.
        if usage := getattr(message, "usage_metadata", None):
            self._note_usage(usage["input_tokens"], usage["output_tokens"])
        if chunk.generation_info:
            self._note_end(chunk.generation_info)
        if message.response_metadata:
            self._note_end(message.response_metadata)
        content = message.content
        return content if isinstance(content, str) else str(message.text)

    def note_reason(self, kind: EndKind) -> None:
        """Why the reply ends; a later reason never makes it look better."""
        if _SEVERITY[kind] > _SEVERITY[self.reason]:
            self.reason = kind

    def _kind_of(self, folded: str) -> EndKind:
        if folded in self._whole:
            return "stop"
        return "length" if folded in _LENGTH else "withheld" if folded in _WITHHELD else "unknown"

    def _note_usage(self, prompt: Any, completion: Any) -> None:
        if not (_is_count(prompt) and _is_count(completion)):
            return
        before = self.usage if self._adds_up and self.usage else (0, 0)
        self.usage = (before[0] + prompt, before[1] + completion)

    def _note_end(self, metadata: Mapping[str, Any]) -> None:
        if (reason := _first(metadata, _REASONS)) and (
            folded := fold_reason(reason)
        ) not in _NO_REASON:
            self.note_reason(self._kind_of(folded))
            if self.reason == "unknown":
                self.unknown_reason = _LOGGED_REASON.sub("?", reason[:_LONGEST_LOGGED_REASON])
        if name := _first(metadata, _MODELS):
            # It goes into the message's metadata: text that can be stored, of a name's length.
            self.model_name = (
                name[:_LONGEST_NAME].encode("utf-8", "replace").decode().replace("\0", "?")
            )


async def _whole(model: BaseChatModel, messages: list[BaseMessage]) -> Chunks:
    yield ChatGeneration(message=await model.ainvoke(messages))


def _is_count(value: Any) -> bool:
    """What a provider reports as tokens may be anything: LangChain passes it on as it came."""
    return isinstance(value, int) and 0 <= value <= _MOST_TOKENS


def _first(metadata: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        if value := metadata.get(name):
            return str(value)
    return None
