"""Traces as a collector gets them; and nothing at all without one."""

from __future__ import annotations

import asyncio
import gzip
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from base_server.service.core import tracing
from tests.server_process import Client, run_to_its_end, running_server, server_environment

TRACE_ID, CALLER_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP; ``spans`` are those that came so far."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.service_names: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        message = ExportTraceServiceRequest()
        message.ParseFromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        for of_resource in message.resource_spans:
            self.service_names |= {
                a.value.string_value
                for a in of_resource.resource.attributes
                if a.key == "service.name"
            }
            for scope in of_resource.scope_spans:
                self.spans += scope.spans
        return web.Response()

    def of_trace(self, trace_id: str) -> dict[str, Span]:
        return {_title(span): span for span in self.spans if span.trace_id.hex() == trace_id}


def _title(span: Span) -> str:
    """Its name, with what it is about."""
    about = [
        a.value.string_value for a in span.attributes if a.key in ("script", "procedure", "persona")
    ]
    return " ".join([span.name, *about])


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    taking = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", taking.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield taking, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    await runner.cleanup()


async def test_a_send_is_a_trace_of_its_callers(
    collector: tuple[Collector, str], tmp_path: Path
) -> None:
    taking, endpoint = collector
    with running_server(
        tmp_path / "data", BASE_SERVER__NETCONFIG__TRACES_ENDPOINT=endpoint
    ) as server:
        async with aiohttp.ClientSession(
            headers={"traceparent": f"00-{TRACE_ID}-{CALLER_ID}-01"}
        ) as http:
            client = Client(http, server.base_url)
            await client.sign_in("alice")
            room = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]
            await client.ok("/api/chat/message/send", room_id=room, content="a secret of alice")
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 60) == 0
    spans = taking.of_trace(TRACE_ID)
    sent = spans["POST /api/chat/message/send"]
    assert (sent.parent_span_id.hex(), sent.kind) == (CALLER_ID, Span.SPAN_KIND_SERVER)
    inside = {title for title, span in spans.items() if span.parent_span_id == sent.span_id}
    assert {"redis script accept_send", "ai reply DEMO"} <= inside
    assert spans["redis script end_reply"].trace_id == sent.trace_id
    # The batch is nobody's request.
    assert "database procedure fp_chat_message_batch_save" not in spans
    assert "database procedure fp_chat_message_batch_save" in {
        _title(span) for span in taking.spans
    }
    assert taking.service_names == {"base_server"}
    assert "secret of alice" not in str(taking.spans)


def test_without_its_packages_the_start_names_the_mend(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    (hidden / "opentelemetry").mkdir(parents=True)
    (hidden / "opentelemetry" / "__init__.py").write_text(
        "raise ImportError('hidden', name='opentelemetry')"
    )
    changes = {
        "BASE_SERVER__NETCONFIG__TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces",
        "PYTHONPATH": str(hidden),
    }
    ended = run_to_its_end(
        ["application.base_web_server"],
        server_environment(tmp_path / "data", changes),
        is_fresh=True,
    )
    assert ended.returncode == 1
    assert (
        "opentelemetry is not installed: install the extra 'otel'" in ended.stderr.splitlines()[-1]
    )


def test_without_a_tracer_a_span_is_nothing_at_all() -> None:
    assert tracing.span("anything", script="x") is tracing.span("other")
