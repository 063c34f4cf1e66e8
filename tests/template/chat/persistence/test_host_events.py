"""Events that hosts queue: what their rows cannot take is refused when it is read, alone."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest

from base_server.service.queue.message_queue import QueueEntry
from base_server.template.chat.domain.events import (
    MESSAGE_DELETE,
    MESSAGE_SAVE,
    ROOM_CREATE,
    ROOM_UPDATE,
    BadEvent,
    read_event,
)

_MESSAGE = {"message_id": "m-1", "sender_type": "USER", "content": "x"}
_SAVE = {"room_id": "r-1", "account_db_key": 7, "message_data": _MESSAGE}
_CREATE = {
    "room_id": "r-1",
    "account_db_key": 7,
    "title": "t",
    "ai_persona": "P",
    "created_at": "2025-11-25T10:00:00Z",
}


def _entry(kind: str, payload: dict[str, Any]) -> QueueEntry:
    return QueueEntry("1-0", {"type": kind, "payload": json.dumps(payload), "at": "1764064800000"})


@pytest.mark.parametrize(
    "value", [{"a": 1}, ["a"], 7, "with \0"], ids=["an object", "a list", "a number", "U+0000"]
)
@pytest.mark.parametrize(
    ("kind", "payload", "field"),
    [
        (MESSAGE_SAVE, _SAVE, "body_hash"),
        *(
            (ROOM_CREATE, _CREATE, name)
            for name in ("title", "ai_persona", "client_request_id", "request_hash")
        ),
    ],
)
def test_what_must_be_text_and_is_not_is_a_bad_event(
    kind: str, payload: dict[str, Any], field: str, value: object
) -> None:
    assert read_event(_entry(kind, payload)).room_id == "r-1"
    assert read_event(_entry(kind, payload | {field: "text"})).row[field] == "text"
    with pytest.raises(BadEvent, match="is no text"):
        read_event(_entry(kind, payload | {field: value}))


@pytest.mark.parametrize(
    ("kind", "payload", "name"),
    [
        (MESSAGE_SAVE, _SAVE, "seq"),
        (MESSAGE_DELETE, {"room_id": "r-1", "account_db_key": 7, "message_id": "m-1"}, "seq"),
        (ROOM_UPDATE, {"room_id": "r-1", "account_db_key": 7, "title": "t"}, "version"),
    ],
)
def test_entry_field_that_is_no_number_is_a_bad_event(
    kind: str, payload: dict[str, Any], name: str
) -> None:
    """cases/faults.md U12: not an error that keeps the whole batch from being written."""
    fields = {"type": kind, "payload": json.dumps(payload), "at": "1764064800000"}
    assert read_event(QueueEntry("1-0", fields | {name: "5"})).room_id == "r-1"
    with pytest.raises(BadEvent, match=kind):
        read_event(QueueEntry("1-0", fields | {name: "None"}))


def test_entry_without_a_time_is_a_bad_event() -> None:
    with pytest.raises(BadEvent, match="at"):
        read_event(QueueEntry("1-0", {"type": MESSAGE_SAVE, "payload": json.dumps(_SAVE)}))


@pytest.mark.parametrize(("days", "is_refused"), [(0.9, False), (1.1, True)])
def test_entry_with_a_far_time_is_a_bad_event(days: float, is_refused: bool) -> None:
    """cases/promises.md P2: later sends would be stamped after it."""
    at = datetime.fromtimestamp(1764064800 + days * 86400, UTC).isoformat()
    entry = _entry(MESSAGE_SAVE, _SAVE | {"message_data": _MESSAGE | {"timestamp": at}})
    with (
        pytest.raises(BadEvent, match=r"timestamp .* in the future")
        if is_refused
        else nullcontext()
    ):
        assert read_event(entry).row["created_at"] == f"{at[:10]} {at[11:19]}.000"
