"""The HTML standard's event stream interpretation, however the bytes come (cases/providers.md
V2)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base_server.service.llm.event_stream_reader import EventStreamReader, EventTooLong

Events = list[tuple[str, str, str]]

STANDARD: dict[str, tuple[bytes, Events]] = {
    # The examples of section 9.2.6.
    "two lines of data": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
    "comment, ids, reset of the id": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [
            ("message", "first event", "1"),
            ("message", "second event", ""),
            ("message", " third event", ""),
        ],
    ),
    "data without a colon, unfinished end": (
        b"data\n\ndata\ndata\n\ndata:",
        [("message", "", ""), ("message", "\n", "")],
    ),
    "the space after the colon": (b"data:test\n\ndata: test\n\n", [("message", "test", "")] * 2),
    "named events": (
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
        [("add", "73857293", ""), ("remove", "2153", ""), ("add", "113411", "")],
    ),
    # The rules of section 9.2.6, one by one.
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [("message", "a", "")]),
    "only the first byte order mark": (
        b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n",
        [("message", "b", "")],
    ),
    "byte order mark inside": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("message", "a", "")]),
    "CR": (b"data: a\rdata: b\r\rdata: c\r\r", [("message", "a\nb", ""), ("message", "c", "")]),
    "CRLF": (b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb", "")]),
    "mixed line ends": (
        b"data: a\r\n\rdata: b\n\r\n",
        [("message", "a", ""), ("message", "b", "")],
    ),
    "LF CR is two line ends": (
        b"data: a\n\rdata: b\n\n",
        [("message", "a", ""), ("message", "b", "")],
    ),
    "other separators are text": (
        "data: a\u2028b\x0b\x0c\x1c\x85\n\n".encode(),
        [("message", "a\u2028b\x0b\x0c\x1c\x85", "")],
    ),
    "one space is removed, a tab is not": (b"data:  a\ndata:\tb\n\n", [("message", " a\n\tb", "")]),
    "a colon in the value": (b"data: a: b:\n\n", [("message", "a: b:", "")]),
    "field names are exact": (b"Data: a\ndata : b\n data: c\ndat: d\ndata2: e\n\n", []),
    "a comment between the lines of an event": (
        b"data: a\n:\n: x\ndata: b\n\n",
        [("message", "a\nb", "")],
    ),
    "an id alone makes no event and stays": (b"id: 7\n\ndata: a\n\n", [("message", "a", "7")]),
    "an id with NUL is ignored": (
        b"id: 1\ndata: a\n\nid: \0\ndata: b\n\n",
        [("message", "a", "1"), ("message", "b", "1")],
    ),
    "an id of an unfinished event counts for none": (b"data: a\n\nid: 9\n", [("message", "a", "")]),
    "retry alone makes no event": (b"retry: 3000\n\ndata: a\n\n", [("message", "a", "")]),
    "an event name alone makes no event and is forgotten": (
        b"event: x\n\ndata: a\n\n",
        [("message", "a", "")],
    ),
    "the last event name counts": (b"event: x\nevent: y\ndata: a\n\n", [("y", "a", "")]),
    "an empty event name": (b"event: x\nevent\ndata: a\n\n", [("message", "a", "")]),
    "empty data is data": (b"data:\n\ndata: \n\n", [("message", "", "")] * 2),
    "an unfinished event is none": (b"data: a\n\ndata: b\n", [("message", "a", "")]),
    "an unfinished line is none": (b"data: a\n\ndata: b", [("message", "a", "")]),
    "blank lines": (b"\n\n\r\r\r\n\r\ndata: a\n\n\n\n", [("message", "a", "")]),
    "invalid UTF-8 is replaced": (
        b"data: \xff\xe2\x82 \xed\xa0\x80\xc3\nevent: \xfe\nid: \xfe\n\n",
        [("\ufffd", "\ufffd\ufffd \ufffd\ufffd\ufffd\ufffd", "\ufffd")],
    ),
    "characters of every length": ("data: é한👍🏽\n\n".encode(), [("message", "é한👍🏽", "")]),
    "keep-alives of providers": (
        b": OPENROUTER PROCESSING\n\nid: 1\ndata: a\n\n: ping\n\nretry: 3000\n\nid: 2\n\nevent: ping\n\ndata: b\n\n",
        [("message", "a", "1"), ("message", "b", "2")],
    ),
}


def read(*pieces: bytes) -> Events:
    reader = EventStreamReader(1_000_000)
    return [
        (kind, data.decode(), event_id)
        for piece in pieces
        for kind, data, event_id in reader.feed(piece)
    ]


@pytest.mark.parametrize("rule", STANDARD)
def test_reader_follows_every_rule_of_the_standard(rule: str) -> None:
    """cases/providers.md V2."""
    stream, expected = STANDARD[rule]
    assert read(stream) == expected


@pytest.mark.parametrize("rule", STANDARD)
def test_reader_split_at_every_byte_gives_the_same_events(rule: str) -> None:
    """cases/providers.md V2."""
    stream, expected = STANDARD[rule]
    for place in range(len(stream) + 1):
        assert read(stream[:place], stream[place:]) == expected
    assert read(*(bytes([byte]) for byte in stream)) == expected
    assert read(*(piece for byte in stream for piece in (b"", bytes([byte]), b""))) == expected


_PARTS = st.sampled_from(
    [
        *[
            b"data",
            b"data:",
            b"data: ",
            b"event: e",
            b"id: 1",
            b"id:\0",
            b"retry: 10",
            b"retry: x",
            b":",
            b" ",
            b"x",
        ],
        *[
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"\xef\xbb\xbf",
            b"\xff",
            b"\xed\x95",
            b"\x9c",
            "한".encode(),
            b"[DONE]",
        ],
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_PARTS | st.binary(max_size=4), max_size=30).map(b"".join), st.data())
def test_reader_gives_the_same_events_for_any_chunking(stream: bytes, data: st.DataObject) -> None:
    """cases/providers.md V2: also the same as a plain reading of the standard, line by line."""
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[begin:end] for begin, end in itertools.pairwise([0, *places, len(stream)])]
    assert read(*pieces) == read(stream) == _as_the_standard_says(stream)


def _as_the_standard_says(stream: bytes) -> Events:
    """The algorithm of section 9.2.6, word for word, on the whole stream."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    events: Events = []
    data, kind, id_buffer, last_id = "", "", "", ""
    for line in lines:
        if line == "":
            last_id = id_buffer
            if data != "":
                events.append((kind or "message", data.removesuffix("\n"), last_id))
            data = kind = ""
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                kind = value
            elif name == "data":
                data += value + "\n"
            elif name == "id" and "\0" not in value:
                id_buffer = value
    return events


