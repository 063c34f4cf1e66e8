"""Middlewares: request ids, envelopes for errors outside of endpoints, safe headers."""

from __future__ import annotations

import random
import re

from aiohttp import ClientConnectionResetError, hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import istr

from base_server.service.core.logger import Logger, bind_log_context
from base_server.template.base.error_response import as_api_error
from base_server.template.base.errors import ApiError, InvalidRequest, ServerError, UnknownProtocol
from base_server.template.base.template_service import HttpResponse, TemplateService

REQUEST_ID = web.RequestKey("request_id", str)
_JSON = {hdrs.CONTENT_TYPE: "application/json; charset=utf-8"}
WHERE_ROUTES_ARE = "GET /openapi.json lists them all"
_PROBING = (hdrs.METH_GET, hdrs.METH_HEAD)
_X_REQUEST_ID = istr("X-Request-ID")
_X_CONTENT_TYPE_OPTIONS = istr("X-Content-Type-Options")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def to_response(answer: HttpResponse) -> web.Response:
    """A template's response as aiohttp's."""
    return web.Response(status=answer.status, body=answer.body, headers=_JSON | answer.headers)


@web.middleware
async def request_id_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take the client's ``X-Request-ID`` if it is valid, else make one; every log line has it."""
    given = request.headers.get(_X_REQUEST_ID)
    request_id = (
        given if given and _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
    )
    request[REQUEST_ID] = request_id
    bind_log_context(request_id=request_id)
    return await handler(request)


async def add_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Of ``on_response_prepare``, so that streams and errors have them too."""
    headers = response.headers
    if (request_id := request.get(REQUEST_ID)) is not None:
        headers[_X_REQUEST_ID] = request_id
    headers[_X_CONTENT_TYPE_OPTIONS] = "nosniff"
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")


def make_error_middleware(service: TemplateService) -> Middleware:
    """Turns every error outside an endpoint into an envelope, never a page or a stack trace.

    A GET, such as a probe's, gets the error's HTTP status: probes read nothing else.
    """

    @web.middleware
    async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        allow = ""
        try:
            return await handler(request)
        except web.HTTPException as answer:
            if answer.status < 400:
                raise
            allow = answer.headers.get("Allow", "")
            error = _envelope_error(answer, request.client_max_size)
        except Exception as unexpected:
            if _is_client_gone(request, unexpected):
                Logger.debug("client left", method=request.method, path=request.path)
                # aiohttp drops it without a reader; a raised error it would log with traceback.
                return web.Response()
            error = as_api_error(unexpected)
        Logger.info(
            "request refused",
            method=request.method,
            status=error.http_status,
            error_code=int(error.code),
        )
        response = to_response(service.refuse(error))
        if request.method in _PROBING:  # also with http_status_for_errors "ok"
            response.set_status(error.http_status)
        if allow:
            response.headers["Allow"] = allow
        return response

    return error_middleware


def _is_client_gone(request: web.Request, error: Exception) -> bool:
    """Whether ``error`` is the end of the client's connection, not of another one."""
    is_closed = request.transport is None or request.transport.is_closing()
    return is_closed and (
        error is request.content.exception() or isinstance(error, ClientConnectionResetError)
    )


def too_large(limit: int) -> InvalidRequest:
    """The refusal of a body of more than ``limit`` bytes."""
    return InvalidRequest(f"the body is too large: send at most {limit} bytes", http_status=413)


def _envelope_error(answer: web.HTTPException, max_body_bytes: int) -> ApiError:
    if answer.status == 404:
        return UnknownProtocol(f"no such path: {WHERE_ROUTES_ARE}")
    if isinstance(answer, web.HTTPMethodNotAllowed):
        methods = ", ".join(sorted(answer.allowed_methods))
        return UnknownProtocol(
            f"{answer.method} is not allowed for this path: it takes {methods}", http_status=405
        )
    if answer.status == 413:
        return too_large(max_body_bytes)
    if answer.status < 500:
        return InvalidRequest(answer.reason, http_status=answer.status)
    return ServerError()
