"""The server reports its durability, and reports it again when a setting was changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from application.base_web_server.observability.durability_watch import DurabilityWatch
from application.base_web_server.observability.health import HealthMonitor
from application.base_web_server.observability.readiness import Phase
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.cache.server_facts import judge as judge_redis
from base_server.service.core.durability import Durability
from base_server.service.db.durability import judge as judge_database
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.base.readiness import Health
from base_server.template.base.template_context import TemplateContext
from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.waiting import until

GOOD = {
    "version": "redis 7",
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory_policy": "noeviction",
    "replicas": "0",
}


@pytest.mark.parametrize(
    ("changes", "safe", "words"),
    [
        ({}, True, "survives a killed Redis and a power cut"),
        ({"appendfsync": "everysec"}, True, "last two seconds"),
        ({"appendfsync": "no"}, True, "half a minute"),
        ({"appendonly": "no"}, False, "lost when it dies"),
        ({"maxmemory_policy": "allkeys-lru"}, False, "drops data"),
        ({"appendonly": "unknown"}, False, "does not report"),
        ({"replicas": "2"}, True, "failover loses what its 2 replicas"),
    ],
)
def test_redis_settings_in_a_sentence(changes: dict[str, str], safe: bool, words: str) -> None:
    durability = judge_redis(GOOD | changes)
    assert durability.safe is safe
    assert words in durability.sentence


@pytest.mark.parametrize(
    ("settings", "safe", "words"),
    [
        ({"innodb_flush_log_at_trx_commit": "1"}, True, "killed server and a power cut"),
        ({"innodb_flush_log_at_trx_commit": "2"}, True, "a power cut loses up to a second"),
        ({"innodb_flush_log_at_trx_commit": "0"}, False, "a killed server loses up to a second"),
        (
            {"innodb_flush_log_at_trx_commit": "1", "log_bin": "1", "sync_binlog": "0"},
            True,
            "binary log",
        ),
        ({"synchronous": "2"}, True, "on the disk"),
        ({"synchronous": "1"}, False, "may lose commits"),
        ({}, False, "does not report"),
    ],
)
def test_database_settings_in_a_sentence(settings: dict[str, str], safe: bool, words: str) -> None:
    durability = judge_database("database:shard1", settings)
    assert durability.safe is safe
    assert words in durability.sentence


async def test_a_setting_changed_at_run_time_is_seen_logged_and_told(
    private_server: RedisServer,
    database_backend: DatabaseBackend,
    capsys: pytest.CaptureFixture[str],
    app_id: str,
) -> None:
    container = _container(private_server.settings(), database_backend, app_id)
    await container.start()
    watch = DurabilityWatch(container, interval_s=0.05)
    health = HealthMonitor(container, TemplateContext(), watch)
    health.phase = Phase.READY
    try:
        await watch.start()
        readiness = await health.readiness()
        assert readiness.names(Health.DEGRADED) == []
        told = {
            check["name"]: check["reason"] for check in readiness.to_json(verbose=True)["checks"]
        }
        assert "survives a killed Redis and a power cut" in told["durability:redis"]
        assert told["durability:database:shard1"]
        capsys.readouterr()
        await container.cache.get_client().execute("CONFIG", "SET", "appendonly", "no")
        await until(lambda: not _redis(watch).safe, what="the change is seen")
        health._last = None
        readiness = await health.readiness()
        assert readiness.ready
        assert readiness.names(Health.DEGRADED) == ["durability:redis"]
        await container.cache.get_client().execute("CONFIG", "SET", "appendonly", "yes")
        await until(lambda: _redis(watch).safe, what="and when it is changed back")
        said = [
            line
            for line in capsys.readouterr().out.splitlines()
            if "what an acknowledgement is worth" in line
        ]
        assert len(said) == 2
        assert "lost when it dies" in said[0]
        private_server.kill()
        await watch._look()
        assert _redis(watch).safe
        private_server.start()
    finally:
        await watch.stop()
        await container.stop()


def _redis(watch: DurabilityWatch) -> Durability:
    return next(found for found in watch.findings if found.server == "redis")


def _container(cache: CacheSettings, database: DatabaseBackend, app_id: str) -> ServiceContainer:
    return ServiceContainer(
        ServiceSettings(
            app_id, "LOCAL", Path(database.data_dir), cache=cache, database=database.settings,
            llm=LlmSettings(demo_without_key=True),
        )
    )  # fmt: skip
