"""Runs one request: strict parsing, session, handler, response envelope, log line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from base_server.service.core.logger import Logger, bind_log_context
from base_server.template.base.client_session import ClientSession
from base_server.template.base.encoding import encode
from base_server.template.base.endpoint import Access, Endpoint
from base_server.template.base.envelope import INT64_MAX, Response
from base_server.template.base.error_response import as_api_error
from base_server.template.base.errors import ApiError, InvalidRequest, SessionMissing
from base_server.template.base.event_stream import Events, ReaderLeft, SseResponse
from base_server.template.base.request_body import read_json, read_request
from base_server.template.base.session_guard import SessionGuard
from base_server.template.base.session_info import SessionInfo
from base_server.template.base.session_watch import CachesSessions, SessionFinder, SessionWatch

ANONYMOUS = SessionInfo(account_id="")


@dataclass(slots=True)
class Call:
    """One request as it arrived. ``bearer`` is the token of the Authorization header, which wins
    over the body's; ``last_event_id`` is the header of a client that resumes a stream.
    """

    body: bytes
    request_id: str = ""
    bearer: str | None = None
    peer: str = ""
    last_event_id: str = ""


@dataclass(slots=True)
class HttpResponse:
    """A response to send. ``error_code`` and ``sequence`` are those of ``body``.

    ``is_streamed``: it was sent as events through the :class:`SseResponse`; there is no body.
    """

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    error_code: int = 0
    sequence: int = 0
    is_streamed: bool = False


# Called for each request with the endpoint, the error code and the duration in seconds.
Observer = Callable[[Endpoint, int, float], None]


class TemplateService:
    """Runs endpoints for callers.

    ``status_for_errors="ok"`` returns HTTP 200 for every call, for clients that read only
    ``errorCode``. ``recheck_s``: how often the session of a running request is looked up again; a
    logout in any process ends the request with 10000. Every failure becomes an envelope; only
    cancellation is raised. The events of a stream go to ``sse``; once it is open, a failure (also
    the session's end) ends the stream without a last event.
    """

    def __init__(
        self,
        sessions: SessionFinder,
        *,
        status_for_errors: Literal["error", "ok"] = "error",
        observe: Observer | None = None,
        recheck_s: float = 1.0,
    ) -> None:
        self._sessions = sessions
        self._find_cached = sessions.find_cached if isinstance(sessions, CachesSessions) else None
        self._status_for_errors = status_for_errors
        self._observe = observe
        self._watch = SessionWatch(sessions, recheck_s)

    async def handle(
        self, endpoint: Endpoint, call: Call, sse: SseResponse | None = None
    ) -> HttpResponse:
        """Run ``endpoint`` with the access of its table row. A stream needs ``sse``."""
        return await self._run(endpoint, call, sse, needs_session=endpoint.access is Access.USER)

    async def run_user(
        self, endpoint: Endpoint, call: Call, sse: SseResponse | None = None
    ) -> HttpResponse:
        """Run for the account of the call's session; without one the response is 10000."""
        return await self._run(endpoint, call, sse, needs_session=True)

    async def run_anonymous(
        self, endpoint: Endpoint, call: Call, sse: SseResponse | None = None
    ) -> HttpResponse:
        """Run without a session; a token is ignored."""
        return await self._run(endpoint, call, sse, needs_session=False)

    def refuse(self, error: ApiError, sequence: int = 0) -> HttpResponse:
        """The response to a request that reached no endpoint (unknown path, large body, …)."""
        response = Response(sequence=sequence)
        response.fail(error)
        return self._encode(response)

    async def _run(
        self, endpoint: Endpoint, call: Call, sse: SseResponse | None, *, needs_session: bool
    ) -> HttpResponse:
        started = time.monotonic()
        bind_log_context(request_id=call.request_id, protocol=endpoint.id)
        sequence = 0
        caller = ClientSession(ANONYMOUS, call.request_id, call.peer, call.last_event_id)
        sender: _EventSender | None = None
        try:
            data = read_json(call.body)
            sequence = _readable_sequence(data)
            token = _token(call, data)
            if needs_session:
                await self._authenticate(endpoint, caller, token)
            try:
                request = read_request(endpoint.request, call.body)
                with self._watch.lasting(token) if needs_session else nullcontext():
                    response = await endpoint.handler(caller, request)
                    await _verify(caller)
                    if isinstance(response, AsyncGenerator):
                        sender = _EventSender(sse)
                        response = await sender.run(response)
            except Exception:
                await _verify(caller)
                raise
        except Exception as error:
            response = endpoint.response()
            response.fail(as_api_error(error))
        response.echo(sequence)
        if sender is not None and sender.is_open:
            answer = HttpResponse(
                200, b"", {}, response.errorCode or sender.error_code, sequence, is_streamed=True
            )
        else:
            answer = self._encode_safely(response)
        elapsed_s = time.monotonic() - started
        if answer.error_code or Logger.is_debug():
            log = Logger.info if answer.error_code else Logger.debug
            log(
                "request",
                path=endpoint.path,
                error_code=answer.error_code,
                status=answer.status,
                elapsed_ms=round(elapsed_s * 1000, 1),
                account=caller.session.account_db_key,
            )
        if self._observe is not None:
            self._observe(endpoint, answer.error_code, elapsed_s)
        return answer

    async def _authenticate(self, endpoint: Endpoint, caller: ClientSession, token: str) -> None:
        """Give ``caller`` its session: looked up, or cached where the handler verifies it."""
        if (
            endpoint.verifies_session
            and self._find_cached is not None
            and (cached := self._find_cached(token)) is not None
        ):
            caller.session = cached.session
            caller.guard = SessionGuard(cached.precondition, lambda: self._sessions.find(token))
            return
        session = await self._sessions.find(token) if token else None
        if session is None:
            raise SessionMissing()
        caller.session = session

    def _encode_safely(self, response: Response) -> HttpResponse:
        try:
            return self._encode(response)
        except Exception as error:  # a handler's response that cannot be encoded
            return self.refuse(as_api_error(error), response.sequence)

    def _encode(self, response: Response) -> HttpResponse:
        body = encode(response)
        headers: dict[str, str] = {}
        if response.error is not None and response.error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(response.error.retry_after_s)))
        if response.errorCode == SessionMissing.error_code:
            headers["WWW-Authenticate"] = "Bearer"
        status = 200 if self._status_for_errors == "ok" else response.http_status
        return HttpResponse(status, body, headers, response.errorCode, response.sequence)


