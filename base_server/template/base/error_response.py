"""How a handler's failure becomes its answer, whether the server or a host's own code called it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar, cast

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.template.base.envelope import Response
from base_server.template.base.errors import ApiError, ErrorCode, ServiceDown
from base_server.template.base.event_stream import Events

HandlerT = TypeVar("HandlerT", bound=Callable[..., Awaitable[Response | Events]])


def as_api_error(error: Exception, unexpected: ErrorCode = ErrorCode.SERVER_ERROR) -> ApiError:
    """``error`` as the client may see it. Outages and surprises are logged here, with what only the log may see."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ServiceUnavailable):
        Logger.warn("needed service is down", service=error.service, reason=error.reason)
        return ServiceDown(
            f"the {error.service} is down, try again", details={"service": error.service}
        )
    Logger.error("handler failed", error=type(error).__name__, exc_info=error)
    return ApiError(unexpected)


def answers(
    response_type: type[Response], unexpected: ErrorCode = ErrorCode.SERVER_ERROR
) -> Callable[[HandlerT], HandlerT]:
    """Decorator of ``on_…_req`` methods: the handler returns its response and raises only cancellation.

    A raised :class:`ApiError` or service outage becomes a fresh ``response_type()`` with ``errorCode``
    and ``error``; anything else is logged and becomes ``unexpected``. To send other fields with an
    error, return a response on which ``fail(error)`` was called.
    """

    def decorate(handler: HandlerT) -> HandlerT:
        @wraps(handler)
        async def answered(*args: Any, **kwargs: Any) -> Response | Events:
            try:
                return await handler(*args, **kwargs)
            except Exception as error:
                response = response_type()
                response.fail(as_api_error(error, unexpected))
                return response

        return cast(HandlerT, answered)

    return decorate
