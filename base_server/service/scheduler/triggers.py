"""From a ScheduleJob to an APScheduler trigger; everything that can be wrong with a schedule is found here."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from service.scheduler.base_scheduler import ScheduleJob, ScheduleType

_SHORTEST = timedelta(milliseconds=10)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def make_trigger(job: ScheduleJob) -> BaseTrigger:
    """The trigger of ``job``; raises ValueError naming the job and its value."""
    try:
        match ScheduleType(job.schedule_type):
            case ScheduleType.INTERVAL:
                return _interval(job)
            case ScheduleType.CRON:
                return CronTrigger.from_crontab(_text(job), timezone=UTC)
            case ScheduleType.ONCE:
                return DateTrigger(_moment(job), timezone=UTC)
            case ScheduleType.DAILY:
                at = time.fromisoformat(_text(job))
                if at.tzinfo is not None or at.microsecond:
                    raise ValueError("HH:MM or HH:MM:SS in UTC, without an offset")
                return CronTrigger(hour=at.hour, minute=at.minute, second=at.second, timezone=UTC)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"job {job.job_id}: schedule_value {job.schedule_value!r} is not valid: {error}") from error


def _interval(job: ScheduleJob) -> BaseTrigger:
    value = job.schedule_value
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError("an interval is a number of seconds or a timedelta")
    length = value if isinstance(value, timedelta) else timedelta(seconds=value)
    if length < _SHORTEST:
        raise ValueError("an interval is at least 10 ms")
    # A shared job fires at the same instants in every process, so that its lock covers the occurrence.
    start = _EPOCH if job.use_distributed_lock else None
    return IntervalTrigger(seconds=length.total_seconds(), start_date=start, timezone=UTC)


def _moment(job: ScheduleJob) -> datetime:
    value = job.schedule_value
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(_text(job))
    if moment.tzinfo is None:
        raise ValueError("a moment carries its offset")
    return moment


def _text(job: ScheduleJob) -> str:
    if not isinstance(job.schedule_value, str):
        raise TypeError("text is needed")
    return job.schedule_value
