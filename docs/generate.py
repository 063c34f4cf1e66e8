"""Prints what the documents take from code: ``make docs`` writes it, a test compares it.

``docs/errors.md``, ``docs/configuration.md``, ``docs/records.md`` and ``config/schema.json`` are
written whole. Elsewhere a table is between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; NAME
is a key of :data:`TABLES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from base_server.template.base.errors import ErrorCode
from base_server.template.chat.common.chat_protocol import ChatProtocol
from base_server.template.chat.domain.states import (
    MESSAGE_TRANSITIONS,
    ROOM_TRANSITIONS,
    MessageState,
    RoomState,
)
from base_server.template.chat.replies.life import FINISHES, REPLY_TRANSITIONS, ReplyState
from docs.generate_configuration import configuration_page, schema_file
from docs.generate_postman import collection_file
from docs.generate_records import records_page

ROOT = Path(__file__).resolve().parents[1]
WITH_TABLES = ("docs/architecture.md", "base_server/template/chat/README.md")

_BLOCK = re.compile(r"(<!-- begin ([a-z-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
_ERRORS_HEAD = """# Error codes

Printed from the registry, `base_server/template/base/errors.py`, by `make docs`. An error response
is
`{"errorCode": 1004, "error": {"code": "ROOM_NOT_FOUND", "message": "…", "retryable": false}}`,
with `retry_after_s` and `details` where they help. Retryable: the same request, with the same ids,
may succeed later, not before `retry_after_s`. 1020 and 1021 are about a reply that has ended: the
question is stored, and the same `client_message_id` always gets the same two messages and the same
error; only a new message (with a new `client_message_id`, or without one) calls the AI again. 1020
comes with HTTP 503 when the provider was not called (no permit was free in time, the room's persona
does not exist any more), with 502 when it was; `details.reason` is `conversation_too_long` where
the provider refused the conversation as longer than the model's context. With
`netConfig.http_status_for_errors` set to `ok` the HTTP status of every POST is 200; a GET (a probe,
a file) has its own. Requests that are not HTTP (400), and an unknown `Expect` on an unknown path
(417), are answered by aiohttp, in plain text.

"""


def errors_page() -> str:
    """The whole of docs/errors.md."""
    rows = [
        (
            str(int(code)),
            f"`{code.name}`",
            str(code.http_status),
            "yes" if code.retryable else "no",
            code.described,
        )
        for code in ErrorCode
    ]
    return _ERRORS_HEAD + _table(("errorCode", "error.code", "HTTP", "retryable", "meaning"), rows)


def with_tables(text: str) -> str:
    """``text`` with every table printed again. Raises KeyError for an unknown table."""
    return _BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[3], text)


def pages() -> dict[Path, str]:
    """Every page with something printed from code, as it should stand."""
    current = {
        ROOT / name: with_tables((ROOT / name).read_text(encoding="utf-8")) for name in WITH_TABLES
    }
    return {
        ROOT / "docs/errors.md": errors_page(),
        ROOT / "docs/configuration.md": configuration_page(),
        ROOT / "docs/records.md": records_page(),
        ROOT / "config/schema.json": schema_file(),
        ROOT / "docs/postman/chat-template-server.postman_collection.json": collection_file(),
        **current,
    }


def _states(
    transitions: Mapping[str, Sequence[RoomState] | Sequence[MessageState]]
    | Mapping[ReplyState, Sequence[ReplyState]],
) -> str:
    rows = [
        (f"`{before}`", " · ".join(f"`{after.value}`" for after in afters) or "–")
        for before, afters in transitions.items()
    ]
    return _table(("from", "to"), rows)


def _reply_ends() -> str:
    rows = [(reason.value, *(finish.value for finish in pair)) for reason, pair in FINISHES.items()]
    return _table(("reason to stop", "before the provider is called", "afterwards"), rows)


def _protocols() -> str:
    rows = [
        (str(row.id), f"`{row.path}`", row.summary)
        for row in sorted(ChatProtocol, key=lambda row: row.id)
    ]
    return _table(("id", "POST", ""), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


TABLES: dict[str, Callable[[], str]] = {
    "room-states": lambda: _states(ROOM_TRANSITIONS),
    "message-states": lambda: _states(MESSAGE_TRANSITIONS),
    "reply-states": lambda: _states(REPLY_TRANSITIONS),
    "reply-ends": _reply_ends,
    "chat-protocols": _protocols,
}


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
