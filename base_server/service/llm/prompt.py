"""The messages that a model gets.

User text is only ever the content of a message object, never a template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from base_server.service.llm.conversation import (
    HistoryMessage,
    Sender,
    cautious_tokens,
    estimate_tokens,
)

_OVERHEAD_TOKENS = 4  # role and separators of a message
_BETWEEN = "\n\n"

_KINDS: dict[Sender, type[HumanMessage | AIMessage | SystemMessage]] = {
    "USER": HumanMessage,
    "AI": AIMessage,
    "SYSTEM": SystemMessage,
}


class Prompt:
    """What every provider takes: at most one system message, first; then user and AI alternating,
    beginning and ending with the user; no message without text.

    ``messages`` are joined from ``history``, because replies that failed, were deleted or were
    trimmed away leave neighbours of one role, which the templates of many models refuse. ``tokens``
    is their estimated size. With ``joins`` False they are what they were: for a model that looks at
    the question alone."""

    __slots__ = ("_history", "_joins", "_question", "_system_prompt", "messages", "tokens")

    def __init__(
        self,
        system_prompt: str,
        history: Sequence[HistoryMessage],
        question: str,
        *,
        joins: bool = True,
    ) -> None:
        self._joins = joins
        self._system_prompt = system_prompt
        self._history = _from_first_question(history)
        self._question = question
        conversation = [*self._history, HistoryMessage("USER", question)]
        if system_prompt:
            conversation.insert(0, HistoryMessage("SYSTEM", system_prompt))
        self.messages = as_messages(_joined(conversation) if joins else conversation)
        self.tokens = count_tokens(self.messages)

    def with_half_the_history(self) -> Prompt | None:
        """The same question after the newer half of the history; None when there is no history."""
        if not self._history:
            return None
        newer = _newest(
            self._history, len(self._history) // 2, sum(map(message_tokens, self._history)) // 2
        )
        return Prompt(self._system_prompt, newer, self._question, joins=self._joins)


def build_prompt(
    system_prompt: str,
    history: Sequence[HistoryMessage],
    question: str,
    *,
    max_messages: int,
    max_tokens: int,
    context_tokens: int | None = None,
    joins: bool = True,
) -> Prompt:
    """System prompt, the newest part of ``history`` that fits the limits and begins with a message
    of the user, question.

    ``context_tokens`` is what all of it may take together, counted by :func:`cautious_tokens`;
    system prompt and question are there even if they are more. A last entry of ``history`` that is
    the question itself is left out, so are messages without text (a reply that failed at once)."""
    asked = HistoryMessage("USER", question)
    earlier = history[:-1] if history and history[-1] == asked else history
    room = None
    if context_tokens is not None:
        room = (
            context_tokens - _cautious(HistoryMessage("SYSTEM", system_prompt)) - _cautious(asked)
        )
    return Prompt(
        system_prompt, _newest(earlier, max_messages, max_tokens, room), question, joins=joins
    )


def as_messages(conversation: Iterable[HistoryMessage]) -> list[BaseMessage]:
    return [_KINDS[sender](content=content) for sender, content in conversation]


def message_tokens(message: HistoryMessage) -> int:
    """Estimated, offline; see :func:`estimate_tokens`."""
    return estimate_tokens(message.content) + _OVERHEAD_TOKENS


def count_tokens(messages: Iterable[BaseMessage]) -> int:
    """:func:`message_tokens` of LangChain's messages."""
    return sum(estimate_tokens(message.text) + _OVERHEAD_TOKENS for message in messages)


def _cautious(message: HistoryMessage) -> int:
    return cautious_tokens(message.content) + _OVERHEAD_TOKENS


def _newest(
    history: Sequence[HistoryMessage], max_messages: int, max_tokens: int, room: int | None = None
) -> list[HistoryMessage]:
    """The newest messages that are at most ``max_messages`` of ``max_tokens``, and fit the
    context's ``room``."""
    # LangChain's trim_messages gives the same for the budget, by counting message objects made of
    # all of the history.
    kept: list[HistoryMessage] = []
    for message in reversed(history):
        if not message.content or message.content.isspace():
            continue
        max_tokens -= message_tokens(message)
        if room is not None:
            room -= _cautious(message)
        if max_tokens < 0 or len(kept) == max_messages or (room is not None and room < 0):
            break
        kept.append(message)
    kept.reverse()
    return kept


def _from_first_question(history: Sequence[HistoryMessage]) -> list[HistoryMessage]:
    """``history`` without the AI's messages before the first one of the user."""
    first = next(
        (index for index, message in enumerate(history) if message.sender == "USER"), len(history)
    )
    return [
        message
        for index, message in enumerate(history)
        if index >= first or message.sender == "SYSTEM"
    ]


def _joined(conversation: Sequence[HistoryMessage]) -> list[HistoryMessage]:
    """System messages in one at the beginning, then neighbours of one sender in one."""
    ordered = sorted(conversation, key=lambda message: message.sender != "SYSTEM")
    return [
        HistoryMessage(sender, _BETWEEN.join(message.content for message in group))
        for sender, group in groupby(ordered, key=lambda message: message.sender)
    ]