async def _verify(caller: ClientSession) -> None:
    """Without a session the caller must not learn what the handler found, so this runs before any
    response.
    """
    if caller.guard is not None:
        await caller.guard.verify()


class _EventSender:
    """Sends a stream's events. ``is_open``: the response has begun; ``error_code``: of its last
    event.
    """

    def __init__(self, sse: SseResponse | None) -> None:
        self._sse = sse
        self.is_open = False
        self.error_code = 0

    async def run(self, events: Events) -> Response:
        scope = asyncio.timeout(None)
        try:
            async with scope, aclosing(events):
                if self._sse is None:
                    raise TypeError("a stream needs an SseResponse")
                await self._sse.open(lambda: scope.reschedule(asyncio.get_running_loop().time()))
                self.is_open = True
                async for event in events:
                    self.error_code = event.error_code
                    await self._sse.send(event.encode())
        except ReaderLeft:
            self.is_open = True
        except TimeoutError:
            if not scope.expired():
                raise
        return Response()


def _token(call: Call, data: dict[str, Any]) -> str:
    token = call.bearer if call.bearer is not None else data.get("accessToken", "")
    if not isinstance(token, str):
        raise InvalidRequest.of("accessToken", "must be text")
    return token


def _readable_sequence(data: dict[str, Any]) -> int:
    sequence = data.get("sequence", 0)
    readable = (
        isinstance(sequence, int) and not isinstance(sequence, bool) and abs(sequence) <= INT64_MAX
    )
    return sequence if readable else 0
