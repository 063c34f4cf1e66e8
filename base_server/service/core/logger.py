"""Structured logging: a constant message with fields beside it, one JSON line per event.

Never log message content, passwords or tokens. Fields bound with :func:`bind_log_context`
(request id, protocol) stand on every line of that task.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TextIO, cast

import structlog

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
# One variable for all fields: binding is on the way of every request.
_bound: ContextVar[Mapping[str, Any]] = ContextVar("log_context", default=MappingProxyType({}))
_lowest = logging.DEBUG


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Send events of at least ``level`` (debug, info, warn, error) as JSON lines to ``stream``
    (stderr)."""
    global _lowest  # noqa: PLW0603 - one per process, as structlog's own configuration
    _lowest = _LEVELS[level]
    structlog.configure(
        processors=[
            _add_bound,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=repr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Lines(stream or sys.stderr))),
        cache_logger_on_first_use=False,
    )


class _Lines:
    """A stream that may go away: lines that a closed terminal, a dead reader or a full disk does
    not take are lost; logging never raises."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def bind_log_context(**fields: Any) -> None:
    """Put ``fields`` on every later line of this task, in place of what was bound before."""
    _bound.set(fields)


def _add_bound(
    logger: object, name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {**_bound.get(), **event}


class Logger:
    """The documented logger: ``Logger.info("room created", room_id=room_id)``."""

    @staticmethod
    def is_debug() -> bool:
        """Whether debug lines are logged: check it before building costly fields."""
        return _lowest <= logging.DEBUG

    @staticmethod
    def debug(message: str, **fields: Any) -> None:
        if _lowest <= logging.DEBUG:
            structlog.get_logger().debug(message, **fields)

    @staticmethod
    def info(message: str, **fields: Any) -> None:
        if _lowest <= logging.INFO:
            structlog.get_logger().info(message, **fields)

    @staticmethod
    def warn(message: str, **fields: Any) -> None:
        if _lowest <= logging.WARNING:
            structlog.get_logger().warning(message, **fields)

    @staticmethod
    def error(message: str, **fields: Any) -> None:
        structlog.get_logger().error(message, **fields)
