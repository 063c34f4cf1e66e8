"""Server-Sent Events: what a streaming handler yields, its encoding, and its destination."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import ujson

PING = b": ping\n\n"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

# Line breaks to some parsers though not to the standard's: escaped, an event's data is one line to
# everybody.
_LINE_BREAKS = str.maketrans({"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """``data`` becomes one line of JSON; ``id`` is what a client resumes from, None for an event
    without one.

    ``error_code`` is the code of the error in a last event: for log and metrics, not sent itself.
    """

    name: str
    data: Mapping[str, Any]
    id: int | str | None = None
    error_code: int = 0

    def encode(self) -> bytes:
        """The event as it is sent. Line breaks of any kind inside texts are escaped: it stays one
        event.
        """
        data: str = ujson.dumps(self.data, ensure_ascii=False, escape_forward_slashes=False)
        if not data.isascii():
            data = data.translate(_LINE_BREAKS)
        id_line = "" if self.id is None else f"id: {self.id}\n"
        return f"{id_line}event: {self.name}\ndata: {data}\n\n".encode()


Events = AsyncGenerator[StreamEvent, None]
"""The events of a streaming handler. An exception ends the stream without a last event."""


class ReaderLeft(Exception):
    """The stream has no reader any more."""


class SseResponse(Protocol):
    """The destination of a stream: an HTTP response, or anything that collects events."""

    async def open(self, on_left: Callable[[], None]) -> None:
        """The request was accepted: events follow. Raises :class:`ReaderLeft`.

        ``on_left`` may be called when the reader is seen to have left between two events."""
        ...

    async def send(self, event: bytes) -> None:
        """Returns when there is room for another event. Raises :class:`ReaderLeft`."""
        ...
