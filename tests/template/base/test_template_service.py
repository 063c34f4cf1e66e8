"""Session check, envelope and errors of a call, and the registry of templates."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import structlog

from base_server.service.core import logger
from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable, StartError
from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.client_session import ClientSession
from base_server.template.base.endpoint import Access, Endpoint
from base_server.template.base.envelope import Request, Response
from base_server.template.base.error_response import error_to_response
from base_server.template.base.errors import (
    AIUnavailableError,
    ErrorCode,
    InvalidRequest,
    RoomNotFound,
    TooManyRequests,
)
from base_server.template.base.session_info import SessionInfo
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import Call, HttpResponse, TemplateService
from tests.waiting import PATIENCE_S


class EchoRequest(Request):
    text: str = ""


class EchoResponse(Response):
    text: str = ""


class EchoTemplate(BaseTemplate):
    kept_ids = (9003,)

    def __init__(self, first_id: int = 9001, prefix: str = "/api/echo") -> None:
        self.first_id, self.prefix = first_id, prefix
        self.raises: BaseException | None = None
        self.seen: list[ClientSession] = []

    def endpoints(self) -> Sequence[Endpoint]:
        return [
            Endpoint(self.first_id, f"{self.prefix}/user", EchoRequest, EchoResponse, self.on_echo),
            Endpoint(
                self.first_id + 1,
                f"{self.prefix}/any",
                EchoRequest,
                EchoResponse,
                self.on_echo,
                Access.ANONYMOUS,
            ),
        ]

    async def on_echo(self, client_session: ClientSession, request: EchoRequest) -> EchoResponse:
        self.seen.append(client_session)
        if self.raises is not None:
            raise self.raises
        return EchoResponse(text=request.text)


class Sessions:
    """A host's own session service."""

    down = False

    async def find(self, token: str) -> SessionInfo | None:
        if self.down:
            raise ServiceUnavailable("cache", "connection refused at 10.0.0.5")
        return SessionInfo("alice", 7, 2) if token == "good" else None


@pytest.fixture
def template() -> EchoTemplate:
    return EchoTemplate()


@pytest.fixture
def service() -> TemplateService:
    return TemplateService(Sessions())


def body_of(answer: HttpResponse) -> dict[str, Any]:
    body = json.loads(answer.body)
    assert isinstance(body, dict)
    assert body["errorCode"] == answer.error_code
    return body


async def ask(
    service: TemplateService, endpoint: Endpoint, *, bearer: str | None = "good", **fields: Any
) -> HttpResponse:
    return await service.handle(
        endpoint, Call(json.dumps(fields).encode(), "req-1", bearer, "192.0.2.1")
    )


async def test_a_user_call_reaches_its_handler_with_session_and_echoes_sequence(
    service: TemplateService, template: EchoTemplate
) -> None:
    answer = await ask(service, template.endpoints()[0], text="안녕", sequence=41)
    assert (answer.status, body_of(answer)) == (
        200,
        {"errorCode": 0, "sequence": 41, "text": "안녕"},
    )
    assert template.seen == [ClientSession(SessionInfo("alice", 7, 2), "req-1", "192.0.2.1")]


async def test_the_token_may_stand_in_the_body_and_the_header_wins(
    service: TemplateService, template: EchoTemplate
) -> None:
    user = template.endpoints()[0]
    assert (await ask(service, user, bearer=None, accessToken="good")).error_code == 0
    assert (await ask(service, user, bearer="bad", accessToken="good")).error_code == 10000
    assert (await ask(service, user, bearer="good", accessToken="bad")).error_code == 0


@pytest.mark.parametrize("bearer", [None, "", "wrong"])
async def test_without_a_session_the_answer_is_10000(
    service: TemplateService, template: EchoTemplate, bearer: str | None
) -> None:
    answer = await ask(service, template.endpoints()[0], bearer=bearer, sequence=5)
    assert (answer.status, answer.error_code, answer.sequence) == (401, 10000, 5)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert template.seen == []


async def test_anonymous_protocols_ask_nobody(template: EchoTemplate) -> None:
    sessions = Sessions()
    sessions.down = True
    answer = await ask(
        TemplateService(sessions), template.endpoints()[1], bearer="anything", text="x"
    )
    assert answer.error_code == 0


async def test_an_outage_of_the_session_store_is_5003_and_not_logged_out(
    template: EchoTemplate,
) -> None:
    sessions = Sessions()
    sessions.down = True
    answer = await ask(TemplateService(sessions), template.endpoints()[0])
    assert (answer.status, answer.error_code) == (503, 5003)
    assert body_of(answer)["error"]["retryable"] is True
    assert b"10.0.0.5" not in answer.body


RAISED = {
    "api error": (RoomNotFound(), 404, ErrorCode.ROOM_NOT_FOUND),
    "with another status": (AIUnavailableError(http_status=503), 503, ErrorCode.AI_UNAVAILABLE),
    "outage": (ServiceUnavailable("database", "down"), 503, ErrorCode.SERVICE_DOWN),
    "unknown outcome": (OutcomeUnknown("cache", "no answer"), 503, ErrorCode.SERVICE_DOWN),
    "bug": (KeyError("secret detail"), 500, ErrorCode.SERVER_ERROR),
}


@pytest.mark.parametrize(("raised", "status", "code"), RAISED.values(), ids=RAISED.keys())
async def test_what_a_handler_raises_becomes_an_envelope(
    service: TemplateService,
    template: EchoTemplate,
    raised: Exception,
    status: int,
    code: ErrorCode,
) -> None:
    template.raises = raised
    answer = await ask(service, template.endpoints()[0], sequence=3)
    body = body_of(answer)
    assert (answer.status, answer.error_code, body["sequence"]) == (status, code, 3)
    assert (body["error"]["code"], body["error"]["retryable"]) == (code.name, code.retryable)
    assert b"secret detail" not in answer.body


