"""The POST routes of the templates, by path and by protocol id; for a host's aiohttp app too."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from functools import partial

from aiohttp import ClientPayloadError, HttpVersion11, hdrs, web
from multidict import istr

from base_server.template.base.endpoint import Endpoint
from base_server.template.base.errors import InvalidRequest, ServiceDown, UnknownProtocol
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import Call, TemplateService

from ..middlewares import REQUEST_ID, WHERE_ROUTES_ARE, to_response, too_large
from ..peer import PeerFinder
from ..sse_response import HttpSseResponse

BODY_TIMEOUT_S = 30.0
_LAST_EVENT_ID = istr("Last-Event-ID")
_CONTENT_ENCODING = istr("Content-Encoding")


def add_protocol_routes(
    app: web.Application,
    context: TemplateContext,
    service: TemplateService,
    peers: PeerFinder | None = None,
    is_open: Callable[[], bool] | None = None,
) -> None:
    """Add a route for each endpoint in ``context``, and ``/api/protocol/{protocol_id}`` for all.

    The app's ``client_max_size`` limits bodies. Unless ``is_open``, responses are "try again".
    """
    peer_finder = peers or PeerFinder(())

    async def run(endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        if is_open is not None and not is_open():
            return to_response(
                service.refuse(ServiceDown("the server is starting", retry_after_s=1))
            )
        try:
            body = await _read_body(request)
        except InvalidRequest as error:
            return to_response(service.refuse(error))
        call = Call(
            body=body,
            request_id=request.get(REQUEST_ID) or uuid.uuid4().hex,
            bearer=_bearer(request),
            peer=peer_finder.find(request),
            last_event_id=request.headers.get(_LAST_EVENT_ID, ""),
        )
        if not endpoint.events:
            return to_response(await service.handle(endpoint, call))
        async with HttpSseResponse(request) as sse:
            answer = await service.handle(endpoint, call, sse)
            return sse.response if answer.is_streamed else to_response(answer)

    async def by_id(request: web.Request) -> web.StreamResponse:
        text = request.match_info["protocol_id"]
        # isascii, since int() reads other scripts' digits too
        known = text.isascii() and text.isdigit() and len(text) < 10
        endpoint = context.find_by_protocol(int(text)) if known else None
        if endpoint is None:
            return to_response(
                service.refuse(UnknownProtocol(f"no such protocol: {WHERE_ROUTES_ARE}"))
            )
        return await run(endpoint, request)

    async def expect(request: web.Request) -> web.Response | None:
        if request.headers[hdrs.EXPECT].lower() != "100-continue":
            unknown = InvalidRequest(
                "only Expect: 100-continue is supported: leave the header out", http_status=417
            )
            return to_response(service.refuse(unknown))
        if request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # as aiohttp does: the response has not begun
        return None

    for endpoint in context.endpoints():
        app.router.add_post(endpoint.path, partial(run, endpoint), expect_handler=expect)
    app.router.add_post("/api/protocol/{protocol_id}", by_id, expect_handler=expect)


async def _read_body(request: web.Request) -> bytes:
    if request.headers.get(_CONTENT_ENCODING, "identity") != "identity":
        raise InvalidRequest(
            "send the body uncompressed, without Content-Encoding", http_status=415
        )
    if "=" in request.headers.get(hdrs.CONTENT_TYPE, "") and not _is_utf8(request.charset):
        raise InvalidRequest("the body must be JSON in UTF-8")
    try:
        # Most bodies arrive with the headers: without a time-out they cost less.
        if request.content.is_eof() and (body := request.content.read_nowait()):
            if 0 < request.client_max_size < len(body):
                raise web.HTTPRequestEntityTooLarge(request.client_max_size)
            return body
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(request.client_max_size) from None
    except TimeoutError:
        raise InvalidRequest("the body did not arrive in time", http_status=408) from None
    except (web.RequestPayloadError, ClientPayloadError):
        raise InvalidRequest("the body did not arrive whole or is badly encoded") from None


def _is_utf8(charset: str | None) -> bool:
    return (charset or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8", "us-ascii", "ascii")


def _bearer(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
