"""Whatever a provider, its SDK or LangChain raises becomes one of two errors of ours.

Works on LangChain's provider-neutral exceptions. The provider's prose (which may repeat user text
or a key) is dropped; its class, HTTP status and error code are kept for the log, and why no
connection was made."""

from __future__ import annotations

import re

from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError

from base_server.service.llm.llm_errors import AITimeout, AIUnavailable, ConversationTooLong

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_REFUSED_UNSERVED = frozenset({429, 500, 503, 529})
_NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout"})
_LONGEST_PROSE = 4096
_TOO_LARGE = 413
_REFUSED_PROMPT = frozenset({400, _TOO_LARGE, 422, 500})
_CONTEXT_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "model_max_prompt_tokens_exceeded"}
    | {"context_window_exceeded", "contextwindowexceedederror", "request_too_large", "3051"}
)
_CONTEXT_TEXT = re.compile(
    # What OpenAI, vLLM, SGLang, llama.cpp, Ollama, Mistral, xAI, TGI, Google, Bedrock, Cohere and
    # others send.
    r"context[ _-]?(length|window|size|limit)|maximum (model|prompt|input) length|model token limit"
    r"|(prompt|input|conversation|messages?) (is|are) too (long|large)"
    r"|too (long|large) for (the |requested )?model"
    r"|too many (input |prompt )?tokens|exceeds? (the )?max(imum)? (prompt |input |context )?length"
    r"|tokens? (count )?(\([^)]*\) )?exceeds? (the )?(maximum|limit|configured)"
    r"|reduce the length of the (messages|prompt)"
    r"|must have less than \d+ tokens|max_new_tokens` must be <=|range of input length"
    r"|(prompt|input) (tokens |text )?(is |are )?too (long|large|big)\b|request body too large"
    r"|(prompt|input) token count (is|of) \d+ (but|exceeds)|(prompt|input) tokens \d+ cannot exceed"
    r"|input length limit|prompt length exceeds|maximum input tokens",
    re.IGNORECASE,
)
_LIMITED_USE = re.compile(
    r"per (second|min|minute|hour|day|month)\b|rate[ _-]?limit|quota|throttl|billing|wait before",
    re.IGNORECASE,
)
"""Too many tokens for now, or for the money: half of them would be refused too, or be a way around
the limit."""
_RAISED_HERE = (AttributeError, LookupError, OSError, TypeError, ValueError, AIUnavailable)
"""By the SDK or us, of what came: its text may be the model's, and the reply is billed."""
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
    if is_context_overflow(error):
        return ConversationTooLong()
    parts = [type(error).__name__]
    if (status := _status(error)) is not None:
        parts.append(f"HTTP {status}")
    if (code := getattr(error, "code", None)) is not None and _CODE.fullmatch(str(code)):
        parts.append(str(code))
    if (refused := _cause_named(error, frozenset({"ConnectError"}))) is not None:
        parts.append(f"ConnectError: {_last_words(refused)}")
    return AIUnavailable(", ".join(parts), retry_after_s=_retry_after_s(error))


def may_retry(error: Exception) -> bool:
    """True only when the provider certainly did no work: repeating a call that it served bills
    twice."""
    return _status(error) in _REFUSED_UNSERVED or _among_causes(error, _NOT_CONNECTED)


def is_context_overflow(error: Exception) -> bool:
    """Whether the provider refused the prompt as longer than the model's context: before a reply's
    first chunk it did no work then.

    LangChain knows it of few providers. A wrong guess costs one more call that is refused.
    """
    if isinstance(error, ContextOverflowError):
        return True
    code, body = getattr(error, "code", None), getattr(error, "body", None)
    status = _status(error)
    if status is None and isinstance(code, int) and code >= 400:  # Google's SDK
        status = code
    if status is not None and status not in _REFUSED_PROMPT:
        return False
    # Neither: an error of Google's or Amazon's SDK. A body alone: an error event in a stream.
    if status is None and body is None and isinstance(error, _RAISED_HERE):
        return False
    known = {str(name).casefold() for name in (code, getattr(error, "type", None)) if name}
    if status == _TOO_LARGE or known & _CONTEXT_CODES:
        return True
    prose = f"{str(error)[:_LONGEST_PROSE]} {str(body)[:_LONGEST_PROSE]}"
    return _CONTEXT_TEXT.search(prose) is not None and _LIMITED_USE.search(prose) is None


def retry_delay_s(error: Exception, attempt: int) -> float | None:
    """How long to wait before attempt ``attempt`` (1 = the first repetition); None = longer than
    worth it."""
    asked = _retry_after_s(error)
    delay = asked if asked is not None else _BACKOFF_S[min(attempt, len(_BACKOFF_S)) - 1]
    return delay if delay <= _LONGEST_WAIT_S else None


def _status(error: Exception) -> int | None:
    # An SDK's error has it; a plain error of the HTTP library has the response.
    for holder in (error, getattr(error, "response", None)):
        if isinstance(status := getattr(holder, "status_code", None), int):
            return status
    return None


def _among_causes(error: BaseException | None, names: frozenset[str]) -> bool:
    return _cause_named(error, names) is not None


def _cause_named(error: BaseException | None, names: frozenset[str]) -> BaseException | None:
    # The HTTP library is the SDK's choice (httpx, httpx2), so its exceptions are known by name.
    while error is not None and type(error).__name__ not in names:
        error = error.__cause__
    return error


def _last_words(error: BaseException) -> str:
    """The text of the operating system or TLS: nothing was sent yet, so nobody's text is in it."""
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
