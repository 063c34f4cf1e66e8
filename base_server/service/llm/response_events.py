"""Between a provider's response and the SDK that parses it: bounded, and only events that are
chunks of a reply.

The SDK takes every event for a chunk, so a keep-alive would break the reply; and it keeps an event
for as long as the event does not end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from functools import partial

from base_server.service.llm.event_stream_reader import (
    EventStreamReader,
    EventTooLong,
    ServerSentEvent,
)
from base_server.service.llm.llm_errors import AIUnavailable
from base_server.service.llm.open_responses import (
    Body,
    OpenResponse,
    ProviderResponse,
    note_response,
)

_MAX_EVENT_BYTES = 16 * 2**20
"""A whole reply in one event has some megabytes."""
_BYTES_PER_CHAR = 1024
"""What comes for a character of text at most: 200 to 500 bytes of JSON a token are usual, and some
think aloud."""
_MAX_BLANK_BYTES = 1024
_KEEP_ALIVES = frozenset({"ping", "keep-alive", "keepalive", "heartbeat"})
_EMPTY_DATA = frozenset(
    {b"", b"null", b"[]", b"[keep-alive]", *(name.encode() for name in _KEEP_ALIVES)}
)


class ResponseEvents:
    """The HTTP client's hook for a response whose headers have come.

    Its body is then read as an event stream and written again: one ``data`` event for each JSON
    object. A body that is none passes as it came: an error's, or a JSON text (a call without
    streaming). Reading raises AIUnavailable for too much, and after an event named ``error``."""

    def __init__(self, max_chars: int) -> None:
        self._max_bytes = max(_MAX_EVENT_BYTES, max_chars * _BYTES_PER_CHAR)

    async def __call__(self, response: ProviderResponse) -> None:
        opened = note_response(response)
        response.aiter_bytes = partial(self._read, opened, response.aiter_bytes)

    async def _read(
        self, opened: OpenResponse, body: Body, chunk_size: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        total, beginning = 0, b""
        events: _ChunkEvents | None = None
        passes_unread = not 200 <= opened.http.status_code < 300
        async with aclosing(body(chunk_size)) as pieces:
            async for piece in pieces:
                total += len(piece)
                if total > self._max_bytes:
                    raise AIUnavailable("the provider sent too much")
                if events is None and not passes_unread:
                    beginning += piece
                    if not (text := beginning.lstrip()) and len(beginning) < _MAX_BLANK_BYTES:
                        continue  # blank lines may come before either
                    passes_unread = text.startswith((b"{", b"["))
                    events = None if passes_unread else _ChunkEvents(opened)
                    piece = beginning  # noqa: PLW2901 - with what was held back
                if events is None:
                    yield piece
                else:
                    if chunks := events.of(piece):
                        yield chunks
                    events.raise_after_error()


class _ChunkEvents:
    """An event stream, piece by piece, as the events that the SDK should see."""

    def __init__(self, opened: OpenResponse) -> None:
        self._opened = opened
        self._reader = EventStreamReader(_MAX_EVENT_BYTES)
        self._only_chunks = True
        self._has_error = False

    def of(self, piece: bytes) -> bytes:
        try:
            return b"".join(self._written(self._reader.feed(piece)))
        except EventTooLong:
            raise AIUnavailable("an event of the provider's has no end") from None

    def raise_after_error(self) -> None:
        """Errors in OpenAI's form are raised by the SDK; of any other it would make a chunk without
        text."""
        if self._has_error:
            raise AIUnavailable("the provider sent an error event")

    def _written(self, events: Iterable[ServerSentEvent]) -> Iterable[bytes]:
        for kind, data, _ in events:
            if kind in _KEEP_ALIVES:
                continue
            self._has_error = self._has_error or kind == "error"
            text = data.lstrip()
            if text.startswith(b"{"):
                # Quotes inside a JSON string are escaped: these can only be keys.
                self._only_chunks = self._only_chunks and (
                    b'"choices"' in data or b'"usage"' in data
                )
                yield b"data: %b\n\n" % (
                    data.replace(b"\n", b"\ndata: ") if b"\n" in data else data
                )
            elif text.startswith(b"[DONE]"):
                self._opened.is_done = self._only_chunks and not self._has_error
                yield b"data: [DONE]\n\n"
            else:  # The SDK would break the reply. It may be an error in plain words.
                self._only_chunks = self._only_chunks and text.rstrip().lower() in _EMPTY_DATA
