"""Strict parsing of a request's body: first any JSON object, then the endpoint's request model.

What is accepted is text that Redis, MySQL and the client give back byte for byte: no lone
surrogates, no NUL, no NaN, no duplicate keys, no other encoding than UTF-8. The limits bound what a
refusal costs and repeats.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import jiter
from pydantic import ValidationError

from base_server.template.base.envelope import Request
from base_server.template.base.errors import InvalidRequest

MAX_VALUES = 10_000
"""JSON values in a body. Each costs up to 60 bytes of memory, a validation error twenty times that.
"""
MAX_KEY_CHARS = 256
"""Of an object's key. Validation copies the keys around each value that it finds wrong."""
_SMALL_BYTES = 4_096
"""A smaller body cannot hold enough keys and wrong values for these copies to matter."""
# Bounds of what a refusal repeats from the body that it refuses.
MAX_COLLECTED_ERRORS = 1_000
MAX_LISTED_ERRORS = 20
MAX_NAME_CHARS = 100
MAX_REASON_CHARS = 500

RequestT = TypeVar("RequestT", bound=Request)


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body`` (an empty body is an empty object).

    Raises :class:`InvalidRequest` for anything else.
    """
    if not body:
        return {}
    try:
        data = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(data, dict):
        raise InvalidRequest("the body must be a JSON object")
    if (
        len(body) > MAX_VALUES
        and _may_have_too_many(body)
        and _count_values(data, MAX_VALUES) > MAX_VALUES
    ):
        raise InvalidRequest.of("body", f"must not have more than {MAX_VALUES} values")
    if len(body) > _SMALL_BYTES and _has_long_key(data):
        raise InvalidRequest.of(
            "body", f"must not have keys of more than {MAX_KEY_CHARS} characters"
        )
    # A raw NUL is refused by the parser; only its escape can get here.
    if b"\\u0000" in body and (keys := _find_nul(data)) is not None:
        raise InvalidRequest.of(_field_name(keys), "must not contain the character U+0000")
    return data


def read_request(model: type[RequestT], body: bytes) -> RequestT:
    """``body``, which :func:`read_json` has accepted, as ``model``, without converting types.

    Raises :class:`InvalidRequest` that names the first bad field; ``details.errors`` lists more of
    them.
    """
    try:
        request: RequestT = model.__pydantic_validator__.validate_json(body or b"{}", strict=True)
    except ValidationError as error:
        raise _named(error) from None
    return request


def _named(error: ValidationError) -> InvalidRequest:
    if error.error_count() > MAX_COLLECTED_ERRORS:  # pydantic gives all or nothing, at 1 KB each
        return InvalidRequest.of("body", f"has {error.error_count()} errors: too many to list")
    reasons: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        field = _field_name(problem["loc"]) or "body"
        reasons.setdefault(field, problem["msg"].removeprefix("Value error, ")[:MAX_REASON_CHARS])
        if len(reasons) == MAX_LISTED_ERRORS:
            break
    first, reason = next(iter(reasons.items()))
    return InvalidRequest.of(first, reason, errors=reasons)


def _field_name(keys: Iterable[str | int]) -> str:
    """Dotted path of a field. The client chose the keys, so each key and the whole path are cut."""
    path = ".".join(str(key)[:MAX_NAME_CHARS] for key in keys).replace("\0", "")
    return path if len(path) <= MAX_NAME_CHARS else f"{path[:MAX_NAME_CHARS]}..."


def _may_have_too_many(body: bytes) -> bool:
    """Every value but the first follows one of these bytes, which texts may contain too."""
    return body.count(b",") + body.count(b"[") + body.count(b"{") >= MAX_VALUES


def _count_values(value: Any, enough: int) -> int:
    """How many values are in ``value``, itself included. Stops counting soon after ``enough``."""
    inside: Iterable[Any] = ()
    if isinstance(value, list):
        inside = value
    elif isinstance(value, dict):
        inside = value.values()
    count = 1
    for item in inside:
        count += _count_values(item, enough - count)
        if count > enough:
            break
    return count


def _has_long_key(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_long_key, value))
    if isinstance(value, dict):
        return any(len(key) > MAX_KEY_CHARS or _has_long_key(item) for key, item in value.items())
    return False


def _find_nul(value: Any) -> tuple[str, ...] | None:
    """Keys that lead to the first NUL in a parsed value, or None. Depth is the parser's limit.

    The path is built on the way back: building it on the way down copies an object's long key once
    for each of its members (0.6 GB for a body of 140 KB).
    """
    if isinstance(value, str):
        return () if "\0" in value else None
    if isinstance(value, list):
        for item in value:
            if (found := _find_nul(item)) is not None:
                return found
    elif isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                return (key,)
            if (found := _find_nul(item)) is not None:
                return (key, *found)
    return None
