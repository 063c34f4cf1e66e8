"""One job's runs in this process: never two at once, each in a tracked task, each counted."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import UTC, datetime

from base_server.service.core.errors import ServiceError, ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.outage_log import OutageLog
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_holder import AcquiredLock, LockHolder
from base_server.service.scheduler.base_scheduler import JobStatus, ScheduleJob


class JobRunner:
    """Starts runs of ``job`` and keeps its figures. ``next_run``: when the clock fires next."""

    def __init__(
        self,
        job: ScheduleJob,
        locks: LockHolder,
        tasks: TaskRegistry,
        next_run: Callable[[], datetime | None],
    ) -> None:
        self.job = job
        self._locks = locks
        self._tasks = tasks
        self._next_run = next_run
        self._current: asyncio.Task[None] | None = None
        self._again = False
        self._runs = self._failures = self._skipped = 0
        self._last_error: str | None = None
        self._last_run: datetime | None = None
        self._outage = OutageLog()

    def fire(self) -> None:
        """The clock's occurrence: skipped while a run is under way."""
        if self._current is not None:
            self._skipped += 1
            return
        self._start(by_clock=True)

    def trigger(self) -> None:
        """Run now; while a run is under way, once more right after it (calls in between become
        one)."""
        if self._current is not None:
            self._again = True
            return
        self._start(by_clock=False)

    async def quiet(self) -> None:
        """Wait for the run under way, and start no other after it; from inside the run itself: no
        wait."""
        self._again = False
        current = self._current
        if current is not None and current is not asyncio.current_task():
            await asyncio.wait({current})

    @property
    def is_done(self) -> bool:
        """True when nothing more will run by the clock and nothing runs now."""
        return (
            self.job.enabled
            and self._runs > 0
            and self._current is None
            and self._next_run() is None
        )

    def cancel(self) -> bool:
        """Cancel the run under way; false if there is none."""
        self._again = False
        return self._current is not None and self._current.cancel()

    def status(self) -> JobStatus:
        return JobStatus(
            job_id=self.job.job_id,
            name=self.job.name,
            running=self._current is not None,
            runs=self._runs,
            failures=self._failures,
            skipped=self._skipped,
            last_error=self._last_error,
            last_run=self._last_run,
            next_run=self._next_run(),
        )

    def _start(self, *, by_clock: bool) -> None:
        self._current = self._tasks.spawn(self._run(by_clock), f"job {self.job.job_id}")
        self._current.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._current = None
        if self._again:
            self._again = False
            self._start(by_clock=False)

    async def _run(self, by_clock: bool) -> None:
        if not self.job.use_distributed_lock:
            await self._call()
            return
        key = self.job.lock_key or f"scheduler:{self.job.job_id}"
        try:
            async with self._locks.acquired(key, ttl_s=self.job.lock_ttl_s, timeout_s=0) as lock:
                if lock is None:
                    self._skipped += 1
                    return
                await self._call()
                if by_clock:
                    self._keep_for_occurrence(lock)
        except ServiceError as error:
            self._note_failure(error)

    def _keep_for_occurrence(self, lock: AcquiredLock) -> None:
        next_run = self._next_run()
        gap_s = (
            (next_run - datetime.now(UTC)).total_seconds() if next_run else self.job.lock_ttl_s * 2
        )
        # The other processes' clocks fire a little earlier or later than ours for the same
        # occurrence.
        lock.leave_for_s = min(self.job.lock_ttl_s, max(gap_s / 2, 0.001))

    async def _call(self) -> None:
        self._last_run = datetime.now(UTC)
        try:
            if inspect.iscoroutinefunction(self.job.callback):
                await self.job.callback()
            else:
                result = await asyncio.to_thread(self.job.callback)
                if inspect.isawaitable(result):
                    await result
        except Exception as error:
            self._note_failure(error)
        else:
            if self._outage.has_ended():
                Logger.info("a scheduled job works again", job=self.job.job_id)
        finally:
            self._runs += 1

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        self._last_error = f"{type(error).__name__}: {error}"
        if not isinstance(error, ServiceUnavailable):
            Logger.error("a scheduled job failed", job=self.job.job_id, exc_info=error)
            return
        if self._outage.is_due():
            Logger.warn(
                "a scheduled job waits for a service", job=self.job.job_id, reason=str(error)
            )
