"""The machine's clock is set while jobs are planned: intervals go on, the rest goes by the new
time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace

import pytest

from base_server.service.scheduler.base_scheduler import ScheduleJob, ScheduleType
from tests.service.scheduler.scheduler_harness import SchedulerHarness, Work, interval
from tests.waiting import until


class Clock:
    """The machine's clock as APScheduler and the service read it; ``set_by`` moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moved = timedelta(0)
        clock = self

        class Moved(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime.now(tz) + clock.moved

        for module in ("apscheduler.schedulers.base", "base_server.service.scheduler.job_runner"):
            monkeypatch.setattr(f"{module}.datetime", Moved)
        moved_time = SimpleNamespace(
            time=lambda: time.time() + clock.moved.total_seconds(), monotonic=time.monotonic
        )  # Redis keeps the real one, as another machine would
        monkeypatch.setattr("base_server.service.scheduler.scheduler_service.time", moved_time)

    def set_by(self, seconds: float) -> None:
        self.moved += timedelta(seconds=seconds)


@pytest.mark.parametrize("moved_s", [-3600, 3600])
async def test_intervals_go_on_when_the_clock_is_set(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch, moved_s: float
) -> None:
    clock = Clock(monkeypatch)
    service, own, shared = await harness.scheduler(), Work(), Work()
    await service.add_job(interval(own, "own", seconds=0.05))
    await service.add_job(
        interval(shared, "shared", seconds=0.05, use_distributed_lock=True, lock_ttl_s=0.5)
    )
    await until(lambda: own.ended and shared.ended)
    clock.set_by(moved_s)
    own_before, shared_before = own.ended, shared.ended
    await until(lambda: own.ended >= own_before + 5)
    await until(lambda: shared.ended >= shared_before + 5)
    assert own.begun < own_before + 20_000, "missed times are not made up for one by one"


async def test_a_moment_that_the_set_clock_has_passed_comes_at_once(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, service, work = Clock(monkeypatch), await harness.scheduler(), Work()
    await service.add_job(
        ScheduleJob("job", "job", ScheduleType.ONCE, datetime.now(UTC) + timedelta(hours=1), work)
    )
    clock.set_by(3601)
    await until(lambda: work.ended == 1)
    assert work.begun == 1
