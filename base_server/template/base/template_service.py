"""The door: finds the session, parses strictly, calls the handler, writes the envelope, logs one line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from typing import Protocol as StructuralType

from service.core.errors import ServiceUnavailable
from service.core.logger import Logger, bind_log_context
from template.base import wire
from template.base.answers import as_api_error
from template.base.client_session import ClientSession
from template.base.errors import ApiError, InvalidRequest, SessionMissing
from template.base.protocol import Access, Protocol
from template.base.session_info import SessionInfo

ANONYMOUS = SessionInfo(account_id="")


class SessionFinder(StructuralType):
    """Who knows the sessions: the account template's store, or a host's own service."""

    async def find(self, token: str) -> SessionInfo | None:
        """The session of ``token``, or None. An outage raises ``ServiceUnavailable``, never None."""
        ...


@dataclass(frozen=True)
class Call:
    """One request as it arrived. ``bearer`` is the token of the Authorization header, which wins over the body's."""

    body: bytes
    request_id: str = ""
    bearer: str | None = None
    peer: str = ""


@dataclass(frozen=True)
class Answer:
    """What goes back. ``error_code`` and ``sequence`` are those of ``body``."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    error_code: int = 0
    sequence: int = 0


# Called once a request with the protocol, the error code and the seconds that it took.
Observer = Callable[[Protocol, int, float], None]


class TemplateService:
    """Runs protocols for callers.

    ``status_for_errors="ok"`` answers HTTP 200 to everything, for clients that read only ``errorCode``.
    ``recheck_s``: how often the session of a request that takes longer is looked up again; a logout on any process
    ends it with 10000. Every failure becomes an envelope; only cancellation is raised.
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
        self._status_for_errors = status_for_errors
        self._observe = observe
        self._recheck_s = recheck_s

    async def handle(self, protocol: Protocol, call: Call) -> Answer:
        """Run ``protocol`` as its table row says who may call it."""
        run = self.run_user if protocol.access is Access.USER else self.run_anonymous
        return await run(protocol, call)

    async def run_user(self, protocol: Protocol, call: Call) -> Answer:
        """Run for the account of the call's session; without a valid one the answer is 10000."""
        return await self._run(protocol, call, needs_session=True)

    async def run_anonymous(self, protocol: Protocol, call: Call) -> Answer:
        """Run for anybody; a token is not looked at."""
        return await self._run(protocol, call, needs_session=False)

    def refuse(self, error: ApiError, sequence: int = 0) -> Answer:
        """The answer to a request that reached no protocol (unknown path, body too large, …)."""
        response = wire.Response(sequence=sequence)
        response.fail(error)
        return self._answer(response)

    async def _run(self, protocol: Protocol, call: Call, *, needs_session: bool) -> Answer:
        started = time.monotonic()
        bind_log_context(request_id=call.request_id, protocol=protocol.id)
        sequence = 0
        session = ANONYMOUS
        try:
            data = wire.read_json(call.body)
            sequence = _readable_sequence(data)
            token = _token(call, data)
            if needs_session:
                session = await self._find_session(token)
            request = wire.read_request(protocol.request, call.body)
            work = protocol.handler(ClientSession(session, call.request_id, call.peer), request)
            response = await (self._while_session_lasts(token, work) if needs_session else work)
        except Exception as error:
            response = protocol.response()
            response.fail(as_api_error(error))
        response.sequence = sequence
        try:
            answer = self._answer(response)
        except Exception as error:  # a handler's response that cannot be encoded is a failure like another
            answer = self.refuse(as_api_error(error), sequence)
        elapsed_s = time.monotonic() - started
        Logger.info(
            "request",
            path=protocol.path,
            error_code=answer.error_code,
            status=answer.status,
            elapsed_ms=round(elapsed_s * 1000, 1),
            account=session.account_db_key,
        )
        if self._observe is not None:
            self._observe(protocol, answer.error_code, elapsed_s)
        return answer

    async def _find_session(self, token: str) -> SessionInfo:
        session = await self._sessions.find(token) if token else None
        if session is None:
            raise SessionMissing()
        return session

    async def _while_session_lasts(self, token: str, work: Awaitable[wire.Response]) -> wire.Response:
        """The handler's response, or :class:`SessionMissing` soon after the session ended. What the handler has
        begun in tasks of its own (a reply) goes on, as when a client leaves."""
        handling = asyncio.ensure_future(work)
        try:
            while True:
                await asyncio.wait({handling}, timeout=self._recheck_s)
                if handling.done():
                    return handling.result()
                if not await self._may_go_on(token):
                    raise SessionMissing("the session ended while the request was answered")
        finally:
            if not handling.done():
                handling.cancel()
                await asyncio.gather(handling, return_exceptions=True)

    async def _may_go_on(self, token: str) -> bool:
        try:
            return await self._sessions.find(token) is not None
        except ServiceUnavailable:
            return True  # nobody has said that it ended

    def _answer(self, response: wire.Response) -> Answer:
        body = wire.encode(response)
        headers: dict[str, str] = {}
        if response.error is not None and response.error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(response.error.retry_after_s)))
        if response.errorCode == SessionMissing.error_code:
            headers["WWW-Authenticate"] = "Bearer"
        status = 200 if self._status_for_errors == "ok" else response.http_status
        return Answer(status, body, headers, response.errorCode, response.sequence)


def _token(call: Call, data: dict[str, Any]) -> str:
    token = call.bearer if call.bearer is not None else data.get("accessToken", "")
    if not isinstance(token, str):
        raise InvalidRequest.of("accessToken", "must be text")
    return token


def _readable_sequence(data: dict[str, Any]) -> int:
    sequence = data.get("sequence", 0)
    readable = isinstance(sequence, int) and not isinstance(sequence, bool) and abs(sequence) <= wire.INT64_MAX
    return sequence if readable else 0
