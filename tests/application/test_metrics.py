"""/metrics tells what happened: each number after a life in which it is known."""

from __future__ import annotations

import asyncio
import re
import uuid
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.parser import text_string_to_metric_families

import application.base_web_server.lifecycle  # noqa: F401 - all that counts is imported
from application.base_web_server.observability import metrics as metrics_module
from application.base_web_server.observability.metrics import Metrics
from base_server.service.core import instruments
from base_server.service.core.instruments import Counter, Gauge, Histogram, declared_instruments
from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.base.endpoint import Endpoint
from base_server.template.base.envelope import Request, Response
from tests.openai_stub import OpenAIStub, Reply
from tests.server_process import Client, running_server
from tests.waiting import until


class Numbers:
    """One reading of /metrics. ``sum`` adds all series of a name with at least these labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        found = [
            s.value
            for s in self._samples
            if s.name == f"base_server_{name}" and labels.items() <= s.labels.items()
        ]
        assert found, f"no series {name}{labels}"
        return sum(found)


async def read(http: aiohttp.ClientSession, base_url: str) -> Numbers:
    async with http.get(base_url + "/metrics") as answer:
        return Numbers(await answer.text())


async def reading_with(http: aiohttp.ClientSession, base_url: str, **sums: float) -> Numbers:
    """The first reading with these sums: counts come a little after the response."""
    readings: list[Numbers] = []

    async def they_have_come() -> bool:
        readings.append(await read(http, base_url))
        return {name: readings[-1].sum(name) for name in sums} == sums

    await until(they_have_come, what=f"{sums} in /metrics")
    return readings[-1]


async def test_a_life_with_known_numbers(tmp_path: Path) -> None:
    with running_server(
        tmp_path / "data", BASE_SERVER__CHATCONFIG__BATCH_INTERVAL_S="0.1"
    ) as server:
        async with aiohttp.ClientSession() as http:
            client = Client(http, server.base_url)
            await client.sign_in("alice")
            await client.post("/api/account/login", account_id="alice", password="wrong password")
            room = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]
            message = {"room_id": room, "content": "hello", "client_message_id": str(uuid.uuid4())}
            for _ in range(3):
                await client.ok("/api/chat/message/send", **message)
            # A room, a question, its title, a reply.
            numbers = await reading_with(
                http, server.base_url, chat_batch_events_sum=4, queue_waiting=0
            )
            await client.ok("/api/account/logout")
            assert (await read(http, server.base_url)).sum("account_logouts_total") == 1

    assert numbers.sum("account_signups_total") == 1
    assert numbers.sum("account_logins_total", outcome="ok") == 1
    assert numbers.sum("account_logins_total", outcome="refused") == 1
    assert numbers.sum("requests_total", protocol="6011", error_code="0") == 3
    assert numbers.sum("chat_repeated_sends_total") == 2
    assert numbers.sum("chat_replies_total", finish_reason="stop") == 1
    # One reply, of the demo, that nobody read along: a token a word.
    assert numbers.sum("chat_first_text_seconds_count") == 1
    assert numbers.sum("ai_calls_total", persona="DEMO") == 1
    assert numbers.sum("ai_replies_total", persona="DEMO", outcome="stop") == 1
    assert numbers.sum("ai_first_token_seconds_count", persona="DEMO") == 1
    assert numbers.sum("ai_tokens_total", persona="DEMO", kind="completion") > 5
    assert (numbers.sum("ai_running"), numbers.sum("ai_waiting")) == (0, 0)
    assert (
        1 <= numbers.sum("chat_batch_seconds_count") == numbers.sum("chat_batch_events_count") <= 4
    )
    assert numbers.sum("db_call_seconds_count", procedure="fp_chat_message_batch_save") >= 1
    assert numbers.sum("cache_call_seconds_count") > 10
    assert numbers.sum("cache_round_trips_total") > 10
    assert numbers.sum("build_info", version="0.1.0") == 1
    assert numbers.sum("queue_dead_letters", queue="chat_persistence") == 0


async def test_a_stream_that_is_stopped_and_resumed(tmp_path: Path) -> None:
    async with OpenAIStub() as provider, aiohttp.ClientSession() as http:
        provider.script(Reply(["Once", " upon"], hang=True))
        changes = {"BASE_URL": provider.base_url, "API_KEY": "of-the-test"}
        changes = {
            f"BASE_SERVER__LLMCONFIG__PROVIDERS__OPENAI__{name}": value
            for name, value in changes.items()
        }
        with running_server(tmp_path / "data", **changes) as server:
            client = Client(http, server.base_url)
            await client.sign_in("alice")
            room = (await client.ok("/api/chat/room/create", ai_persona="GPT4O"))["room"]["room_id"]
            headers = {"Authorization": f"Bearer {client.token}"}
            question = {"room_id": room, "content": "tell me a story"}
            stream = f"{server.base_url}/api/chat/message/stream"
            async with http.post(stream, json=question, headers=headers) as answer:
                told = b""
                while b"reply.delta" not in told:
                    told += await answer.content.readany()
                running = await reading_with(http, server.base_url, chat_first_text_seconds_count=1)
                (reply_id,) = re.findall(rb'"message_id":"([^"]+)"\}\n', told)
                reply = {"room_id": room, "message_id": reply_id.decode()}
                await client.ok("/api/chat/message/stop", **reply)
                assert b"reply.stopped" in await answer.read()
            async with http.post(
                stream.replace("stream", "resume"), json=reply, headers=headers
            ) as answer:
                assert b"reply.stopped" in await answer.read()
            stopped = await reading_with(
                http, server.base_url, chat_open_replies=0, streams_open=0, ai_running=0
            )
    assert (
        running.sum("chat_open_replies"),
        running.sum("streams_open"),
        running.sum("ai_running"),
    ) == (1, 1, 1)
    assert stopped.sum("chat_replies_total", finish_reason="stopped") == 1
    assert (stopped.sum("chat_stops_total"), stopped.sum("chat_resumes_total")) == (1, 1)
    assert stopped.sum("ai_replies_total", persona="GPT4O", outcome="cut") == 1


async def test_tasks_are_those_of_the_moment(tmp_path: Path) -> None:
    metrics = Metrics(ServiceContainer(ServiceSettings("m", "LOCAL", tmp_path)).queue)

    async def tasks() -> float:
        return Numbers(metrics.render(ready=False, queues={}).decode()).sum("tasks")

    end = asyncio.Event()
    before = await tasks()
    waiters = [asyncio.create_task(end.wait()) for _ in range(100)]
    assert await tasks() == before + 100
    end.set()
    await asyncio.gather(*waiters)
    assert await tasks() == before


async def test_every_instrument_is_exposed_with_its_text(tmp_path: Path) -> None:
    metrics = Metrics(ServiceContainer(ServiceSettings("m", "LOCAL", tmp_path)).queue)
    exposed = Numbers(metrics.render(ready=False, queues={}).decode()).families
    assert len(declared_instruments()) > 15
    for instrument in declared_instruments():
        family = exposed[f"base_server_{instrument.name}"]
        kind = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}[type(instrument)]
        assert (family.type, family.documentation) == (kind, instrument.text)


def test_histogram_at_a_scrape_counts_as_prometheus_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a histogram counts at a scrape is what Prometheus would have counted."""
    monkeypatch.setattr(instruments, "_declared", {})
    monkeypatch.setattr(metrics_module, "_pending", [])
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    instrument = Histogram("of_a_test", "text", ("kind",), buckets=(0.1, 1, 2.5))
    instrument.sink = metrics_module._sink(instrument, ours)
    metric = PrometheusHistogram(
        "base_server_of_a_test", "text", ("kind",), buckets=(0.1, 1, 2.5), registry=theirs
    )
    for values in [(-1, 0, 0.1, 0.11), (), (1, 2.5, 2.6, 1e9), (0.5,)]:
        for number, value in enumerate(values):
            kind = "odd" if number % 2 else "even"
            instrument.observe(value, kind)
            metric.labels(kind).observe(value)
        for pending in metrics_module._pending:
            pending.flush()
        assert _without_birth(ours) == _without_birth(theirs)


