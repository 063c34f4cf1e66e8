"""What Redis answered instead of a result, as errors of ours."""

from __future__ import annotations

from redis.exceptions import AskError, AuthenticationError, BusyLoadingError, RedisError

from base_server.service.core.errors import ServiceError, ServiceUnavailable

NEWER_FORMAT = "NEWERFORMAT"
"""No word of Redis: scripts of ours answer it, before they write, for what a newer version has written."""
_CANNOT_NOW = frozenset(
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
    """Redis refused one command for what it is: a wrong type, wrong arguments, an error in a script.

    ``code`` is the first word of Redis's answer (``WRONGTYPE``, ``NOSCRIPT``, ``ERR``, …).
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


def command_error(error: RedisError | UnicodeDecodeError) -> ServiceError:
    """The error for a refused command: :class:`ServiceUnavailable` when the server cannot do it now."""
    if isinstance(error, UnicodeDecodeError):
        return CacheCommandError("UNDECODABLE", "an answer is not UTF-8")
    code, reason = _code_and_reason(error)
    if code in _CANNOT_NOW or isinstance(error, BusyLoadingError | AuthenticationError | AskError):
        return ServiceUnavailable("cache", f"{code} {reason}")
    return CacheCommandError(code, reason)


def _code_and_reason(error: RedisError) -> tuple[str, str]:
    """redis-py keeps the first word in the text unless it knows it; then it moves it to ``status_code``."""
    text = str(error)
    if code := getattr(error, "status_code", None):
        return str(code), text
    first, _, rest = text.partition(" ")
    return (first, rest) if first.isupper() else ("ERR", text)