async def test_a_session_is_watched_on_after_its_service_broke_once(template: EchoTemplate) -> None:
    class Breaking(Sessions):
        answers: ClassVar = [SessionInfo("alice", 7, 2), RuntimeError("a bug"), None]

        async def find(self, token: str) -> SessionInfo | None:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    class Endless(EchoTemplate):
        async def on_echo(
            self, client_session: ClientSession, request: EchoRequest
        ) -> EchoResponse:
            await asyncio.Event().wait()
            raise AssertionError

    service = TemplateService(Breaking(), recheck_s=0.02)
    async with asyncio.timeout(PATIENCE_S):
        answer = await ask(service, Endless().endpoints()[0])
    assert answer.error_code == ErrorCode.SESSION_MISSING


async def test_cancellation_passes(service: TemplateService, template: EchoTemplate) -> None:
    template.raises = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await ask(service, template.endpoints()[0])


async def test_an_unencodable_response_is_a_server_error(service: TemplateService) -> None:
    async def broken(client_session: ClientSession, request: Request) -> Response:
        return EchoResponse.model_construct(errorCode=0, text="\ud800")

    answer = await ask(
        service, Endpoint(1, "/x", EchoRequest, EchoResponse, broken, Access.ANONYMOUS), sequence=9
    )
    assert (answer.status, answer.error_code, answer.sequence) == (500, 5000, 9)


async def test_errors_may_come_with_status_200_and_say_when_to_retry(
    template: EchoTemplate,
) -> None:
    template.raises = TooManyRequests(retry_after_s=2.4)
    answer = await ask(TemplateService(Sessions(), status_for_errors="ok"), template.endpoints()[0])
    assert (answer.status, answer.error_code, answer.headers["Retry-After"]) == (200, 1010, "2")


async def test_every_call_is_observed_once(template: EchoTemplate) -> None:
    seen: list[tuple[int, int]] = []
    service = TemplateService(
        Sessions(), observe=lambda endpoint, code, elapsed_s: seen.append((endpoint.id, code))
    )
    await ask(service, template.endpoints()[0])
    await ask(service, template.endpoints()[0], bearer="bad")
    await ask(service, template.endpoints()[1], text=5)
    assert seen == [(9001, 0), (9001, 10000), (9002, 1002)]


@pytest.mark.parametrize(
    ("lowest", "lines"),
    [(logging.DEBUG, [("debug", 0), ("info", 10000)]), (logging.INFO, [("info", 10000)])],
)
async def test_success_is_logged_at_debug_and_failure_always(
    service: TemplateService,
    template: EchoTemplate,
    monkeypatch: pytest.MonkeyPatch,
    lowest: int,
    lines: list[tuple[str, int]],
) -> None:
    """What succeeds is logged at debug level and what fails for all."""
    monkeypatch.setattr(logger, "_lowest", lowest)
    with structlog.testing.capture_logs() as logs:
        await ask(service, template.endpoints()[0])
        await ask(service, template.endpoints()[0], bearer="bad")
    assert [(line["log_level"], line["error_code"]) for line in logs] == lines


async def test_a_handler_called_directly_answers_with_its_response() -> None:
    @error_to_response(EchoResponse, unexpected=ErrorCode.CHAT_FAILED)
    async def handler(error: BaseException) -> EchoResponse:
        raise error

    assert (await handler(InvalidRequest.of("text", "no"))).errorCode == 1002
    assert (await handler(ServiceUnavailable("queue", "full"))).errorCode == 5003
    assert (await handler(RuntimeError())).errorCode == 1000
    with pytest.raises(asyncio.CancelledError):
        await handler(asyncio.CancelledError())


def test_a_context_finds_protocols_and_refuses_duplicates() -> None:
    context = TemplateContext()
    echo = EchoTemplate()
    context.add_template("echo", echo)
    assert context.get_template("echo") is echo
    assert context.get_template("other") is None
    assert context.find_by_protocol(9002) == context.find_by_path("/api/echo/any")
    assert context.find_by_protocol(1) is context.find_by_path("/nowhere") is None
    for name, other, said in (
        ("echo", EchoTemplate(1, "/other"), "'echo' is registered twice"),
        (
            "same id",
            EchoTemplate(9000, "/other"),
            r"'same id' wants the id 9001 .*/other/any.* template 'echo' has",
        ),
        (
            "same path",
            EchoTemplate(1),
            r"'same path' wants the path /api/echo/user .*template 'echo' has",
        ),
        (
            "kept id",
            EchoTemplate(9003, "/other"),
            r"'kept id' wants the id 9003 .*template 'echo' keeps",
        ),
        ("no slash", EchoTemplate(1, "other"), r"'no slash' .*'other/user'.* begin with '/'"),
        ("braces", EchoTemplate(1, "/other/{id"), r"'braces' .*'/other/{id/user'"),
    ):
        with pytest.raises(StartError, match=said):
            context.add_template(name, other)
    early = TemplateContext()
    early.add_template("guest", EchoTemplate(9003, "/other"))
    with pytest.raises(StartError, match=r"'guest' wants the id 9003 .*template 'echo' keeps"):
        early.add_template("echo", echo)
    assert list(context.templates()) == ["echo"]
    assert [endpoint.id for endpoint in context.endpoints()] == [9001, 9002]


def test_the_class_name_speaks_to_the_context_of_the_process() -> None:
    try:
        TemplateContext.add_template("echo", EchoTemplate())
        assert TemplateContext.find_by_protocol(9001) is not None
    finally:
        TemplateContext.clear()
    assert TemplateContext.find_by_protocol(9001) is None
