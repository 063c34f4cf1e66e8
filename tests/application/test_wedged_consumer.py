"""Readiness looks at the consumer's progress, not at the process: the case of a worker that was
wedged for days.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from application.base_web_server.http.routers.health_router import add_health_routes
from application.base_web_server.observability.health import HealthMonitor
from application.base_web_server.observability.metrics import Metrics
from application.base_web_server.observability.readiness import Phase
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.queue.event_stream import EventStream
from base_server.template.base.template_context import TemplateContext
from base_server.template.chat.persistence import health
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub
from tests.waiting import PATIENCE_S, until

_STUCK_S = 0.3


@pytest.mark.parametrize(
    "others_go_on", [False, True], ids=["all streams", "one stream of several"]
)
async def test_a_consumer_that_is_wedged_while_the_database_answers_is_503(
    valkey_server: RedisServer,
    tmp_path: Path,
    app_id: str,
    monkeypatch: pytest.MonkeyPatch,
    others_go_on: bool,
) -> None:
    monkeypatch.setattr(health, "_STUCK_S", _STUCK_S)
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with (
        OpenAIStub() as provider,
        running_harness(
            valkey_server.settings(), database, app_id, provider, batch_interval_s=0.05
        ) as chat,
        _probe(chat) as client,
    ):
        user, other = await chat.user("wedged"), await chat.user("other")
        release = _wedge(chat, (await chat.template.caller_of(user)).partition)
        room, others = await chat.room(user), await chat.room(other)
        assert (await chat.template.caller_of(other)).partition != (
            await chat.template.caller_of(user)
        ).partition

        async def unready() -> bool:
            if others_go_on:
                await chat.send(other, others.room_id)
            async with client.get("/readyz?verbose") as answer:
                told = await answer.json()
                return answer.status == 503 and told["failed"] == ["chat_consumer"]

        await until(unready, what="503")
        release.set()
        await chat.send(user, room.room_id)

        async def ready() -> bool:
            async with client.get("/readyz") as answer:
                return answer.status == 200

        await until(ready, what="200")


async def test_a_consumer_that_waits_for_its_database_is_degraded_only(
    valkey_server: RedisServer, tmp_path: Path, app_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_STUCK_S", 0.0)
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with (
        OpenAIStub() as provider,
        running_harness(valkey_server.settings(), database, app_id, provider) as chat,
    ):

        async def away(*_: object) -> None:
            raise ServiceUnavailable("database", "away")

        await chat.room(await chat.user())
        monkeypatch.setattr(chat.container.database, "ping_shard", away)
        async with _probe(chat) as client, client.get("/readyz") as answer:
            assert answer.status == 200
            assert "chat_consumer" in (await answer.json())["degraded"]


def _wedge(chat: ChatHarness, partition: int) -> asyncio.Event:
    """Let the writer hang in one partition's streams until the event is set."""
    writer, release = chat.template.parts.consumer.writer, asyncio.Event()
    write = writer.write

    async def hang(stream: EventStream, entries: object) -> bool:
        if stream.partition == partition:
            await release.wait()
        return await write(stream, entries)  # type: ignore[arg-type]

    writer.write = hang  # type: ignore[method-assign]
    return release


def _probe(chat: ChatHarness) -> TestClient[web.Request, web.Application]:
    context = TemplateContext()
    context.add_template("chat", chat.template)
    health = HealthMonitor(chat.container, context)
    health.phase = Phase.READY
    app = web.Application()
    add_health_routes(app, health, Metrics(chat.container.queue))
    return TestClient(TestServer(app))
