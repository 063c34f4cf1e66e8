"""Which HTTP responses a provider call has open, so that leaving the call closes them at once.

Closing LangChain's generator does not: it lets go of the SDK's stream, which is closed when the
garbage collector finds it, and anything that still refers to it (a tracer, a traceback) keeps the
provider generating, and billing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

Body = Callable[..., AsyncGenerator[bytes, None]]


class ProviderResponse(Protocol):
    """What is needed of the HTTP library's response; everything that reads it calls
    ``aiter_bytes``, and closing it twice is harmless."""

    status_code: int
    aiter_bytes: Body

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class OpenResponse:
    """A response of this call, and what its body has shown so far."""

    http: ProviderResponse
    is_done: bool = False
    """``[DONE]`` came, after nothing but chunks of a reply."""

    async def aclose(self) -> None:
        await self.http.aclose()


_of_this_call: ContextVar[list[OpenResponse] | None] = ContextVar("open_responses", default=None)


@contextmanager
def collect_responses(into: list[OpenResponse]) -> Iterator[None]:
    """Responses that begin inside, in this task, are added to ``into``."""
    token = _of_this_call.set(into)
    try:
        yield
    finally:
        _of_this_call.reset(token)


def note_response(response: ProviderResponse) -> OpenResponse:
    """Add ``response``, whose headers have come, to its call."""
    opened = OpenResponse(response)
    if (responses := _of_this_call.get()) is not None:
        responses.append(opened)
    return opened
