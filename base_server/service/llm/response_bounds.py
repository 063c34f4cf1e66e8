"""A bound on what a provider may send: its SDK collects an event for as long as the event does not end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Protocol

from service.llm.llm_errors import AIUnavailable

_MAX_LINE_BYTES = 16 * 2**20
"""A whole reply in one event is a line of some megabytes."""
_BYTES_PER_CHAR = 1024
"""What comes for a character of text at most: 200 to 500 bytes of JSON a token are usual, and some think aloud."""

Body = Callable[..., AsyncGenerator[bytes, None]]


class BoundedResponse(Protocol):
    """What is needed of the HTTP library's response: everything that reads it does so by this method."""

    aiter_bytes: Body


class ResponseBounds:
    """The HTTP client's hook for a response whose headers have come; reading more of it raises AIUnavailable."""

    def __init__(self, max_chars: int) -> None:
        self._max_bytes = max(_MAX_LINE_BYTES, max_chars * _BYTES_PER_CHAR)

    async def __call__(self, response: BoundedResponse) -> None:
        response.aiter_bytes = partial(self._bounded, response.aiter_bytes)

    async def _bounded(self, body: Body, chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
        total = line = 0
        async with aclosing(body(chunk_size)) as chunks:
            async for chunk in chunks:
                total += len(chunk)
                line_end = chunk.rfind(b"\n")
                line = line + len(chunk) if line_end < 0 else len(chunk) - line_end - 1
                if line > _MAX_LINE_BYTES:
                    raise AIUnavailable("a line of the provider's has no end")
                if total > self._max_bytes:
                    raise AIUnavailable("the provider sent too much")
                yield chunk
