"""Atheris on the strict parser: `make fuzz` (not part of `make test`; FUZZ_S is how many seconds).

Whatever bytes arrive, the door answers with a request or with ``InvalidRequest``, soon. What it accepts is text that
Redis, MySQL and the client give back byte for byte: it has a UTF-8 form without NUL and without lone surrogates, and
reading what the encoder writes gives the same again.
"""

from __future__ import annotations

import json
import sys
import time

import atheris

with atheris.instrument_imports(include=["template.base.wire", "template.chat.common.chat_serialize"]):
    from template.account.common.account_serialize import LoginRequest, SignupRequest
    from template.base import wire
    from template.base.errors import InvalidRequest
    from template.chat.common.chat_serialize import (
        ChatMessageListRequest,
        ChatMessageSendRequest,
        ChatRoomCreateRequest,
    )

MODELS: list[type[wire.Request]] = [
    ChatMessageSendRequest,
    ChatMessageListRequest,
    ChatRoomCreateRequest,
    LoginRequest,
    SignupRequest,
]
_SLOW_S = 1.0


def make_body(model: type[wire.Request], choice: atheris.FuzzedDataProvider) -> bytes:
    """JSON of the model's own fields with any values: blind mutation seldom gets past the JSON parser."""
    values = [
        lambda: choice.ConsumeUnicode(choice.ConsumeIntInRange(0, 40)),  # lone surrogates too
        lambda: choice.ConsumeInt(9),
        choice.ConsumeFloat,
        lambda: choice.PickValueInList([None, True, [], {}, "DEMO", "room_1", "queue", "2026-01-01T00:00:00Z"]),
    ]
    fields = {name: choice.PickValueInList(values)() for name in model.model_fields if choice.ConsumeBool()}
    text = json.dumps(fields, ensure_ascii=choice.ConsumeBool())
    return text.encode("utf-8", "surrogatepass")


def check(data: bytes) -> None:
    """One input: its first byte chooses the model, and whether the rest is the body or makes one."""
    first = data[0] if data else 0
    model, body = MODELS[first % len(MODELS)], data[1:]
    if first >= 128:
        body = make_body(model, atheris.FuzzedDataProvider(body))
    started = time.monotonic()
    try:
        wire.read_json(body)
        request = wire.read_request(model, body)
    except InvalidRequest as refused:
        json.dumps(refused.details, ensure_ascii=False).encode()
        refused.message.encode()
        return
    finally:
        assert time.monotonic() - started < _SLOW_S, "the parser is slow"
    for value in request.model_dump(mode="json").values():
        if isinstance(value, str):
            assert "\0" not in value
            value.encode()
    if isinstance(request, ChatMessageSendRequest):
        again = wire.read_request(model, request.model_dump_json(exclude_none=True).encode())
        assert again.model_dump() == request.model_dump()


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
