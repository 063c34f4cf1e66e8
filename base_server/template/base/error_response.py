"""Turns a handler's exception into a response, whether the server or a host's code calls it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.renamed import old_names
from base_server.template.base.envelope import Response
from base_server.template.base.errors import ApiError, ErrorCode, ServiceDown
from base_server.template.base.event_stream import Events

HandlerT = TypeVar("HandlerT", bound=Callable[..., Awaitable[Response | Events]])


def as_api_error(error: Exception, unexpected: ErrorCode = ErrorCode.SERVER_ERROR) -> ApiError:
    """``error`` as the client may see it.

    Outages and unexpected errors are logged here, with the details that only the log may have.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ServiceUnavailable):
        Logger.warn("needed service is down", service=error.service, reason=error.reason)
        return ServiceDown(
            f"the {error.service} is down, try again", details={"service": error.service}
        )
    Logger.error("handler failed", error=type(error).__name__, exc_info=error)
    return ApiError(unexpected)


def error_to_response(
    response_type: type[Response], unexpected: ErrorCode = ErrorCode.SERVER_ERROR
) -> Callable[[HandlerT], HandlerT]:
    """Decorator of ``on_…_req`` methods: the handler returns its response and raises only
    cancellation.

    A raised :class:`ApiError` or service outage becomes a fresh ``response_type()`` with
    ``errorCode`` and ``error``; anything else is logged and becomes ``unexpected``. To send other
    fields with an error, return a response on which ``fail(error)`` was called.
    """

    def decorate(handler: HandlerT) -> HandlerT:
        @wraps(handler)
        async def run(*args: Any, **kwargs: Any) -> Response | Events:
            try:
                return await handler(*args, **kwargs)
            except Exception as error:
                response = response_type()
                response.fail(as_api_error(error, unexpected))
                return response

        return cast(HandlerT, run)

    return decorate


if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, answers="error_to_response")
