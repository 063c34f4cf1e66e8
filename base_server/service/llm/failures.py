"""Whatever a provider, its SDK or LangChain raises becomes one of two errors of ours.

Works on LangChain's provider-neutral exceptions. The provider's prose (which may repeat user text
or a key) is dropped; its class, HTTP status and error code are kept for the log, and why no connection was made.
"""

from __future__ import annotations

import re

from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError

from service.llm.llm_errors import AITimeout, AIUnavailable

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_REFUSED_UNSERVED = frozenset({429, 500, 503, 529})
_NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout"})
_BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 4.0)
_LONGEST_WAIT_S = 10.0


def translate(error: Exception, connect_s: float, total_s: float) -> AIUnavailable | AITimeout:
    """Our error for ``error``; our own pass unchanged."""
    if isinstance(error, AIUnavailable | AITimeout):
        return error
    if _among_causes(error, frozenset({"ConnectTimeout"})):
        return AITimeout("connect", connect_s)
    if isinstance(error, ModelTimeoutError | TimeoutError):  # an SDK's own clock
        return AITimeout("reply", total_s)
    if isinstance(error, ContextOverflowError):
        return AIUnavailable("the conversation is too long for the model")
    parts = [type(error).__name__]
    if (status := _status(error)) is not None:
        parts.append(f"HTTP {status}")
    if (code := getattr(error, "code", None)) is not None and _CODE.fullmatch(str(code)):
        parts.append(str(code))
    if (refused := _cause_named(error, frozenset({"ConnectError"}))) is not None:
        parts.append(f"ConnectError: {_last_words(refused)}")
    return AIUnavailable(", ".join(parts), retry_after_s=_retry_after_s(error))


def may_retry(error: Exception) -> bool:
    """True only when the provider certainly did no work: repeating a call that it served bills twice."""
    return _status(error) in _REFUSED_UNSERVED or _among_causes(error, _NOT_CONNECTED)


def retry_delay_s(error: Exception, attempt: int) -> float | None:
    """How long to wait before attempt ``attempt`` (1 = the first repetition); None = longer than worth it."""
    asked = _retry_after_s(error)
    delay = asked if asked is not None else _BACKOFF_S[min(attempt, len(_BACKOFF_S)) - 1]
    return delay if delay <= _LONGEST_WAIT_S else None


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _among_causes(error: BaseException | None, names: frozenset[str]) -> bool:
    return _cause_named(error, names) is not None


def _cause_named(error: BaseException | None, names: frozenset[str]) -> BaseException | None:
    # The HTTP library is the SDK's choice (httpx, httpx2), so its exceptions are known by name.
    while error is not None and type(error).__name__ not in names:
        error = error.__cause__
    return error


def _last_words(error: BaseException) -> str:
    """What the operating system or TLS said: nothing was sent yet, so nobody's text is in it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return " ".join(str(error).split())[:200]


def _retry_after_s(error: Exception) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:  # absent, or an HTTP date
        return None
    return seconds if 0 <= seconds <= 86_400 else None
