"""What a refusal costs: at most a small multiple of the bytes that came, at full body size,
whatever is refused.

No seconds are compared with a clock of their own: memory is counted by the byte, and time is
measured beside ``json.loads`` of an ordinary body of the same size, in the same process.
"""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from application.base_web_server.config.net_settings import NetSettings
from base_server.template.account.common.account_serialize import SignupRequest
from base_server.template.base.envelope import Request
from base_server.template.base.errors import InvalidRequest
from base_server.template.base.request_body import (
    MAX_KEY_CHARS,
    MAX_LISTED_ERRORS,
    MAX_VALUES,
    read_json,
    read_request,
)

FULL = NetSettings().max_body_bytes
ANSWER_CHARACTERS = 4_000
# The costliest body, a list of empty objects, makes 24 bytes of Python objects from one of JSON, in
# any parser.
PEAK_BYTES_PER_BYTE = 30


class Line(BaseModel):
    a: int
    b: int
    c: int
    d: int


class Upload(Request):
    """A host's model, with fields that may be wrong as often as the body is long."""

    numbers: list[int] = Field(default_factory=list)
    named: dict[str, int] = Field(default_factory=dict)
    mixed: list[int | str | dict[str, int]] = Field(default_factory=list)
    lines: list[Line] = Field(default_factory=list)
    table: dict[str, list[int]] = Field(default_factory=dict)


class Closed(Request):
    model_config = ConfigDict(extra="forbid")


Body = Callable[[int], bytes]


