"""What is read from stored messages without parsing them is what parsing would give, whatever their
texts say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base_server.service.db.values import encode_time
from base_server.service.llm.conversation import HistoryMessage
from base_server.template.chat.domain.message_format import (
    finish_reason_of,
    from_json,
    is_running,
    message_body,
    message_prefix,
    open_message_body,
    sender_and_content,
    sql_time,
    stored_message,
    to_json,
    tombstone,
    wire_message,
)
from base_server.template.chat.replies.metadata import LazyHistory, end_of

AT = "2026-01-02T03:04:05.678+00:00"
TRAPS = [
    '"sender_type":"SYSTEM"', '","parent_message_id":', ',"parent_message_id":null', '"content":"",',
    '\\",\\"content\\":', '"is_streaming":true,"metadata":', '"finish_reason":"error"', "}}", '"', "\\", '\\"',
    "\u2028", "👩‍🚀", "",
]  # fmt: skip
TEXTS = st.lists(
    st.sampled_from(TRAPS) | st.text(st.characters(exclude_categories=["Cs"])), max_size=4
).map("".join)
REASONS = st.sampled_from(["stop", "length", "stopped", "interrupted", "error"])


def stored(
    content: str, *, running: bool = False, parent: str | None = None, **metadata: Any
) -> str:
    if running:
        return stored_message(
            "m1",
            "r1",
            7,
            AT,
            open_message_body("AI", content, parent, streaming=True) + to_json(metadata) + "}",
        )
    return stored_message(
        "m1",
        "r1",
        7,
        AT,
        message_body("AI" if parent else "USER", content, parent, to_json(metadata)),
    )


@given(TEXTS, REASONS, TEXTS)
def test_a_finished_reply(content: str, reason: str, model: str) -> None:
    text = stored(content, parent="q1", model=model, finish_reason=reason, latency_ms=3)
    assert sender_and_content(text) == ("AI", content)
    assert finish_reason_of(text) == end_of(text) == reason
    assert tuple(message_prefix(text)) == ("m1", 7, AT)
    assert not is_running(text)
    sent = from_json(wire_message(text, "SENT"))
    assert sent == {**from_json(text), "state": "SENT", "is_streaming": False}


def test_a_row_of_a_hosts_own_may_name_its_parent_as_it_likes() -> None:
    assert from_json(stored("yes", parent='a "question"'))["parent_message_id"] == 'a "question"'


@given(TEXTS)
def test_a_question_and_a_running_reply(content: str) -> None:
    question, reply = (
        stored(content, ai_persona="P"),
        stored(content, running=True, parent="q1", ai_persona="P"),
    )
    assert sender_and_content(question) == ("USER", content)
    assert finish_reason_of(question) == "stop"
    assert (is_running(question), is_running(reply)) == (False, True)
    assert from_json(wire_message(reply, "COMPOSING")) == {**from_json(reply), "state": "COMPOSING"}


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["said", "running", "deleted"])), max_size=6))
def test_the_history_is_what_was_said(messages: list[tuple[str, str]]) -> None:
    make = {
        "said": lambda content: stored(content, ai_persona="P"),
        "running": lambda content: stored(content, running=True, parent="q", ai_persona="P"),
        "deleted": lambda _: tombstone("m1"),
    }
    history = LazyHistory([make[kind](content) for content, kind in messages])
    expected = [
        HistoryMessage("USER", content) for content, kind in messages if kind == "said" and content
    ]
    assert list(history) == expected
    assert list(reversed(history)) == expected[::-1]
    assert list(history[:-1]) == expected[:-1]
    assert len(history) == len(expected)


@pytest.mark.parametrize("damaged", ["", "x", "{}", "[]", '{"room_id":"r"}}', '{"message_id":"m1"'])
def test_what_is_no_message_is_refused(damaged: str) -> None:
    with pytest.raises(ValueError, match="not a stored message"):
        wire_message(damaged, "SENT")
    with pytest.raises(ValueError, match="not a stored message"):
        message_prefix(damaged)


def test_a_time_of_the_first_millennium_has_four_digits_of_year_too() -> None:
    assert sql_time("0069-01-02T03:04:05.678+00:00") == "0069-01-02 03:04:05.678"
    assert encode_time(datetime(69, 1, 2, 3, 4, 5, 678_000, UTC)) == "0069-01-02 03:04:05.678000"
