"""What /readyz says for several workers, from the heartbeats of each."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from application.base_web_server.observability.readiness import Phase, Readiness
from application.base_web_server.workers.heartbeats import SILENT_S, Heartbeats
from base_server.template.base.readiness import Health

OK = ("redis", Health.OK, "")
SHARD_AWAY = ("database:shard1", Health.DEGRADED, "no answer")
STUCK = ("chat_consumer", Health.FAILED, "no progress for 61 s")


@pytest.fixture
def heartbeats(tmp_path: Path) -> Heartbeats:
    return Heartbeats(tmp_path, 2)


def post(
    folder: Path, worker: int, pid: int, phase: Phase, *checks: Any, age_s: float = 0.0
) -> None:
    file = folder / f"{worker}-{pid}.json"
    file.write_text(json.dumps({"phase": phase, "checks": checks}))
    os.utime(file, (0, time.monotonic() - age_s))


def said(heartbeats: Heartbeats) -> tuple[bool, str, list[str], list[str]]:
    ready, body = heartbeats.report(verbose=False)
    return ready, body["status"], body["degraded"], body["failed"]


def test_before_anybody_has_posted_it_is_starting(heartbeats: Heartbeats) -> None:
    assert said(heartbeats) == (False, "starting", [], [])


def test_all_ready(heartbeats: Heartbeats, tmp_path: Path) -> None:
    post(tmp_path, 1, 11, Phase.READY, OK)
    post(tmp_path, 2, 22, Phase.READY, OK)
    assert said(heartbeats) == (True, "ready", [], [])
    assert heartbeats.report(verbose=True)[1]["workers"] == [
        {"worker": 1, "pid": 11, "status": "ready"},
        {"worker": 2, "pid": 22, "status": "ready"},
    ]
    assert heartbeats.processes() == {1: 11, 2: 22}


def test_a_worker_that_is_not_up_degrades(heartbeats: Heartbeats, tmp_path: Path) -> None:
    post(tmp_path, 1, 11, Phase.READY, OK)
    assert said(heartbeats) == (True, "ready", ["workers"], [])
    _, body = heartbeats.report(verbose=True)
    assert {"name": "workers", "health": "degraded", "reason": "1 of 2 workers are not up"} in body[
        "checks"
    ]
    assert body["workers"][1] == {"worker": 2, "status": "not up"}


def test_the_worst_of_each_finding_counts(heartbeats: Heartbeats, tmp_path: Path) -> None:
    post(tmp_path, 1, 11, Phase.READY, OK, SHARD_AWAY)
    post(tmp_path, 2, 22, Phase.READY, OK, ("database:shard1", Health.OK, ""))
    assert said(heartbeats) == (True, "ready", ["database:shard1"], [])
    post(tmp_path, 2, 22, Phase.READY, OK, STUCK)
    assert said(heartbeats) == (False, "not ready", ["database:shard1"], ["chat_consumer"])


def test_a_silent_worker_has_failed(heartbeats: Heartbeats, tmp_path: Path) -> None:
    post(tmp_path, 1, 11, Phase.READY, OK)
    post(tmp_path, 2, 22, Phase.READY, OK, age_s=SILENT_S + 1)
    assert said(heartbeats) == (False, "not ready", [], ["workers"])
    assert "worker 2 is silent for 11 s" in str(heartbeats.report(verbose=True))


def test_a_worker_that_cannot_write_is_not_silent(heartbeats: Heartbeats, tmp_path: Path) -> None:
    post(tmp_path, 1, 11, Phase.READY, OK)
    heartbeats.write(2, Readiness(Phase.READY, ()))
    (mine,) = (heartbeat for heartbeat in heartbeats.all() if heartbeat.worker == 2)
    assert -0.1 < mine.age_s < SILENT_S
    (
        tmp_path / f"2-{os.getpid()}.new"
    ).mkdir()  # as on a full disk: nothing new can be written, what is there stays
    os.utime(tmp_path / f"2-{os.getpid()}.json", (0, time.monotonic() - SILENT_S - 1))
    assert said(heartbeats) == (False, "not ready", [], ["workers"])
    with structlog.testing.capture_logs() as logs:
        heartbeats.write(2, Readiness(Phase.DRAINING, ()))
        heartbeats.write(2, Readiness(Phase.DRAINING, ()))
    assert [entry["event"] for entry in logs] == ["worker board takes nothing"], "said once"
    assert said(heartbeats) == (True, "ready", [], [])
    (still,) = (heartbeat for heartbeat in heartbeats.all() if heartbeat.worker == 2)
    assert still.readiness == mine.readiness


def test_a_worker_that_never_could_write_is_not_up(heartbeats: Heartbeats, tmp_path: Path) -> None:
    post(tmp_path, 1, 11, Phase.READY, OK)
    (tmp_path / f"2-{os.getpid()}.new").mkdir()
    heartbeats.write(2, Readiness(Phase.READY, ()))
    assert said(heartbeats) == (True, "ready", ["workers"], [])


def test_who_is_being_replaced_does_not_speak_for_its_worker(
    heartbeats: Heartbeats, tmp_path: Path
) -> None:
    post(tmp_path, 1, 11, Phase.READY, OK)
    post(tmp_path, 2, 22, Phase.DRAINING, STUCK)
    post(tmp_path, 2, 23, Phase.READY, OK)
    assert said(heartbeats) == (True, "ready", [], [])
    assert heartbeats.processes() == {1: 11, 2: 23}


def test_when_all_drain_the_server_drains(heartbeats: Heartbeats, tmp_path: Path) -> None:
    post(tmp_path, 1, 11, Phase.DRAINING)
    post(tmp_path, 2, 22, Phase.DRAINING)
    assert said(heartbeats) == (False, "draining", [], [])
