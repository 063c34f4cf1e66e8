"""Which HTTP responses a provider call has open, so that leaving the call closes them at once.

Closing LangChain's generator does not: it lets go of the SDK's stream, which is closed when the
garbage collector finds it, and anything that still refers to it (a tracer, a traceback) keeps the
provider generating, and billing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class OpenResponse(Protocol):
    """What is needed of the HTTP library's response; closing it twice is harmless."""

    async def aclose(self) -> None: ...


_of_this_call: ContextVar[list[OpenResponse] | None] = ContextVar("open_responses", default=None)


@contextmanager
def collect_responses(into: list[OpenResponse]) -> Iterator[None]:
    """Responses that begin inside, in this task, are added to ``into``."""
    token = _of_this_call.set(into)
    try:
        yield
    finally:
        _of_this_call.reset(token)


async def note_response(response: OpenResponse) -> None:
    """The HTTP client's hook for a response whose headers have come."""
    if (responses := _of_this_call.get()) is not None:
        responses.append(response)
