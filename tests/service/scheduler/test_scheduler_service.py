"""SchedulerService: jobs by the clock, failures, locks, and a stop that waits."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from base_server.service.core import outage_log
from base_server.service.core.errors import ServiceError, ServiceNotRunning, ServiceUnavailable
from base_server.service.lock.lock_holder import LockHolder
from base_server.service.scheduler.base_scheduler import ScheduleJob, ScheduleType
from base_server.service.scheduler.job_runner import JobRunner
from base_server.service.scheduler.scheduler_service import SchedulerService
from base_server.service.scheduler.scheduler_settings import SchedulerSettings
from tests.service.scheduler.scheduler_harness import SchedulerHarness, Work, interval
from tests.waiting import until


async def test_an_interval_job_runs_again_and_again(harness: SchedulerHarness) -> None:
    service, work = await harness.scheduler(), Work()
    await service.add_job(interval(work))
    await until(lambda: _has_run(service, "job", 3))
    assert work.ended >= 3
    status = await service.get_job_status("job")
    assert status is not None
    assert (status.failures, status.last_error) == (0, None)
    assert status.last_run is not None
    assert status.next_run is not None
    assert status.next_run > status.last_run


async def test_a_job_added_before_the_start_runs_from_the_start_on(
    harness: SchedulerHarness,
) -> None:
    service, work = SchedulerService(SchedulerSettings(), harness.locks, harness.tasks), Work()
    harness.started.append(service)
    await service.add_job(interval(work, seconds=3600, run_at_start=True))
    assert work.begun == 0
    await service.start()
    await until(lambda: work.ended == 1)


async def test_a_failing_job_is_counted_and_runs_again(harness: SchedulerHarness) -> None:
    service, work = await harness.scheduler(), Work()
    work.error = RuntimeError("no luck")
    await service.add_job(interval(work))
    await until(lambda: work.begun >= 2)
    status = await service.get_job_status("job")
    assert status is not None
    assert status.failures >= 1
    assert status.last_error == "RuntimeError: no luck"
    work.error = None
    await until(lambda: work.ended >= 1)


async def test_an_outage_is_said_once_and_its_end_once(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cases/faults.md U2: not a stack trace at every run."""
    service, work = await harness.scheduler(), Work()
    work.error = ServiceUnavailable("cache", "no connection")
    with structlog.testing.capture_logs() as logs:
        await service.add_job(interval(work))
        await until(lambda: work.begun >= 4)
        monkeypatch.setattr(outage_log, "INTERVAL_S", 0.0)
        said = len(logs)
        await until(lambda: len(logs) > said)
        monkeypatch.undo()
        work.error = None
        await until(lambda: work.ended >= 2)
        work.error = RuntimeError("no luck")
        await until(lambda: any("exc_info" in line for line in logs))
    assert said == 1
    assert (logs[0]["log_level"], logs[0]["reason"]) == ("warning", "cache: no connection")
    assert [line["event"] for line in logs].count("a scheduled job works again") == 1
    waits = [line for line in logs if line["event"] == "a scheduled job waits for a service"]
    assert not any("exc_info" in line for line in waits)


async def test_runs_of_one_job_never_overlap(harness: SchedulerHarness) -> None:
    service, work = await harness.scheduler(), Work()
    work.gate.clear()
    await service.add_job(interval(work))

    async def skipped() -> bool:
        status = await service.get_job_status("job")
        return status is not None and status.running and status.skipped >= 2

    await until(skipped)
    assert work.begun == 1
    work.gate.set()
    await until(lambda: work.ended >= 2)
    assert work.most_at_once == 1


async def test_a_trigger_during_a_run_makes_exactly_one_more(harness: SchedulerHarness) -> None:
    service, work = await harness.scheduler(), Work()
    await service.add_job(interval(work, seconds=3600))
    work.gate.clear()
    assert await service.trigger("job")
    await until(lambda: work.begun == 1)
    assert await service.trigger("job")
    assert await service.trigger("job")
    work.gate.set()
    await until(lambda: work.ended == 2)
    await service.stop()
    assert work.begun == 2


async def test_a_trigger_of_an_unknown_job_says_so(harness: SchedulerHarness) -> None:
    assert not await (await harness.scheduler()).trigger("nobody")


async def test_a_plain_function_runs_in_a_thread(harness: SchedulerHarness) -> None:
    service, names = await harness.scheduler(), []
    await service.add_job(
        interval(lambda: names.append(threading.current_thread()), run_at_start=True)
    )
    await until(lambda: len(names) >= 2)
    assert threading.main_thread() not in names


