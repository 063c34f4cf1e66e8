"""What makes a process not ready, and what only degrades it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from application.base_web_server.http.routers.health_router import add_health_routes
from application.base_web_server.observability import health, metrics
from application.base_web_server.observability.health import HealthMonitor
from application.base_web_server.observability.metrics import Metrics
from application.base_web_server.observability.readiness import Phase
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import ServiceUnavailable, StartError
from base_server.service.db.database_service import DatabaseService
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.queue.queue_settings import QueueSettings
from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.readiness import Health, ReadinessCheck
from base_server.template.base.template_context import TemplateContext
from tests.backends_redis import RedisServer


def make_container(data_dir: Path, cache: CacheSettings, partitions: int = 16) -> ServiceContainer:
    return ServiceContainer(
        ServiceSettings(
            "app", "LOCAL", data_dir, cache=cache,
            queue=QueueSettings(partitions=partitions), llm=LlmSettings(demo_without_key=True),
        )
    )  # fmt: skip


@pytest.fixture
async def container(tmp_path: Path) -> AsyncIterator[ServiceContainer]:
    running = make_container(tmp_path, CacheSettings())
    await running.start()
    yield running
    await running.stop()


@pytest.mark.parametrize(
    ("settings", "ready", "degraded"),
    [
        ({"maxmemory": "1"}, True, ["redis"]),
        ({"min-replicas-to-write": "1"}, False, []),
        ({"replicaof": "127.0.0.1 1"}, False, []),
    ],
    ids=["full", "takes no writes", "a replica"],
)
async def test_redis_that_refuses_writes(
    private_server: RedisServer,
    tmp_path: Path,
    settings: dict[str, str],
    ready: bool,
    degraded: list[str],
) -> None:
    """cases/providers.md V14: 503 when nothing can be written, degraded while what is there can be
    drained.
    """
    running = make_container(tmp_path, private_server.settings())
    await running.start()
    try:
        client = running.cache.get_client()
        assert (await monitor(running).readiness()).names(Health.OK).count("redis") == 1
        for name, value in settings.items():
            if name == "replicaof":
                await client.execute("REPLICAOF", *value.split())
            else:
                await client.execute("CONFIG", "SET", name, value)
        readiness = await monitor(running).readiness()
        assert (readiness.ready, readiness.names(Health.DEGRADED)) == (ready, degraded)
        await client.execute("CONFIG", "SET", "maxmemory", "0")
    finally:
        await running.stop()


class Moody(BaseTemplate):
    def __init__(self, *checks: ReadinessCheck, error: Exception | None = None) -> None:
        self.checks, self.error, self.asked = checks, error, 0

    async def readiness(self) -> Sequence[ReadinessCheck]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.checks


def monitor(container: ServiceContainer, *templates: BaseTemplate) -> HealthMonitor:
    context = TemplateContext()
    for number, template in enumerate(templates):
        context.add_template(f"template{number}", template)
    health = HealthMonitor(container, context)
    health.phase = Phase.READY
    return health


async def test_before_and_after_it_serves_it_is_not_ready(container: ServiceContainer) -> None:
    health = monitor(container)
    assert (await health.readiness()).ready
    for phase in (Phase.STARTING, Phase.DRAINING):
        health.phase = phase
        readiness = await health.readiness()
        assert not readiness.ready
        assert readiness.to_json(verbose=False)["status"] == phase


async def test_a_template_can_fail_or_degrade_the_server(container: ServiceContainer) -> None:
    degraded = await monitor(
        container, Moody(ReadinessCheck("mood", Health.DEGRADED, "grey"))
    ).readiness()
    assert (degraded.ready, degraded.to_json(verbose=False)["degraded"]) == (True, ["mood"])
    failed = await monitor(
        container, Moody(ReadinessCheck("consumer", Health.FAILED, "stands still"))
    ).readiness()
    assert (failed.ready, failed.to_json(verbose=False)["failed"]) == (False, ["consumer"])
    assert {"name": "consumer", "health": "failed", "reason": "stands still"} in failed.to_json(
        verbose=True
    )["checks"]


async def test_a_check_that_breaks_is_a_finding_like_another(container: ServiceContainer) -> None:
    readiness = await monitor(container, Moody(error=KeyError("ours"))).readiness()
    assert not readiness.ready
    assert "KeyError" in str(readiness.to_json(verbose=True))


async def test_a_database_away_degrades(
    container: ServiceContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise ServiceUnavailable("database", "connection refused")

    monkeypatch.setattr(DatabaseService, "ping_shard", away)
    readiness = await monitor(container).readiness()
    assert readiness.ready
    assert readiness.names(Health.DEGRADED) == ["database:shard1", "database:shard2"]


async def test_redis_away_fails_and_comes_back(tmp_path: Path, private_server: RedisServer) -> None:
    container = make_container(tmp_path, private_server.settings())
    await container.start()
    try:
        assert (await monitor(container).readiness()).ready
        private_server.kill()
        health = monitor(container)
        assert (await health.readiness()).names(Health.FAILED) == ["redis"]
        assert b"base_server_ready 0.0" in Metrics(container.queue).render(ready=False, queues={})
        said = Metrics(container.queue).render(
            ready=True, queues={}, degraded=["chat_older_shards"]
        )
        assert b'base_server_degraded{check="chat_older_shards"} 1.0' in said
        private_server.start()
        assert (await monitor(container).readiness()).ready
    finally:
        await container.stop()


async def test_health_routes_answer_while_redis_hangs(
    tmp_path: Path, private_server: RedisServer
) -> None:
    """cases/faults.md U4: /metrics took 22 s, longer than a scrape waits; here a call to Redis may
    take 60 s.
    """
    container = make_container(tmp_path, private_server.settings(timeout_s=60.0))
    await container.start()
    try:
        # Queues are only counted once something was sent to them; each one is a call of its own.
        for number in range(3):
            await container.queue.send_message(f"queue{number}", {}, "note")
        app = web.Application()
        add_health_routes(app, monitor(container), Metrics(container.queue))
        async with TestClient(TestServer(app)) as http, asyncio.timeout(30):
            before = await (await http.get("/metrics")).text()
            assert 'base_server_source_up{source="redis"} 1.0' in before
            assert 'base_server_queue_waiting{queue="queue0"} 1.0' in before
            os.kill(private_server.pid, signal.SIGSTOP)
            for _ in range(2):
                numbers = await (await http.get("/metrics")).text()
                assert 'base_server_source_up{source="redis"} 0.0' in numbers
                assert "base_server_queue_waiting{" not in numbers
            answer = await http.get("/readyz")
            assert (answer.status, (await answer.json())["failed"]) == (503, ["redis"])
            os.kill(private_server.pid, signal.SIGCONT)
            while (
                'base_server_source_up{source="redis"} 0.0'
                in await (await http.get("/metrics")).text()
            ):
                await asyncio.sleep(0.1)
    finally:
        os.kill(private_server.pid, signal.SIGCONT)
        await container.stop()


async def test_a_database_that_hangs_degrades_and_is_named(
    container: ServiceContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cases/faults.md U4, of a database: its check ends in time, and the others' findings stay."""

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(DatabaseService, "ping_global", hang)
    async with asyncio.timeout(30):
        readiness = await monitor(container).readiness()
    assert readiness.ready
    assert readiness.names(Health.DEGRADED) == ["database:global"]


