"""A scheduled job and its status. All clock times are UTC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class ScheduleType(StrEnum):
    """When a job runs; the comment says what its ``schedule_value`` is."""

    INTERVAL = "interval"  # seconds (int, float) or a timedelta, at least 10 ms
    CRON = "cron"  # five fields "minute hour day month weekday" as in crontab(5), UTC
    ONCE = (
        "once"  # an aware datetime, or ISO 8601 text with an offset; a time gone by means at once
    )
    DAILY = "daily"  # "HH:MM" or "HH:MM:SS", UTC


Callback = Callable[[], Awaitable[object] | object]


@dataclass
class ScheduleJob:
    """One job. ``callback`` is called without arguments: a coroutine function on the event loop,
    any other callable in a thread. Runs of one job never overlap in a process; an occurrence that
    falls into a run under way is skipped. When the machine's clock is set, an interval of one
    process goes on as it was, and the others are rescheduled by the new time.

    With ``use_distributed_lock`` one process at a time runs it, and each occurrence is run by one
    process only: intervals then start at multiples of the interval since 1970 everywhere, and after
    a run by the clock the lock is left for ``lock_ttl_s`` or half the time to the next occurrence,
    whichever is less. As with every such lock, a holder paused past its TTL can overlap with
    another: the work must stand that.
    """

    job_id: str
    name: str
    schedule_type: ScheduleType
    schedule_value: int | float | str | timedelta | datetime
    callback: Callback
    enabled: bool = True  # False: known and can be triggered, never run by the clock
    use_distributed_lock: bool = False
    lock_key: str | None = (
        None  # default "scheduler:<job_id>"; the same on every process that shares the job
    )
    lock_ttl_s: float = 30.0  # extended while a run lasts
    run_at_start: bool = False  # the first run as soon as the scheduler runs


@dataclass(frozen=True)
class JobStatus:
    """What :meth:`SchedulerService.get_job_status` returns: figures of this process since the job
    was added."""

    job_id: str
    name: str
    running: bool
    runs: int  # ended runs, failed ones included
    failures: int
    skipped: int  # occurrences not run: one was under way here, or another process had the lock
    last_error: str | None  # of the last run that failed; the type and the text
    last_run: datetime | None  # start of the last run
    next_run: datetime | None  # None: not scheduled (disabled, done, or the scheduler does not run)