async def test_once_runs_once_also_when_its_time_is_gone(harness: SchedulerHarness) -> None:
    service, past, soon = await harness.scheduler(), Work(), Work()
    moment = datetime.now(UTC) - timedelta(hours=1)
    await service.add_job(ScheduleJob("past", "past", ScheduleType.ONCE, moment.isoformat(), past))
    moment = datetime.now(UTC) + timedelta(milliseconds=30)
    await service.add_job(ScheduleJob("soon", "soon", ScheduleType.ONCE, moment, soon))
    await until(lambda: past.ended and soon.ended)
    await until(lambda: _has_run(service, "past", 1))
    status = await service.get_job_status("past")
    assert status is not None
    assert (status.runs, status.next_run) == (1, None)


@pytest.mark.parametrize(
    ("kind", "value", "at"),
    [(ScheduleType.CRON, "30 4 * * *", (4, 30, 0)), (ScheduleType.DAILY, "04:30:05", (4, 30, 5))],
    ids=["cron", "daily"],
)
async def test_the_next_run_by_the_clock_is_in_utc(
    harness: SchedulerHarness, kind: ScheduleType, value: str, at: tuple[int, int, int]
) -> None:
    service = await harness.scheduler()
    await service.add_job(ScheduleJob("job", "job", kind, value, Work()))
    status = await service.get_job_status("job")
    assert status is not None
    assert status.next_run is not None
    next_run = status.next_run
    assert (next_run.hour, next_run.minute, next_run.second) == at
    assert next_run.utcoffset() == timedelta(0)
    assert datetime.now(UTC) < next_run <= datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ScheduleType.INTERVAL, 0),
        (ScheduleType.INTERVAL, True),
        (ScheduleType.INTERVAL, float("nan")),
        (ScheduleType.INTERVAL, float("inf")),
        (ScheduleType.INTERVAL, "3"),
        (ScheduleType.CRON, "whenever"),
        (ScheduleType.CRON, 5),
        (ScheduleType.ONCE, "2026-01-01T00:00:00"),
        (ScheduleType.ONCE, 17),
        (ScheduleType.DAILY, "25:00"),
        (ScheduleType.DAILY, "04:00+09:00"),
        ("hourly", 1),
    ],
)
async def test_a_schedule_that_is_not_valid_is_refused(
    harness: SchedulerHarness, kind: ScheduleType, value: object
) -> None:
    service = await harness.scheduler()
    with pytest.raises(ValueError, match="job x: schedule_value"):
        await service.add_job(ScheduleJob("x", "x", kind, value, Work()))  # type: ignore[arg-type]
    assert service.job_ids() == []


