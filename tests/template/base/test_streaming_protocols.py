"""A host's streaming endpoints: events, failures before and after the first one, ended sessions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest
from pydantic import BaseModel

from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.client_session import ClientSession
from base_server.template.base.endpoint import Endpoint
from base_server.template.base.envelope import Request, Response
from base_server.template.base.error_response import error_to_response
from base_server.template.base.errors import RoomNotFound
from base_server.template.base.event_stream import Events, ReaderLeft, StreamEvent
from base_server.template.base.session_info import SessionInfo
from base_server.template.base.template_service import Call, HttpResponse, TemplateService
from tests.waiting import PATIENCE_S, until


class Count(BaseModel):
    number: int


class CountRequest(Request):
    up_to: int = 3


class CountingTemplate(BaseTemplate):
    """Counts; at ``raises_at`` it fails, at ``waits_at`` it waits for ever."""

    raises_at = waits_at = -1
    closed = False

    def endpoints(self) -> Sequence[Endpoint]:
        return [
            Endpoint(
                9001, "/api/count", CountRequest, Response, self.on_count, events={"count": Count}
            )
        ]

    @error_to_response(Response)
    async def on_count(
        self, client_session: ClientSession, request: CountRequest
    ) -> Response | Events:
        if request.up_to < 0:
            raise RoomNotFound
        return self._events(request.up_to)

    async def _events(self, up_to: int) -> Events:
        try:
            for number in range(1, up_to + 1):
                if number == self.raises_at:
                    raise KeyError("secret")
                if number == self.waits_at:
                    await asyncio.Event().wait()
                yield StreamEvent(
                    "count", {"number": number}, number, error_code=7 if number == up_to else 0
                )
        finally:
            self.closed = True


class Sessions:
    """A host's own: it can only be asked for one."""

    ended = False

    async def find(self, token: str) -> SessionInfo | None:
        return None if self.ended else SessionInfo("alice", 7, 2)


class ManySessions(Sessions):
    asked = 0

    async def find_ended(self, tokens: Sequence[str]) -> list[str]:
        self.asked += 1
        return list(tokens) if self.ended else []


class CollectedEvents:
    """Keeps what it gets; leaves after ``patience`` events."""

    def __init__(self, patience: int = 100) -> None:
        self.is_open = False
        self.sent: list[bytes] = []
        self._patience = patience

    async def open(self, on_left: Callable[[], None]) -> None:
        self.is_open = True
        self.leave = on_left

    async def send(self, event: bytes) -> None:
        if len(self.sent) == self._patience:
            raise ReaderLeft
        self.sent.append(event)


@pytest.fixture
def template() -> CountingTemplate:
    return CountingTemplate()


async def count(
    template: CountingTemplate,
    sse: CollectedEvents | None,
    service: TemplateService | None = None,
    **fields: int,
) -> HttpResponse:
    (endpoint,) = template.endpoints()
    service = service or TemplateService(Sessions())
    return await service.handle(endpoint, Call(json.dumps(fields).encode(), bearer="good"), sse)


async def test_events_go_to_the_outlet_and_the_last_ones_code_to_the_observer(
    template: CountingTemplate,
) -> None:
    sse, seen = CollectedEvents(), []
    service = TemplateService(
        Sessions(), observe=lambda endpoint, code, elapsed_s: seen.append(code)
    )
    answer = await count(template, sse, service, up_to=2)
    assert sse.sent == [
        b'id: 1\nevent: count\ndata: {"number":1}\n\n',
        b'id: 2\nevent: count\ndata: {"number":2}\n\n',
    ]
    assert (answer.is_streamed, answer.body, answer.error_code, seen) == (True, b"", 7, [7])
    assert template.closed


async def test_a_failure_before_the_first_event_is_an_envelope(template: CountingTemplate) -> None:
    sse = CollectedEvents()
    for fields, status, code in (({"up_to": -1}, 404, 1004), ({"up_to": "x"}, 400, 1002)):
        answer = await count(template, sse, **fields)
        assert (answer.is_streamed, answer.status, json.loads(answer.body)["errorCode"]) == (
            False,
            status,
            code,
        )
    assert not sse.is_open


async def test_a_failure_after_it_ends_the_stream_and_is_known_to_the_log_alone(
    template: CountingTemplate,
) -> None:
    template.raises_at = 2
    sse = CollectedEvents()
    answer = await count(template, sse)
    assert (answer.is_streamed, answer.error_code, len(sse.sent)) == (True, 5000, 1)
    assert b"secret" not in b"".join(sse.sent)


async def test_a_reader_who_leaves_ends_the_handler(template: CountingTemplate) -> None:
    answer = await count(template, CollectedEvents(patience=1))
    assert (answer.is_streamed, answer.error_code, template.closed) == (True, 0, True)


async def test_a_reader_who_leaves_while_nothing_is_said_ends_the_handler(
    template: CountingTemplate,
) -> None:
    template.waits_at = 2
    sse = CollectedEvents()
    stream = asyncio.create_task(count(template, sse))
    await until(lambda: sse.sent)
    sse.leave()
    answer = await asyncio.wait_for(stream, PATIENCE_S)
    assert (answer.is_streamed, answer.error_code, template.closed) == (True, 0, True)


async def test_without_an_outlet_a_stream_is_a_server_error(template: CountingTemplate) -> None:
    answer = await count(template, None)
    assert (answer.is_streamed, answer.error_code) == (False, 5000)


@pytest.mark.parametrize(
    "sessions", [Sessions(), ManySessions()], ids=["asked one by one", "asked together"]
)
async def test_a_stream_ends_with_its_session_and_leaves_no_task(
    template: CountingTemplate, sessions: Sessions
) -> None:
    tasks = len(asyncio.all_tasks())
    template.waits_at = 2
    service, responses = (
        TemplateService(sessions, recheck_s=0.02),
        [CollectedEvents(), CollectedEvents()],
    )
    streams = [asyncio.create_task(count(template, sse, service)) for sse in responses]
    await until(lambda: all(sse.sent for sse in responses))
    await asyncio.sleep(0.06)  # several looks at a session that goes on
    assert not any(stream.done() for stream in streams)
    sessions.ended = True
    done = await asyncio.wait_for(asyncio.gather(*streams), PATIENCE_S)
    assert [(answer.is_streamed, answer.error_code) for answer in done] == [(True, 10000)] * 2
    assert [len(sse.sent) for sse in responses] == [1, 1]
    await until(lambda: len(asyncio.all_tasks()) == tasks)


async def test_a_cancelled_call_is_cancelled_and_not_a_session_that_ended(
    template: CountingTemplate,
) -> None:
    template.waits_at = 1
    sse = CollectedEvents()
    stream = asyncio.create_task(count(template, sse))
    await until(lambda: sse.is_open)
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream
    assert template.closed


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nb\r", "a\u2028b\u2029c\u0085d", "x\n\ndata: y", "한국어 🎉", "</script>"]
)
def test_any_text_is_one_event_and_comes_back(text: str) -> None:
    wire = StreamEvent("reply", {"text": text}, 5).encode().decode()
    assert wire.endswith("\n\n")
    assert len(wire.removesuffix("\n\n").splitlines()) == 3
    assert json.loads(wire.splitlines()[2].removeprefix("data: ")) == {"text": text}