@pytest.mark.parametrize(
    ("lines", "retry_ms"),
    [
        (b"retry: 3000", 3000),
        (b"retry: 10\nretry: -1\nretry: 1.5\nretry: 1e3\nretry: \nretry", 10),
        (b"retry:7", 7),
        ("retry: \u0663".encode(), None),
        (b"retry: " + b"9" * 5000, None),
    ],
    ids=["digits", "anything else is ignored", "no space", "other digits", "thousands of digits"],
)
def test_reader_takes_a_retry_of_digits_only(lines: bytes, retry_ms: int | None) -> None:
    """cases/providers.md V2."""
    reader = EventStreamReader(1_000_000)
    assert reader.feed(lines + b"\n\n") == []
    assert reader.retry_ms == retry_ms


@pytest.mark.parametrize(
    "endless", [b"x" * 100, b"data: " + b"x" * 94, b"data: x\n", b"data\n", b": " + b"x" * 98]
)
def test_reader_keeps_no_more_of_one_event_than_allowed(endless: bytes) -> None:
    """cases/providers.md V2."""
    reader, kept = EventStreamReader(1000), 0
    with pytest.raises(EventTooLong):  # noqa: PT012 - after any number of pieces
        for _ in range(1000):
            kept = sum(map(len, [*reader._line, *reader._data]))
            reader.feed(endless)
    assert kept <= 1000


def test_reader_takes_any_number_of_events_and_comments() -> None:
    """cases/providers.md V2."""
    reader = EventStreamReader(100)
    assert (
        sum(len(reader.feed(b": keep alive\n\ndata: " + b"x" * 80 + b"\n\n")) for _ in range(1000))
        == 1000
    )


def test_reader_takes_linear_time_for_a_long_line_in_small_pieces() -> None:
    """cases/providers.md V2: pieces are joined once, however many there are."""
    reader = EventStreamReader(10_000_000)
    reader.feed(b"data: ")
    for _ in range(200_000):
        reader.feed(b"0123456789")
    assert len(reader._line) == 200_001
    (event,) = reader.feed(b"\n\n")
    assert len(event.data) == 2_000_000