async def test_an_interval_makes_up_once_for_a_blocked_loop(
    harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, work = await harness.scheduler(), Work()
    await service.add_job(interval(work, seconds=3600))
    loop = asyncio.get_running_loop()
    now, blocked_s = loop.time, 5.5 * 3600
    monkeypatch.setattr(loop, "time", lambda: now() + blocked_s)
    await until(lambda: work.ended == 1)
    await asyncio.sleep(0.01)
    assert work.begun == 1


async def test_a_disabled_job_runs_only_when_triggered(harness: SchedulerHarness) -> None:
    service, work = await harness.scheduler(), Work()
    await service.add_job(interval(work, enabled=False, run_at_start=True))
    status = await service.get_job_status("job")
    assert status is not None
    assert status.next_run is None
    await service.trigger("job")
    await until(lambda: work.ended == 1)


async def test_a_taken_id_is_refused(harness: SchedulerHarness) -> None:
    service = await harness.scheduler()
    await service.add_job(interval(Work()))
    with pytest.raises(ServiceError, match="is there already"):
        await service.add_job(interval(Work()))


async def test_jobs_are_bounded_and_done_ones_make_room(harness: SchedulerHarness) -> None:
    service, work = await harness.scheduler(max_jobs=2), Work()
    await service.add_job(interval(Work(), "a", 3600))
    await service.add_job(ScheduleJob("b", "b", ScheduleType.ONCE, datetime.now(UTC), work))
    await until(lambda: _has_run(service, "b", 1))
    await service.add_job(interval(Work(), "c", 3600))
    with pytest.raises(ServiceError, match="max_jobs"):
        await service.add_job(interval(Work(), "d", 3600))
    assert service.job_ids() == ["a", "c"]


async def test_remove_waits_for_the_run_under_way(harness: SchedulerHarness) -> None:
    service, work = await harness.scheduler(), Work()
    work.gate.clear()
    await service.add_job(interval(work))
    await until(lambda: work.begun == 1)
    removal = asyncio.create_task(service.remove_job("job"))
    await until(lambda: service.job_ids() == [])
    assert not removal.done()
    work.gate.set()
    assert await removal
    assert (work.begun, work.ended) == (1, 1)
    assert await service.get_job_status("job") is None
    assert not await service.remove_job("job")


async def test_a_job_can_remove_itself(harness: SchedulerHarness) -> None:
    service, removed = await harness.scheduler(), []

    async def work() -> None:
        removed.append(await service.remove_job("job"))

    await service.add_job(interval(work))
    await until(lambda: removed == [True])
    assert service.job_ids() == []


async def test_stop_waits_for_runs_under_way(harness: SchedulerHarness) -> None:
    service, work = await harness.scheduler(), Work()
    work.gate.clear()
    await service.add_job(interval(work))
    await until(lambda: work.begun == 1)
    stopping = asyncio.create_task(service.stop())
    await asyncio.wait({stopping}, timeout=0.05)
    assert not stopping.done()
    work.gate.set()
    assert await stopping == 0
    assert (work.begun, work.ended) == (1, 1)


async def test_stop_cancels_what_does_not_end_and_gives_its_lock_back(
    harness: SchedulerHarness,
) -> None:
    service, work = await harness.scheduler(drain_timeout_s=0.05), Work()
    work.gate.clear()
    await service.add_job(interval(work, use_distributed_lock=True))
    await until(lambda: work.begun == 1)
    assert await harness.locks.acquire("scheduler:job", 5, 0) is None
    assert await service.stop() == 1
    assert (work.at_once, work.ended) == (0, 0)
    assert await harness.locks.acquire("scheduler:job", 5, 0) is not None


async def test_each_occurrence_of_a_locked_job_is_run_by_one_process(
    harness: SchedulerHarness,
) -> None:
    first, second, work = await harness.scheduler(), await harness.scheduler(), Work()
    started = datetime.now(UTC)
    for service in (first, second):
        await service.add_job(interval(work, seconds=0.2, use_distributed_lock=True))
    await until(lambda: work.ended >= 4)
    elapsed_s = (datetime.now(UTC) - started).total_seconds()
    assert work.ended <= elapsed_s / 0.2 + 1
    assert work.most_at_once == 1


async def test_locked_intervals_fire_at_the_same_instants_in_every_process(
    harness: SchedulerHarness,
) -> None:
    moments = []
    for service in (await harness.scheduler(), await harness.scheduler()):
        await service.add_job(interval(Work(), seconds=3600, use_distributed_lock=True))
        status = await service.get_job_status("job")
        assert status is not None
        assert status.next_run is not None
        moments.append(status.next_run.timestamp())
    assert moments[0] == moments[1]
    assert moments[0] % 3600 == 0


async def test_a_clock_that_is_late_does_not_run_an_occurrence_again(
    harness: SchedulerHarness,
) -> None:
    next_run = datetime.now(UTC) + timedelta(seconds=60)
    work = Work()
    job = interval(work, use_distributed_lock=True)
    early, late = (
        JobRunner(job, LockHolder(harness.locks, harness.tasks), harness.tasks, lambda: next_run)
        for _ in "ab"
    )
    early.fire()
    await until(lambda: not early.status().running)
    late.fire()
    await until(lambda: not late.status().running)
    assert (early.status().runs, late.status().runs, late.status().skipped) == (1, 0, 1)


async def test_a_triggered_run_gives_its_lock_back_at_once(harness: SchedulerHarness) -> None:
    service, work = await harness.scheduler(), Work()
    await service.add_job(interval(work, seconds=3600, use_distributed_lock=True))
    for runs in (1, 2):
        await service.trigger("job")
        await until(lambda runs=runs: work.ended == runs)


async def test_a_locked_job_skips_while_another_process_holds_the_lock(
    harness: SchedulerHarness,
) -> None:
    service, work = await harness.scheduler(), Work()
    token = await harness.locks.acquire("shared", 5, 0)
    assert token is not None
    await service.add_job(interval(work, use_distributed_lock=True, lock_key="shared"))

    async def skipped() -> bool:
        status = await service.get_job_status("job")
        return status is not None and status.skipped >= 2

    await until(skipped)
    assert work.begun == 0
    await harness.locks.release("shared", token)
    await until(lambda: work.ended >= 1)


async def test_an_outage_of_redis_is_a_counted_failure_of_a_locked_job(
    harness: SchedulerHarness,
) -> None:
    service, work = await harness.scheduler(), Work()
    await harness.cache.stop()
    await service.add_job(interval(work, use_distributed_lock=True))

    async def failed() -> bool:
        status = await service.get_job_status("job")
        return status is not None and status.failures >= 2

    await until(failed)
    assert work.begun == 0


async def test_the_class_speaks_to_the_installed_service(harness: SchedulerHarness) -> None:
    with pytest.raises(ServiceNotRunning):
        await SchedulerService.add_job(interval(Work()))
    service, work = await harness.scheduler(), Work()
    service.install()
    try:
        await SchedulerService.add_job(interval(work))
        await until(lambda: work.ended >= 1)
        assert (await SchedulerService.get_job_status("job")) is not None
        assert await SchedulerService.remove_job("job")
    finally:
        service.uninstall()


async def _has_run(service: SchedulerService, job_id: str, times: int) -> bool:
    status = await service.get_job_status(job_id)
    return status is not None and status.runs >= times and not status.running
