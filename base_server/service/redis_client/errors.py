"""Error replies of Redis: redis-py's exceptions for a reply, ours for the caller."""

from __future__ import annotations

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from base_server.service.core.errors import ServiceError, ServiceUnavailable

NEWER_FORMAT = "NEWERFORMAT"
"""No code of Redis: our scripts reply it, before they write, for records of a newer version."""

ERROR_REPLIES = (RedisError, UnicodeDecodeError)
"""What stands in the place of a reply: Redis refused the command, or its reply is not UTF-8."""

NOT_SERVED_HERE = (AskError, TryAgainError, ClusterDownError)
"""Replies of a cluster node to a command that it did not execute (MOVED is a kind of ASK)."""

CONNECTION_IS_USELESS = (
    BusyLoadingError,
    AuthenticationError,
    ReadOnlyError,
    MasterDownError,
)
"""After these replies only a new connection can help: when a failover moves an address to another
server, the old connections stay with the server that is a replica now."""

_BY_CODE: dict[str, type[RedisError]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "CROSSSLOT": ClusterCrossSlotError,
    "EXECABORT": ExecAbortError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
    "WRONGPASS": AuthenticationError,
}
_TRY_LATER = frozenset(
    [
        "OOM",
        "LOADING",
        "READONLY",
        "MISCONF",
        "BUSY",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "NOREPLICAS",
        NEWER_FORMAT,
    ]
)


class CacheCommandError(ServiceError):
    """Redis refused the command itself: a wrong type, wrong arguments, an error in a script.

    ``code`` is the first word of the reply (``WRONGTYPE``, ``NOSCRIPT``, ``ERR``, …).
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


def error_reply(text: str) -> RedisError:
    """The exception for an error reply, as redis-py raises it; the code goes to ``status_code``."""
    code, _, reason = text.partition(" ")
    if (kind := _BY_CODE.get(code)) is not None:
        return kind(reason, status_code=code)
    if text == "ERR max number of clients reached":  # then the server closes the connection
        return RedisConnectionError(text)
    return ResponseError(text)


def is_script_missing(reply: object) -> bool:
    """EVALSHA of a script that the server does not know (yet, or any more)."""
    return isinstance(reply, NoScriptError)


def command_error(error: RedisError | UnicodeDecodeError) -> ServiceError:
    """The caller's error for an error reply: ServiceUnavailable when a later try may succeed."""
    if isinstance(error, UnicodeDecodeError):
        return CacheCommandError("UNDECODABLE", "an answer is not UTF-8")
    code, reason = _code_and_reason(error)
    if code in _TRY_LATER or isinstance(error, BusyLoadingError | AuthenticationError | AskError):
        return ServiceUnavailable("cache", f"{code} {reason}")
    return CacheCommandError(code, reason)


def _code_and_reason(error: RedisError) -> tuple[str, str]:
    """:func:`error_reply` leaves a code that it does not know in the text."""
    text = str(error)
    if code := getattr(error, "status_code", None):
        return str(code), text
    first, _, rest = text.partition(" ")
    return (first, rest) if first.isupper() else ("ERR", text)
