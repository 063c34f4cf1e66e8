"""Server-sent events from the bytes of an event stream, as the HTML standard interprets it; no I/O.

https://html.spec.whatwg.org/multipage/server-sent-events.html, sections 9.2.5 and 9.2.6.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DIGITS = re.compile(rb"[0-9]+")


class ServerSentEvent(NamedTuple):
    """``data`` is valid UTF-8 with its lines joined by LF: bytes, because a JSON parser takes
    bytes.

    ``last_event_id`` is that of the stream, which an event without an ``id`` field inherits.
    """

    type: str
    data: bytes
    last_event_id: str


class EventTooLong(ValueError):
    """The stream has sent more of one event than a reader keeps."""


class EventStreamReader:
    """Give it what was read, in pieces of any size, with :meth:`feed`.

    An event is complete at its blank line: what the stream has left unfinished at its end is no
    event. Lines end with LF, CR or CRLF; a CR ends its line at once, and an LF that comes in a
    later piece belongs to it."""

    def __init__(self, max_event_bytes: int) -> None:
        self._max_bytes = max_event_bytes
        self._at_start = True
        self._after_cr = False
        self._line: list[bytes] = []
        """The pieces of the line that has not ended: joined once, so a long line costs linear
        time."""
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._type = ""
        self._id = ""
        self.last_event_id = ""
        self.retry_ms: int | None = None
        """The reconnection time that the stream asked for last."""

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        """The events that ``piece`` completes. Raises EventTooLong."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if not piece:
            return []
        # bytes.splitlines knows exactly the three line ends of the standard, unlike that of str.
        lines = piece.splitlines()
        unfinished = b""
        if piece.endswith((b"\n", b"\r")):
            self._after_cr = piece.endswith(b"\r")
        else:
            unfinished = lines.pop()
        events = self._complete(lines) if lines else []
        if unfinished:
            self._line.append(unfinished)
            self._line_bytes += len(unfinished)
        if self._data_bytes + self._line_bytes > self._max_bytes:
            raise self._too_long()
        return events

    def _complete(self, lines: list[bytes]) -> list[ServerSentEvent]:
        if self._line:
            lines[0] = b"".join([*self._line, lines[0]])
            self._line, self._line_bytes = [], 0
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        events = []
        for line in lines:
            if self._data_bytes + len(line) > self._max_bytes:
                raise self._too_long()
            if line.startswith(
                b"data: "
            ):  # nearly every line of a provider's, so the first that is looked for
                self._add_data(line[6:])
            elif line:
                self._read_field(line)
            else:
                self.last_event_id = self._id
                if self._data:
                    events.append(self._event())
                self._type = ""
        return events

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:  # b"" is a comment's; unknown fields are ignored
            case b"data":
                self._add_data(value)
            case b"event":
                self._type = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
            case b"retry" if len(value) < 20 and _DIGITS.fullmatch(value):
                self.retry_ms = int(value)

    def _add_data(self, line: bytes) -> None:
        self._data.append(line)
        # One more for its line end: lines without text take memory too.
        self._data_bytes += len(line) + 1

    def _too_long(self) -> EventTooLong:
        return EventTooLong(f"an event of more than {self._max_bytes} bytes")

    def _event(self) -> ServerSentEvent:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        if not data.isascii():
            data = data.decode("utf-8", "replace").encode()
        self._data, self._data_bytes = [], 0
        return ServerSentEvent(self._type or "message", data, self.last_event_id)
