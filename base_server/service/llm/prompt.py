"""The messages that a model gets. User text is only ever the content of a message object, never a template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, trim_messages

from service.llm.conversation import Turn, estimate_tokens

_OVERHEAD_TOKENS = 4  # role and separators of a message


def build_prompt(
    system_prompt: str, history: Sequence[Turn], question: str, *, max_messages: int, max_tokens: int
) -> list[BaseMessage]:
    """System prompt, the newest part of ``history`` that fits both limits and begins with a user's turn, question.

    A last entry of ``history`` that is the question itself is left out, so are empty turns (a reply
    that failed at once).
    """
    if history and history[-1] == Turn("USER", question):
        history = history[:-1]
    recent = [turn for turn in history if turn.content][-max_messages:] if max_messages else []
    kept = trim_messages(
        as_messages(recent),
        max_tokens=max_tokens,
        token_counter=count_tokens,
        strategy="last",
        start_on="human",
    )
    head: list[BaseMessage] = [SystemMessage(system_prompt)] if system_prompt else []
    return [*head, *kept, HumanMessage(question)]


def as_messages(turns: Iterable[Turn]) -> list[BaseMessage]:
    kinds: dict[str, type[HumanMessage | AIMessage | SystemMessage]] = {
        "USER": HumanMessage,
        "AI": AIMessage,
        "SYSTEM": SystemMessage,
    }
    return [kinds[turn.sender](turn.content) for turn in turns]


def count_tokens(messages: Iterable[BaseMessage]) -> int:
    """Estimated, offline; see :func:`estimate_tokens`."""
    return sum(estimate_tokens(message.text) + _OVERHEAD_TOKENS for message in messages)
