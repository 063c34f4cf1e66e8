"""The registry of error codes: number, name, HTTP status, and whether a retry may help.

The documents' table, the OpenAPI description and the tests are made from it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar

_ASK_AGAIN = "; the message is stored: send it again with a new client_message_id"


class ErrorCode(IntEnum):
    """A code in the envelope. Its name is the symbolic ``error.code``.

    ``http_status`` is the usual status (an :class:`ApiError` may carry another one), ``retryable``
    says that the same request may succeed later, ``meaning`` is the default message for clients,
    ``note`` is for the documents.
    """

    http_status: int
    retryable: bool
    meaning: str
    note: str

    def __new__(
        cls,
        value: int,
        http_status: int = 200,
        retryable: bool = False,
        meaning: str = "",
        note: str = "",
    ) -> ErrorCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.http_status = http_status
        member.retryable = retryable
        member.meaning = meaning
        member.note = note
        return member

    @property
    def described(self) -> str:
        """Meaning and note, for the documents."""
        return f"{self.meaning} ({self.note})" if self.note else self.meaning

    OK = 0, 200, False, "success"
    CHAT_FAILED = 1000, 500, False, "the chat operation failed unexpectedly"
    MESSAGE_NOT_SENT = 1001, 503, True, "the message could not be sent, nothing was stored"
    INVALID_REQUEST = (
        1002,
        400,
        False,
        "the request is not valid",
        "413: its body is too large, 415: compressed, 408: too slow",
    )
    UNKNOWN_PROTOCOL = 1003, 404, False, "no such protocol or path", "405: not with this method"
    ROOM_NOT_FOUND = 1004, 404, False, "the room does not exist or is not yours"
    MESSAGE_NOT_FOUND = 1005, 404, False, "the message does not exist"
    ROOM_BUSY = (
        1006,
        409,
        True,
        "a reply is running in this room, or too many messages are queued",
    )
    IDEMPOTENCY_MISMATCH = 1007, 422, False, "this client id was used before with another body"
    NOT_ALLOWED_IN_STATE = (
        1008,
        409,
        False,
        "not allowed in the state that the room or message is in",
    )
    TOO_MANY_REQUESTS = 1010, 429, True, "too many requests"
    AI_UNAVAILABLE = (
        1020,
        502,
        False,
        "the AI provider failed" + _ASK_AGAIN,
        "503: it was not called",
    )
    AI_TIMED_OUT = 1021, 504, False, "the AI provider did not answer in time" + _ASK_AGAIN
    ACCOUNT_EXISTS = 2001, 409, False, "this account_id is taken"
    WRONG_CREDENTIALS = 2002, 401, False, "wrong account_id or password"
    SERVER_ERROR = 5000, 500, False, "the server failed unexpectedly"
    SERVICE_DOWN = 5003, 503, True, "a needed service is down, try again"
    SESSION_MISSING = 10000, 401, False, "the session is missing or has expired: log in"


class ApiError(Exception):
    """A handled failure. Everything given here may be seen by the client; a cause (``from``) only
    by the log.

    ``retry_after_s`` becomes the ``Retry-After`` header too; ``details`` must be JSON-serialisable.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        details: dict[str, Any] | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message or code.meaning)
        self.code = code
        self.message = message or code.meaning
        self.retry_after_s = retry_after_s
        self.details = details
        self.http_status = http_status or code.http_status


class _KnownError(ApiError):
    """Base of the errors below: the class is the code."""

    error_code: ClassVar[ErrorCode]

    def __init__(
        self,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        details: dict[str, Any] | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(
            self.error_code,
            message,
            retry_after_s=retry_after_s,
            details=details,
            http_status=http_status,
        )


class ChatFailed(_KnownError):
    error_code = ErrorCode.CHAT_FAILED


class MessageNotSent(_KnownError):
    error_code = ErrorCode.MESSAGE_NOT_SENT


class InvalidRequest(_KnownError):
    """``InvalidRequest.of("title", "must have 1..200 characters")`` names the field in text and
    details.
    """

    error_code = ErrorCode.INVALID_REQUEST

    @classmethod
    def of(cls, field: str, reason: str, **details: Any) -> InvalidRequest:
        return cls(f"{field}: {reason}", details={"field": field, **details})


class UnknownProtocol(_KnownError):
    error_code = ErrorCode.UNKNOWN_PROTOCOL


class RoomNotFound(_KnownError):
    error_code = ErrorCode.ROOM_NOT_FOUND


class MessageNotFound(_KnownError):
    error_code = ErrorCode.MESSAGE_NOT_FOUND


class RoomBusy(_KnownError):
    error_code = ErrorCode.ROOM_BUSY


class IdempotencyMismatch(_KnownError):
    error_code = ErrorCode.IDEMPOTENCY_MISMATCH


class NotAllowedInState(_KnownError):
    error_code = ErrorCode.NOT_ALLOWED_IN_STATE


class TooManyRequests(_KnownError):
    error_code = ErrorCode.TOO_MANY_REQUESTS


class AIUnavailableError(_KnownError):
    error_code = ErrorCode.AI_UNAVAILABLE


class AINotCalledError(AIUnavailableError):
    """The same code, for a reply that ended before the provider was called: 503."""

    def __init__(self, *, retry_after_s: float | None = None) -> None:
        super().__init__(
            "the AI provider was not called" + _ASK_AGAIN,
            retry_after_s=retry_after_s,
            http_status=503,
        )


class ConversationTooLongError(AIUnavailableError):
    """The same code, where a retry cannot help; ``details.reason`` is for programs."""

    def __init__(self) -> None:
        super().__init__(
            "the conversation is too long for the AI model; the message is stored: send a shorter"
            " one, or start a new room",
            details={"reason": "conversation_too_long"},
        )


class AITimeoutError(_KnownError):
    error_code = ErrorCode.AI_TIMED_OUT


class AccountExists(_KnownError):
    error_code = ErrorCode.ACCOUNT_EXISTS


class WrongCredentials(_KnownError):
    error_code = ErrorCode.WRONG_CREDENTIALS


class ServerError(_KnownError):
    error_code = ErrorCode.SERVER_ERROR


class ServiceDown(_KnownError):
    error_code = ErrorCode.SERVICE_DOWN


class SessionMissing(_KnownError):
    error_code = ErrorCode.SESSION_MISSING
