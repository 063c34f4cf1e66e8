"""Spans around what takes time: declared in the services, recorded if the application
installs a tracer.

Like the logger there is one per process; without one a span costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Tracer(Protocol):
    """Makes spans; a span begun inside another one, or in a task started inside it, is its
    child."""

    def span(self, name: str, attributes: Mapping[str, str]) -> AbstractContextManager[object]: ...


_NOTHING = nullcontext()
_tracer: Tracer | None = None


def install_tracer(tracer: Tracer | None) -> None:
    """Record spans with ``tracer`` from now on; None records nothing."""
    global _tracer  # noqa: PLW0603 - one per process, as said above
    _tracer = tracer


def span(name: str, **attributes: str) -> AbstractContextManager[object]:
    """``with span("redis script", script=name): …``; an exception that leaves the block is recorded
    with it.

    Attributes never hold a user's text."""
    return _NOTHING if _tracer is None else _tracer.span(name, attributes)