def test_no_source_is_waited_for_as_long_as_a_scrape_may_take() -> None:
    """cases/faults.md U4: under 2 s. Sources are read at the same time."""
    assert max(health.CHECK_TIMEOUT_S, metrics.SOURCE_TIMEOUT_S) < 2.0


async def test_many_askers_are_one_look(container: ServiceContainer) -> None:
    template = Moody(ReadinessCheck("mood", Health.OK))
    health = monitor(container, template)
    await asyncio.gather(*(health.readiness() for _ in range(20)))
    await health.readiness()
    assert template.asked == 1


async def test_the_containers_names_work_while_it_runs_and_not_after(tmp_path: Path) -> None:
    assert not any(ServiceContainer.get_service_status().values())
    container = make_container(tmp_path, CacheSettings())
    assert not ServiceContainer.is_cache_service_initialized()
    await container.start()
    assert all(ServiceContainer.get_service_status().values())
    assert ServiceContainer.get_cache_service() is container.cache
    assert ServiceContainer.get_lock_service() is container.locks
    assert ServiceContainer.get_database_service() is container.database
    assert ServiceContainer.get_queue_service() is container.queue
    assert ServiceContainer.get_scheduler_service() is container.scheduler
    assert ServiceContainer.get_ai_chat_service() is container.ai
    await container.stop()
    await container.stop()
    assert not any(ServiceContainer.get_service_status().values())


async def test_another_partition_count_than_the_database_knows_stops_the_start(
    tmp_path: Path,
) -> None:
    first = make_container(tmp_path, CacheSettings())
    await first.start()
    await first.stop()
    second = make_container(tmp_path, CacheSettings(), partitions=8)
    with pytest.raises(StartError, match="16"):
        await second.start()
    assert not any(ServiceContainer.get_service_status().values())
