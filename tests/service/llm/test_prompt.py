"""Prompts that every provider takes, whatever failures, stops and deletes have left of a
conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from base_server.service.llm.conversation import HistoryMessage, Sender, cautious_tokens
from base_server.service.llm.prompt import Prompt, build_prompt
from base_server.template.chat.domain.message_format import (
    message_body,
    open_message_body,
    stored_message,
    tombstone,
)
from base_server.template.chat.replies.metadata import LazyHistory

_TEXTS = st.sampled_from(
    [
        "hi",
        "안녕하세요 " * 40,
        "x = {1: [2, 3]}\n" * 30,
        " ",
        "\n\t",
        "\u2028",
        "",
        "한" * 300,
        "a" * 2000,
    ]
)
_ENDS = st.sampled_from(
    [
        "whole",
        "failed at once",
        "failed after text",
        "stopped",
        "interrupted",
        "deleted",
        "running",
        "question deleted",
    ]
)


def _room(kinds: Sequence[tuple[str, str, str]]) -> list[str]:
    """List entries of a room: for each (how it ended, question, text of the reply) a question and
    its reply."""
    entries = []
    for number, (end, question, reply) in enumerate(kinds):
        ids, at = (f"q{number}", f"r{number}"), "2026-01-01T00:00:00.000+00:00"
        asked = stored_message(
            ids[0], "room", 2 * number + 1, at, message_body("USER", question, None, "{}")
        )
        reason = {"whole": "stop", "stopped": "stopped", "interrupted": "interrupted"}.get(
            end, "error"
        )
        text = "" if end == "failed at once" else reply
        answered = stored_message(
            ids[1],
            "room",
            2 * number + 2,
            at,
            message_body("AI", text, ids[0], f'{{"finish_reason":"{reason}"}}'),
        )
        if end == "running":
            answered = stored_message(
                ids[1],
                "room",
                2 * number + 2,
                at,
                open_message_body("AI", "", ids[0], streaming=True) + "{}}",
            )
        entries.append(tombstone(ids[0]) if end == "question deleted" else asked)
        entries.append(tombstone(ids[1]) if end == "deleted" else answered)
    return entries


def _assert_takeable(prompt: Prompt, system_prompt: str, question: str) -> None:
    messages = list(prompt.messages)
    if messages and isinstance(messages[0], SystemMessage):
        messages.pop(0)
    else:
        assert not system_prompt
    kinds: list[type[BaseMessage]] = [type(message) for message in messages]
    assert kinds == [(HumanMessage, AIMessage)[place % 2] for place in range(len(kinds))]
    assert kinds[-1] is HumanMessage
    assert str(messages[-1].content).endswith(question)
    assert all(str(message.content).strip() for message in messages[:-1])
    assert question.strip() == "" or str(messages[-1].content).strip()


@settings(max_examples=400, deadline=None)
@given(
    kinds=st.lists(st.tuples(_ENDS, _TEXTS, _TEXTS), max_size=12),
    cut=st.integers(0, 3),
    question=_TEXTS.filter(bool),
    system_prompt=st.sampled_from(["", "be kind"]),
    max_messages=st.integers(0, 20),
    max_tokens=st.integers(0, 3000),
    context_tokens=st.none() | st.integers(1, 6000),
)
def test_prompt_of_any_history_of_a_room_is_what_every_provider_takes(
    kinds: list[tuple[str, str, str]],
    cut: int,
    question: str,
    system_prompt: str,
    max_messages: int,
    max_tokens: int,
    context_tokens: int | None,
) -> None:
    """cases/providers.md V1, V4: roles alternate, a user first, the question last, nothing empty or
    deleted, and the estimate fits the model's context."""
    # A window of the history's length may begin anywhere, also at a reply.
    history = LazyHistory(_room(kinds)[cut:])
    limits = {"max_messages": max_messages, "max_tokens": max_tokens}
    prompt: Prompt | None = build_prompt(
        system_prompt, history, question, **limits, context_tokens=context_tokens
    )
    while prompt is not None:
        _assert_takeable(prompt, system_prompt, question)
        size = sum(cautious_tokens(str(message.content)) + 4 for message in prompt.messages)
        alone = cautious_tokens(question) + cautious_tokens(system_prompt) + 8
        assert context_tokens is None or size <= max(context_tokens, alone)
        shorter = prompt.with_half_the_history()
        assert shorter is None or shorter.tokens < prompt.tokens
        prompt = shorter


_SENDERS: st.SearchStrategy[Sender] = st.sampled_from(["USER", "AI", "SYSTEM"])


@settings(max_examples=300, deadline=None)
@given(
    history=st.lists(st.builds(HistoryMessage, _SENDERS, _TEXTS), max_size=12),
    question=_TEXTS.filter(bool),
    system_prompt=st.sampled_from(["", "be kind"]),
)
def test_prompt_of_any_history_of_a_host_is_what_every_provider_takes(
    history: list[HistoryMessage], question: str, system_prompt: str
) -> None:
    """cases/providers.md V1: `load_chat_history` and `chat(history=…)` take any order of user, AI
    and system."""
    prompt = build_prompt(system_prompt, history, question, max_messages=1000, max_tokens=10**6)
    _assert_takeable(prompt, system_prompt, question)
    said = "\n\n".join(str(message.content) for message in prompt.messages)
    visible = [turn for turn in history if turn.content.strip()]
    first = next(
        (place for place, turn in enumerate(visible) if turn.sender == "USER"), len(visible)
    )
    assert all(
        turn.content in said
        for place, turn in enumerate(visible)
        if place >= first or turn.sender == "SYSTEM"
    )


def test_prompt_joins_neighbours_in_their_order() -> None:
    """cases/providers.md V1."""
    history = [
        HistoryMessage("USER", "a"),
        HistoryMessage("USER", "b"),
        HistoryMessage("AI", "c"),
        HistoryMessage("SYSTEM", "d"),
        HistoryMessage("AI", "e"),
        HistoryMessage("USER", "f"),
    ]
    prompt = build_prompt("s", history, "g", max_messages=20, max_tokens=1000)
    assert prompt.messages == [
        SystemMessage("s\n\nd"),
        HumanMessage("a\n\nb"),
        AIMessage("c\n\ne"),
        HumanMessage("f\n\ng"),
    ]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("안녕하세요. 오늘은 날씨가 정말 좋네요. 던전 공략법도 알려 주세요. 됐어 꿀팁 좀 줘봐", 72),
        ("你好，今天天气很好。我在游戏里创建了一个新角色，但是不知道应该装备什么。", 36),
        ("こんにちは。今日はとても天気がいいですね。ゲームで新しいキャラクターを作りました。", 42),
        (
            "def f(x: int) -> dict[str, int]:\n    return {str(i): i ** 2 for i in range(x) if i % 2}\n",
            40,
        ),
        (json.dumps([{"id": i, "x": i * 1.37} for i in range(20)]), 401),
        ("Today the weather is really good. I made a new character in the game.", 16),
        ("3.14159265358979323846264338327950288419716939937510", 53),
    ],
    ids=["Korean", "Chinese", "Japanese", "code", "JSON", "English", "digits"],
)
def test_cautious_tokens_are_at_least_those_of_a_small_vocabulary(text: str, tokens: int) -> None:
    """cases/providers.md V4: counted with Mistral's first tokenizer (32,000 words)."""
    assert tokens <= cautious_tokens(text) <= 2.2 * tokens
