"""A worker goes on saying that it is there, whatever else it cannot write."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
import structlog

from application.base_web_server.observability.health import HealthMonitor
from application.base_web_server.observability.readiness import Phase, Readiness
from application.base_web_server.workers import context as worker_context
from application.base_web_server.workers.context import WorkerContext
from application.base_web_server.workers.heartbeats import Heartbeats
from base_server.service.core.tasks import TaskRegistry
from tests.waiting import PATIENCE_S, until


class CountedHealth:
    def __init__(self) -> None:
        self.asked = 0

    async def readiness(self) -> Readiness:
        self.asked += 1
        return Readiness(Phase.READY, [])


async def test_counts_that_cannot_be_written_do_not_silence_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_context, "HEARTBEAT_INTERVAL_S", 0.01)
    health, tasks = CountedHealth(), TaskRegistry()

    def on_a_full_disk() -> None:
        raise OSError(28, "No space left on device")

    worker = WorkerContext(1, {}, Heartbeats(tmp_path, 1))
    with structlog.testing.capture_logs() as logs:
        async with (
            asyncio.timeout(PATIENCE_S),
            worker.beating(cast(HealthMonitor, health), tasks, on_a_full_disk),
        ):
            await until(lambda: health.asked > 5)
            assert worker.heartbeats.report(verbose=False)[0]
    assert [entry["event"] for entry in logs] == ["metrics are not written"]
    assert not list(tmp_path.iterdir()), "it says nothing when it has ended"