def members(size: int) -> bytes:
    return b",".join(b'"k%d":0' % number for number in range(size // 12))


def nested_keys(size: int) -> bytes:
    """100 objects in one another, each with a key of a hundredth of ``size``."""
    key = b"k" * (size // 100 - 5)
    return b'{"%s":' % key * 100 + b'"\\u0000"' + b"}" * 100


# What a body of about that many bytes looks like, and who reads it.
REFUSED: dict[str, tuple[type[Request], Body]] = {
    "A1: a long key around many members, then a NUL": (
        SignupRequest,
        lambda size: b'{"%s":{%s},"z":"\\u0000"}' % (b"K" * (size // 2), members(size // 2)),
    ),
    "a NUL before everything else": (
        SignupRequest, lambda size: b'{"z":"\\u0000",%s}' % members(size),
    ),
    "a NUL in a long key": (SignupRequest, lambda size: b'{"%s\\u0000":1}' % (b"k" * size)),
    "a NUL below long keys": (SignupRequest, nested_keys),
    "a NUL at the end of a long list": (
        SignupRequest, lambda size: b'{"a":[%s"\\u0000"]}' % (b"[]," * (size // 3)),
    ),
    "NULs alone": (SignupRequest, lambda size: b'{"a":[%s""]}' % (b'"\\u0000",' * (size // 9))),
    "a lone surrogate": (
        SignupRequest, lambda size: b'{"a":"%s\\ud800"}' % (b"\\ud83d\\ude00" * (size // 12)),
    ),
    "a duplicate key at the end": (SignupRequest, lambda size: b'{%s,"k0":1}' % members(size)),
    "a long duplicate key": (
        SignupRequest, lambda size: b'{"%s":1,"%s":1}' % ((b"k" * (size // 2),) * 2),
    ),
    "open brackets": (SignupRequest, lambda size: b"[" * size),
    "open objects": (SignupRequest, lambda size: b'{"a":' * (size // 5)),
    "one huge number": (SignupRequest, lambda size: b'{"sequence":%s}' % (b"9" * size)),
    "numbers of 4,300 digits": (
        SignupRequest, lambda size: b'{"a":[%s1]}' % ((b"9" * 4300 + b",") * (size // 4301)),
    ),
    "a huge fraction": (SignupRequest, lambda size: b'{"sequence":0.%s}' % (b"9" * size)),
    "a huge exponent": (SignupRequest, lambda size: b'{"sequence":1e%s}' % (b"9" * size)),
    "text without an end": (SignupRequest, lambda size: b'{"a":"' + b"a" * size),
    "unknown members": (SignupRequest, lambda size: b"{%s}" % members(size)),
    "empty lists": (SignupRequest, lambda size: b'{"a":[%s[]]}' % (b"[]," * (size // 3))),
    "empty objects": (SignupRequest, lambda size: b'{"a":[%s{}]}' % (b"{}," * (size // 3))),
    "a long account id": (
        SignupRequest, lambda size: b'{"account_id":"%s"}' % ("ﬁ".encode() * (size // 3)),
    ),
    "members that are forbidden": (Closed, lambda size: b"{%s}" % members(size)),
    "a long key that is forbidden": (Closed, lambda size: b'{"%s":1}' % (b"k" * size)),
    "a list of wrong items": (Upload, lambda size: b'{"numbers":[%s""]}' % (b'"",' * (size // 3))),
    "an object of wrong members": (
        Upload, lambda size: b'{"named":{%s}}' % members(size).replace(b":0", b":[]"),
    ),
    "a long key of a wrong member": (Upload, lambda size: b'{"named":{"%s":""}}' % (b"k" * size)),
    "items that are none of three": (
        Upload, lambda size: b'{"mixed":[%s[]]}' % (b"[]," * (size // 3)),
    ),
    "a long key around wrong items": (
        Upload,
        lambda size: b'{"table":{"%s":[%s""]}}' % (b"k" * (size - 27_100), b'"",' * 9_000),
    ),
    "objects without their members": (
        Upload, lambda size: b'{"lines":[%s{}]}' % (b"{}," * (size // 3)),
    ),
}  # fmt: skip


def read(model: type[Request], body: bytes) -> None:
    read_json(body)
    read_request(model, body)


def refuse(model: type[Request], body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        read(model, body)
    return refused.value


def peak_bytes(run: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def cpu_s(run: Callable[[], Any]) -> float:
    """The lesser of two, of this thread alone."""
    times = []
    for _ in range(2):
        started = time.thread_time()
        run()
        times.append(time.thread_time() - started)
    return min(times)


@pytest.fixture(scope="module")
def plain_parse_s() -> float:
    body = b"{%s}" % members(FULL)
    return cpu_s(lambda: json.loads(body))


@pytest.mark.parametrize(("model", "make"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_costs_in_proportion_to_the_body(
    model: type[Request], make: Body, plain_parse_s: float
) -> None:
    """cases/abuse.md A1."""
    peaks = []
    for size in (FULL // 4, FULL - 200):
        body = make(size - 40)
        assert size * 0.7 < len(body) <= FULL
        refused = refuse(model, body)
        assert len(refused.message) < ANSWER_CHARACTERS
        assert len(json.dumps(refused.details, ensure_ascii=False)) < ANSWER_CHARACTERS
        peaks.append(peak_bytes(lambda: refuse(model, body)))  # noqa: B023
        assert peaks[-1] < PEAK_BYTES_PER_BYTE * len(body)
    # Twice the growth of the body, since a dictionary that grows by one member may double;
    # quadratic would be 16.
    assert peaks[1] < 8 * peaks[0] + 100_000
    assert cpu_s(lambda: refuse(model, body)) < 30 * plain_parse_s


def test_text_full_of_commas_and_brackets_is_one_value() -> None:
    """cases/abuse.md A1: the bound on members counts members, not what looks like one."""
    text = ",[{" * (FULL // 3 - 10)
    assert read_json(json.dumps({"a": text}).encode()) == {"a": text}


def test_as_many_values_as_allowed_are_read_and_one_more_is_refused() -> None:
    """cases/abuse.md A1: members are bounded, wherever they are."""
    allowed = [0] * (MAX_VALUES - 2)  # the object and the list are values too
    for body in ({"a": allowed}, {"a": {f"k{number}": [] for number in range(len(allowed))}}):
        assert read_json(json.dumps(body).encode()) == body
    with pytest.raises(InvalidRequest) as refused:
        read_json(json.dumps({"a": [*allowed, 0]}).encode())
    assert refused.value.details == {"field": "body"}


def test_keys_of_an_object_are_bounded() -> None:
    """cases/abuse.md A1: validation copies the keys around each value that it finds wrong."""
    longest, padding = "k" * MAX_KEY_CHARS, "x" * 5_000
    for body in ({longest: 1, "a": padding}, {"a": [{"b": {longest: 1}}], "c": padding}):
        assert read_json(json.dumps(body).encode()) == body
        too_long = json.dumps(body).replace(longest, longest + "k")
        with pytest.raises(InvalidRequest, match=f"keys of more than {MAX_KEY_CHARS} characters"):
            read_json(too_long.encode())


def test_a_few_errors_are_listed_and_many_are_counted() -> None:
    """cases/abuse.md A1: thousands of wrong members."""
    few = refuse(Upload, json.dumps({"numbers": ["x"] * 500}).encode())
    assert few.details is not None
    assert (few.details["field"], len(few.details["errors"])) == (
        "numbers.0",
        MAX_LISTED_ERRORS,
    )
    many = refuse(Upload, json.dumps({"numbers": ["x"] * 5000}).encode())
    assert (many.details, "5000" in many.message) == ({"field": "body"}, True)
