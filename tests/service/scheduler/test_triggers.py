"""CRON expressions mean what crontab(5) says, not what APScheduler makes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from base_server.service.scheduler.base_scheduler import ScheduleJob, ScheduleType
from base_server.service.scheduler.triggers import make_trigger

SUNDAY = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def days_of(expression: str) -> list[datetime]:
    """The days of November 2026 on which it fires."""
    trigger = make_trigger(ScheduleJob("job", "job", ScheduleType.CRON, expression, lambda: None))
    fired: list[datetime] = []
    while (
        at := trigger.get_next_fire_time(
            None, fired[-1] + timedelta(seconds=1) if fired else SUNDAY
        )
    ).month == 11:
        fired.append(at)
    return fired


@pytest.mark.parametrize(
    ("weekday", "names"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1", "mon"),
        ("6", "sat"),
        ("1-5", "mon tue wed thu fri"),
        ("MON-FRI", "mon tue wed thu fri"),
        ("5-7", "fri sat sun"),
        ("0-7", "sun mon tue wed thu fri sat"),
        ("sat-mon", "sat sun mon"),
        ("6,0", "sat sun"),
        ("*/2", "sun tue thu sat"),
        ("1-5/2", "mon wed fri"),
        ("*", "sun mon tue wed thu fri sat"),
    ],
)
def test_weekdays_are_counted_from_sunday(weekday: str, names: str) -> None:
    week = days_of(f"30 4 * * {weekday}")
    assert {DAYS[(at - SUNDAY).days % 7] for at in week} == set(names.split())
    assert {(at.hour, at.minute, at.second) for at in week} == {(4, 30, 0)}


def test_of_a_day_and_a_weekday_one_is_enough() -> None:
    assert [at.day for at in days_of("0 0 13 * 1")] == [2, 9, 13, 16, 23, 30]
    assert [at.day for at in days_of("0 0 16 * 1")] == [2, 9, 16, 23, 30]
    assert [at.day for at in days_of("0 0 16 * *")] == [16]


@pytest.mark.parametrize(
    "expression", ["* * * * 8", "* * * * x", "* * * * 1-", "* * * * */0", "* * * *", "61 * * * *"]
)
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="job job: schedule_value"):
        days_of(expression)