def _without_birth(registry: CollectorRegistry) -> list[str]:
    return [
        line for line in generate_latest(registry).decode().splitlines() if "_created" not in line
    ]


async def test_answers_are_counted_by_error_and_timed_by_protocol(tmp_path: Path) -> None:
    async def handler(client_session: object, request: Request) -> Response:
        raise AssertionError

    metrics = Metrics(ServiceContainer(ServiceSettings("m", "LOCAL", tmp_path)).queue)
    endpoints = [Endpoint(number, "/path", Request, Response, handler) for number in (7001, 7002)]
    for which, error_code, elapsed_s in [(0, 0, 0.002), (0, 0, 0.5), (0, 1002, 4), (1, 0, 0.25)]:
        metrics.observe(endpoints[which], error_code, elapsed_s)
        numbers = Numbers(metrics.render(ready=False, queues={}).decode())
    assert numbers.sum("requests_total", protocol="7001", error_code="0") == 2
    assert numbers.sum("requests_total", protocol="7001", error_code="1002") == 1
    assert numbers.sum("requests_total") == 4
    assert numbers.sum("request_seconds_count", protocol="7001") == 3
    assert numbers.sum("request_seconds_sum", protocol="7001") == 4.502
    assert numbers.sum("request_seconds_bucket", protocol="7001", le="0.5") == 2
    assert numbers.sum("request_seconds_count", protocol="7002") == 1


def test_a_name_is_declared_once() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        Counter("cache_round_trips", "again")


def test_an_instrument_without_a_listener_costs_nothing_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instruments, "_declared", {})
    instrument = Gauge("of_a_test", "not exposed")
    heard: list[tuple[float, tuple[str, ...]]] = []
    instrument.up()
    instrument.sink = lambda amount, labels: heard.append((amount, labels))
    with pytest.raises(KeyError), instrument.track_in_progress():
        raise KeyError
    assert heard == [(1, ()), (-1, ())]
