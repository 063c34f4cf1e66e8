"""A response as the bytes of an HTTP body."""

from __future__ import annotations

from typing import Any

import ujson

from base_server.template.base.envelope import Response


class RawJson:
    """JSON text that is written as it is: ujson asks for ``__json__``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __json__(self) -> str:
        return self._text


_ERROR = {"error"}


def encode(response: Response) -> bytes:
    """The response's body: UTF-8 JSON on one line."""
    fields: dict[str, Any] = response.__pydantic_serializer__.to_python(
        response, mode="json", exclude=_ERROR
    )
    for name, text in response.unread_texts():
        fields[name] = RawJson(text)
    if response.errorCode:
        error = response.error or response.plain_error()
        fields["error"] = error.model_dump(mode="json", exclude_none=True)
    return ujson.dumps(fields, ensure_ascii=False, escape_forward_slashes=False).encode()
