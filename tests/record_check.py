"""Holds what is in a Redis against the schema of the chat's records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from base_server.template.chat.cache.records import field_of, record_of


def check_records(names: Iterable[str], ask: Callable[..., Any]) -> Counter[str]:
    """How often each record is among the keys ``names``; ``ask`` sends one command to Redis.

    Raises AssertionError for a type, or a field, that the schema does not know."""
    found: Counter[str] = Counter()
    for name in names:
        record = record_of(name.partition("}:")[2])
        if record is None:
            continue
        found[record.key] += 1
        assert ask("TYPE", name) in (record.kind, "none"), f"{name} is no {record.kind}"
        unknown = (
            [field for field in ask("HKEYS", name) if not field_of(record, field)]
            if record.fields
            else []
        )
        assert not unknown, f"chat_records.py does not know {unknown} of {name}"
    return found
