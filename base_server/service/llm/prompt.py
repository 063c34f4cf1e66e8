"""The messages that a model gets. User text is only ever the content of a message object, never a template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from service.llm.conversation import Sender, Turn, estimate_tokens

_OVERHEAD_TOKENS = 4  # role and separators of a message

_KINDS: dict[Sender, type[HumanMessage | AIMessage | SystemMessage]] = {
    "USER": HumanMessage,
    "AI": AIMessage,
    "SYSTEM": SystemMessage,
}


class Prompt(NamedTuple):
    """``tokens`` is the estimated size of all ``messages``."""

    messages: list[BaseMessage]
    tokens: int


def build_prompt(
    system_prompt: str, history: Sequence[Turn], question: str, *, max_messages: int, max_tokens: int
) -> Prompt:
    """System prompt, the newest part of ``history`` that fits both limits and begins with a user's turn, question.

    A last entry of ``history`` that is the question itself is left out, so are empty turns (a reply
    that failed at once).
    """
    asked = Turn("USER", question)
    earlier = history[:-1] if history and history[-1] == asked else history
    head = [Turn("SYSTEM", system_prompt)] if system_prompt else []
    newest, tokens = _newest(earlier, max_messages, max_tokens)
    return Prompt(as_messages([*head, *newest, asked]), tokens + sum(map(turn_tokens, [*head, asked])))


def as_messages(turns: Iterable[Turn]) -> list[BaseMessage]:
    return [_KINDS[sender](content=content) for sender, content in turns]


def turn_tokens(turn: Turn) -> int:
    """Estimated, offline; see :func:`estimate_tokens`."""
    return estimate_tokens(turn.content) + _OVERHEAD_TOKENS


def count_tokens(messages: Iterable[BaseMessage]) -> int:
    """:func:`turn_tokens` of LangChain's messages."""
    return sum(estimate_tokens(message.text) + _OVERHEAD_TOKENS for message in messages)


def _newest(history: Sequence[Turn], max_messages: int, max_tokens: int) -> tuple[list[Turn], int]:
    """The part, and its estimated size."""
    # LangChain's trim_messages gives the same for the budget, by counting message objects made of all of the history.
    kept: list[Turn] = []
    total = 0
    for turn in reversed(history):
        if not turn.content:
            continue
        tokens = turn_tokens(turn)
        if total + tokens > max_tokens or len(kept) == max_messages:
            break
        kept.append(turn)
        total += tokens
    while kept and kept[-1].sender != "USER":
        total -= turn_tokens(kept.pop())
    kept.reverse()
    return kept, total
