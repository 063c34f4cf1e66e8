"""SchedulerService: jobs by the clock on APScheduler, intervals of one process by the loop's
clock."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from base_server.service.core.errors import ServiceError
from base_server.service.core.facade import Facade, facade
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_holder import LockHolder
from base_server.service.lock.lock_service import LockService
from base_server.service.scheduler.base_scheduler import JobStatus, ScheduleJob, ScheduleType
from base_server.service.scheduler.interval_timer import IntervalTimer
from base_server.service.scheduler.job_runner import JobRunner
from base_server.service.scheduler.scheduler_settings import SchedulerSettings
from base_server.service.scheduler.triggers import interval_s, make_trigger

_CLOCK_CHECK_S = 1.0
_CLOCK_SET_S = 0.5
"""The machine's clock was set when it moved by so much against the loop's; NTP slews it by less."""


class SchedulerService(Facade):
    """Runs :class:`ScheduleJob`s of this process. Jobs added before :meth:`start` run from then on.

    A job that fails is logged and counted and runs again at its next time. A time missed because
    the loop was blocked is made up for once, not once for each. Jobs are not stored: add them at
    every start.
    """

    def __init__(
        self, settings: SchedulerSettings, locks: LockService, tasks: TaskRegistry
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._locks = LockHolder(locks, tasks)
        self._clock: AsyncIOScheduler | None = None
        self._watch: IntervalTimer | None = None
        self._wall_ahead_s = 0.0
        self._timers: dict[str, IntervalTimer] = {}
        self._runners: dict[str, JobRunner] = {}

    async def start(self) -> None:
        self._clock = AsyncIOScheduler(
            timezone=UTC,
            executors={"default": _LoopExecutor()},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._clock.start()
        self._wall_ahead_s = time.time() - time.monotonic()
        self._watch = IntervalTimer(_CLOCK_CHECK_S, self._check_clock)
        for runner in self._runners.values():
            self._schedule(runner.job)

    async def stop(self, timeout_s: float | None = None) -> int:
        """No new runs; runs under way get ``timeout_s`` (default drain_timeout_s), then they are
        cancelled and awaited. Returns how many had to be cancelled. All jobs are forgotten."""
        if self._clock is None:
            return 0
        self._clock.pause()
        for timer in (self._watch, *self._timers.values()):
            if timer is not None:
                timer.stop()
        self._timers.clear()
        runners, self._runners = list(self._runners.values()), {}
        limit_s = self._settings.drain_timeout_s if timeout_s is None else timeout_s
        ends = [asyncio.ensure_future(runner.quiet()) for runner in runners]
        if ends:
            await asyncio.wait(ends, timeout=limit_s)
        cancelled = [runner.job.job_id for runner in runners if runner.cancel()]
        await asyncio.gather(*ends)
        if cancelled:
            Logger.warn("scheduled jobs were cancelled at stop", jobs=cancelled)
        self._clock.shutdown()
        self._clock = None
        await asyncio.sleep(0)  # APScheduler removes its timer in the next loop iteration
        return len(cancelled)

    @facade
    async def add_job(self, job: ScheduleJob) -> None:
        """Take ``job``. Raises ValueError for a schedule that is not valid, ServiceError when its
        id is taken or ``max_jobs`` are known (those that are done, ONCE and past, make room)."""
        make_trigger(job)
        if job.job_id in self._runners:
            raise ServiceError(
                f"scheduler: a job with the id {job.job_id} is there already; remove it first"
            )
        if len(self._runners) >= self._settings.max_jobs:
            self._runners = {
                job_id: runner for job_id, runner in self._runners.items() if not runner.is_done
            }
        if len(self._runners) >= self._settings.max_jobs:
            raise ServiceError(
                f"scheduler: schedulerConfig.max_jobs ({self._settings.max_jobs}) jobs are known"
            )
        self._runners[job.job_id] = JobRunner(
            job, self._locks, self._tasks, lambda: self._next_run(job.job_id)
        )
        if self._clock is not None:
            self._schedule(job)

    @facade
    async def remove_job(self, job_id: str) -> bool:
        """Forget a job; false if it is not known. Waits for a run under way (unless it is that run
        that asks): afterwards the callback does not run any more."""
        runner = self._runners.pop(job_id, None)
        if runner is None:
            return False
        if (timer := self._timers.pop(job_id, None)) is not None:
            timer.stop()
        elif self._clock is not None and self._clock.get_job(job_id) is not None:
            self._clock.remove_job(job_id)
        await runner.quiet()
        return True

    @facade
    async def get_job_status(self, job_id: str) -> JobStatus | None:
        """The job's figures in this process, None for an unknown id."""
        runner = self._runners.get(job_id)
        return runner.status() if runner else None

    @facade
    async def trigger(self, job_id: str) -> bool:
        """Start a run now, without waiting for it; a run begins after this call even when one is
        under way. False if the job is not known or the scheduler does not run."""
        runner = self._runners.get(job_id)
        if runner is None or self._clock is None:
            return False
        runner.trigger()
        return True

    def job_ids(self) -> list[str]:
        return list(self._runners)

    def _schedule(self, job: ScheduleJob) -> None:
        if self._clock is None or not job.enabled:
            return
        runner = self._runners[job.job_id]
        if job.schedule_type == ScheduleType.INTERVAL and not job.use_distributed_lock:
            self._timers[job.job_id] = IntervalTimer(interval_s(job), runner.fire)
        else:
            self._clock.add_job(runner.fire, make_trigger(job), id=job.job_id, name=job.name)
        if job.run_at_start:
            runner.trigger()

    def _next_run(self, job_id: str) -> datetime | None:
        if (timer := self._timers.get(job_id)) is not None:
            return timer.next_run
        job = self._clock.get_job(job_id) if self._clock else None
        return job.next_run_time if job else None

    def _check_clock(self) -> None:
        """APScheduler plans by the machine's clock and sleeps by the loop's: wake it up when the
        two diverge."""
        moved_s = time.time() - time.monotonic() - self._wall_ahead_s
        if self._clock is None or abs(moved_s) < _CLOCK_SET_S:
            return
        self._wall_ahead_s += moved_s
        Logger.warn(
            "the machine's clock was set; jobs by the clock are planned anew",
            moved_s=round(moved_s, 1),
        )
        if moved_s < 0:
            for job in self._clock.get_jobs():
                job.reschedule(job.trigger)
        self._clock.wakeup()


class _LoopExecutor(BaseExecutor):  # type: ignore[misc]
    """Calls ``fire`` right here: it only starts a task. APScheduler's own executor would put it in
    a thread, and would cancel coroutine jobs at shutdown."""

    def _do_submit_job(self, job, run_times):  # type: ignore[no-untyped-def]
        job.func()
        # Later, because the caller counts this instance only after we return.
        asyncio.get_running_loop().call_soon(self._run_job_success, job.id, [])
