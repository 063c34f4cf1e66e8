"""How values cross the database port: rows are dicts, times are timezone-aware UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from base_server.service.core.errors import DataRefused

Row = dict[str, Any]

_WRONG_STRING = 1366  # MySQL's number for text that its character set cannot hold


def encode_time(time: datetime) -> str:
    """An aware time as ``YYYY-MM-DD HH:MM:SS.ffffff`` in UTC; a naive one is a mistake of the
    caller."""
    if time.tzinfo is None:
        raise ValueError("a time for the database needs a time zone")
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def decode_time(text: str) -> datetime:
    """``YYYY-MM-DD HH:MM:SS[.f…]`` (UTC) as an aware time."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def encode_params(params: Sequence[Any]) -> tuple[Any, ...]:
    """Parameters as the drivers take them; text that no database can store is refused here."""
    return tuple(_encode(param) for param in params)


def _encode(param: Any) -> Any:
    if isinstance(param, datetime):
        return encode_time(param)
    if isinstance(param, str):
        try:
            param.encode()
        except UnicodeEncodeError as error:
            raise DataRefused(_WRONG_STRING, f"text is not Unicode: {error.reason}") from error
    elif not (param is None or isinstance(param, bool | int | float | bytes)):
        raise TypeError(f"a database parameter cannot be a {type(param).__name__}")
    return param
