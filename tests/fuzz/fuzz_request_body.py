"""Atheris on the strict parser: `make fuzz` (not part of `make test`; FUZZ_S is how many seconds).

Whatever bytes arrive, up to the largest body that the server takes, they are read or refused
(``InvalidRequest``) at a cost in proportion to their number. What is accepted is text that Redis,
MySQL and the client give back byte for byte: it has a UTF-8 form without NUL and without lone
surrogates, and reading what the encoder writes gives the same again.
"""

from __future__ import annotations

import json
import sys
import time

import atheris

with atheris.instrument_imports(
    include=[
        "base_server.template.base.envelope",
        "base_server.template.base.field_types",
        "base_server.template.base.request_body",
        "base_server.template.chat.common.chat_serialize",
    ]
):
    from application.base_web_server.config.net_settings import NetSettings
    from base_server.template.account.common.account_serialize import LoginRequest, SignupRequest
    from base_server.template.base.envelope import Request
    from base_server.template.base.errors import InvalidRequest
    from base_server.template.base.request_body import read_json, read_request
    from base_server.template.chat.common.chat_serialize import (
        ChatMessageListRequest,
        ChatMessageSendRequest,
        ChatRoomCreateRequest,
    )


class Table(Request):
    """A host's model, whose values lie below keys that the client chooses."""

    rows: dict[str, list[int]]


MODELS: list[type[Request]] = [
    ChatMessageSendRequest,
    ChatMessageListRequest,
    ChatRoomCreateRequest,
    LoginRequest,
    SignupRequest,
    Table,
]
FULL = NetSettings().max_body_bytes
# Of CPU, with the fuzzer's instrumentation. Memory is bounded by its flag -rss_limit_mb (see the
# Makefile).
_BASE_S, _PER_BYTE_S = 0.1, 2e-6


def make_body(model: type[Request], choice: atheris.FuzzedDataProvider) -> bytes:
    """JSON of the model's own fields with any values: blind mutation seldom gets past the JSON
    parser."""
    values = [
        lambda: choice.ConsumeUnicode(choice.ConsumeIntInRange(0, 40)),  # lone surrogates too
        lambda: choice.ConsumeInt(9),
        choice.ConsumeFloat,
        lambda: choice.PickValueInList(
            [None, True, [], {}, "DEMO", "room_1", "queue", "2026-01-01T00:00:00Z"]
        ),
    ]
    fields = {
        name: choice.PickValueInList(values)()
        for name in model.model_fields
        if choice.ConsumeBool()
    }
    text = json.dumps(fields, ensure_ascii=choice.ConsumeBool())
    return text.encode("utf-8", "surrogatepass")


def grow_body(choice: atheris.FuzzedDataProvider) -> bytes:
    """Few bytes many times: mutation alone never gets near the largest body, nor finds what grows
    with its length."""
    parts = [choice.ConsumeBytes(choice.ConsumeIntInRange(0, 12)) for _ in range(5)]
    room = choice.PickValueInList([FULL // 16, FULL // 4, FULL]) // 2
    repeated = [
        part * min(choice.ConsumeIntInRange(0, FULL), room // max(1, len(part)))
        for part in parts[1::2]
    ]
    keys = b",".join(
        b'"%d":0' % number for number in range(choice.ConsumeIntInRange(0, room // 10))
    )
    body = (
        parts[0]
        + repeated[0]
        + parts[2]
        + (keys if choice.ConsumeBool() else repeated[1])
        + parts[4]
    )
    return body[:FULL]


def check(data: bytes) -> None:
    """One input: its first byte chooses the model, and whether the rest is the body, makes one, or
    grows one."""
    first = data[0] if data else 0
    model, body = MODELS[first % len(MODELS)], data[1:]
    if first >= 192:
        body = grow_body(atheris.FuzzedDataProvider(body))
    elif first >= 128:
        body = make_body(model, atheris.FuzzedDataProvider(body))
    started = time.thread_time()
    try:
        read_json(body)
        request = read_request(model, body)
    except InvalidRequest as refused:
        json.dumps(refused.details, ensure_ascii=False).encode()
        refused.message.encode()
        return
    finally:
        took_s = time.thread_time() - started
        assert took_s < _BASE_S + len(body) * _PER_BYTE_S, f"{took_s:.2f} s for {len(body)} bytes"
    for value in request.model_dump(mode="json").values():
        if isinstance(value, str):
            assert "\0" not in value
            value.encode()
    if isinstance(request, ChatMessageSendRequest):
        again = read_request(model, request.model_dump_json(exclude_none=True).encode())
        assert again.model_dump() == request.model_dump()


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
