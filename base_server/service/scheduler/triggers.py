"""From a ScheduleJob to an APScheduler trigger; everything that can be wrong with a schedule is
found here."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from base_server.service.scheduler.base_scheduler import ScheduleJob, ScheduleType

_SHORTEST = timedelta(milliseconds=10)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def make_trigger(job: ScheduleJob) -> BaseTrigger:
    """The trigger of ``job``; raises ValueError naming the job and its value."""
    try:
        match ScheduleType(job.schedule_type):
            case ScheduleType.INTERVAL:
                # Fires at the same instants in every process, so that the lock of a shared job
                # covers the occurrence.
                return IntervalTrigger(seconds=interval_s(job), start_date=_EPOCH, timezone=UTC)
            case ScheduleType.CRON:
                return _cron(_text(job))
            case ScheduleType.ONCE:
                return DateTrigger(_moment(job), timezone=UTC)
            case ScheduleType.DAILY:
                at = time.fromisoformat(_text(job))
                if at.tzinfo is not None or at.microsecond:
                    raise ValueError("HH:MM or HH:MM:SS in UTC, without an offset")
                return CronTrigger(hour=at.hour, minute=at.minute, second=at.second, timezone=UTC)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"job {job.job_id}: schedule_value {job.schedule_value!r} is not valid: {error}"
        ) from error


def interval_s(job: ScheduleJob) -> float:
    """The length of an INTERVAL job in seconds; raises TypeError or ValueError."""
    value = job.schedule_value
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError("an interval is a number of seconds or a timedelta")
    length = value if isinstance(value, timedelta) else timedelta(seconds=value)
    if length < _SHORTEST:
        raise ValueError("an interval is at least 10 ms")
    return length.total_seconds()


def _cron(expression: str) -> BaseTrigger:
    """As crontab(5) has it: a weekday is counted from Sunday (0 or 7), and of a day and a weekday
    that are both restricted one is enough. APScheduler counts from Monday and asks for both."""
    fields = expression.split()
    if len(fields) != 5:
        raise ValueError(f"a cron expression has five fields, not {len(fields)}")
    minute, hour, day, month, weekday = fields
    time_of_day = {"minute": minute, "hour": hour, "month": month, "timezone": UTC}
    days = _weekdays(weekday)
    if day.startswith("*") or weekday.startswith("*"):
        return CronTrigger(day=day, day_of_week=days, **time_of_day)
    return OrTrigger(
        [CronTrigger(day=day, **time_of_day), CronTrigger(day_of_week=days, **time_of_day)]
    )


def _weekdays(field: str) -> str:
    """``1-5``, ``FRI-7``, ``*/2`` as the days' names."""
    days: list[str] = []
    for item in field.lower().split(","):
        match = re.fullmatch(
            r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[1-9]\d*))?", item
        )
        if match is None:
            raise ValueError(
                f"weekday {item!r} is none of 0 to 7, sun to sat, a-b, *, each with /step"
            )
        first = _weekday(match["first"] or "sun")
        last = (
            _weekday(match["last"])
            if match["last"]
            else 6
            if match["first"] is None or match["step"]
            else first
        )
        if last < first:
            last += 7  # sat-mon
        days += [
            _WEEKDAYS[number % 7] for number in range(first, last + 1, int(match["step"] or 1))
        ]
    return ",".join(dict.fromkeys(days))


def _weekday(text: str) -> int:
    if text in _WEEKDAYS:
        return _WEEKDAYS.index(text)
    if text.isdecimal() and int(text) <= 7:
        return int(text)
    raise ValueError(f"weekday {text!r} is none of 0 to 7, sun to sat")


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
