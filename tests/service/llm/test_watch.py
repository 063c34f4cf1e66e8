"""The deadline over a reply's chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from base_server.service.llm.watch import Overdue, Watch
from tests.waiting import PATIENCE_S


async def paced(*delays_s: float) -> AsyncIterator[int]:
    for number, delay_s in enumerate(delays_s):
        await asyncio.sleep(delay_s)
        yield number


async def never() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 0


def soon(seconds: float = 0.02) -> float:
    return asyncio.get_running_loop().time() + seconds


def cancellations() -> int:
    """Of this task that nobody has taken back."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_items_in_time_then_none_at_the_end() -> None:
    watch, items = Watch(), paced(0, 0.01)
    assert [await watch.next_of(items, soon(30)) for _ in range(3)] == [0, 1, None]
    watch.stop()


async def test_each_wait_has_its_own_time_and_an_earlier_one_shortens_it() -> None:
    watch, items = Watch(), paced(0, 0.05, 0.05, 30)
    assert await watch.next_of(items, soon(30)) == 0
    assert await watch.next_of(items, soon(10)) == 1
    assert await watch.next_of(items, soon(20)) == 2
    with pytest.raises(Overdue):
        await watch.next_of(items, soon())
    assert cancellations() == 0


async def test_a_timer_that_went_off_between_two_waits_holds_for_the_next() -> None:
    watch, items = Watch(), paced(0, 30)
    await watch.next_of(items, soon())
    await asyncio.sleep(0.05)
    with pytest.raises(Overdue):
        await watch.next_of(items, soon())


async def test_a_timer_that_goes_off_too_early_is_set_again() -> None:
    watch, items = Watch(), paced(0, 30)
    await watch.next_of(items, soon())
    with pytest.raises(Overdue):
        await asyncio.wait_for(watch.next_of(items, soon(0.1)), PATIENCE_S)


async def test_once_overdue_it_stays_so() -> None:
    watch = Watch()
    for _ in range(2):
        with pytest.raises(Overdue):
            await watch.next_of(never(), soon())


async def test_ring_ends_present_and_later_waits_with_the_first_error() -> None:
    """Ring ends the present wait and the later ones and the first error counts."""
    watch, idle = Watch(), Watch()
    asyncio.get_running_loop().call_soon(watch.ring, ValueError("rung"))
    with pytest.raises(ValueError, match="rung"):
        await watch.next_of(never(), soon(30))
    idle.ring(ValueError("first"))
    idle.ring(ValueError("second"))
    with pytest.raises(ValueError, match="first"):
        await idle.next_of(never(), soon(30))
    assert cancellations() == 0


@pytest.mark.parametrize("also_rung", [False, True])
async def test_a_cancellation_from_outside_stays_one(also_rung: bool) -> None:
    watch = Watch()
    task = asyncio.create_task(watch.next_of(never(), soon(30)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    if also_rung:
        watch.ring(ValueError())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    watch.stop()


async def test_deadline_is_raised_though_items_raise_their_own_error() -> None:
    """Items that turn the cancellation into their own error do not hide the deadline."""

    async def stubborn() -> AsyncIterator[int]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError from None
        yield 0

    with pytest.raises(Overdue):
        await Watch().next_of(stubborn(), soon())
    assert cancellations() == 0


async def test_an_error_of_the_items_passes_on() -> None:
    async def failing() -> AsyncIterator[int]:
        raise KeyError("x")
        yield 0

    watch = Watch()
    with pytest.raises(KeyError):
        await watch.next_of(failing(), soon(30))
    watch.stop()


async def test_one_timer_serves_a_thousand_waits() -> None:
    watch, items, loop = Watch(), paced(*[0] * 1000), asyncio.get_running_loop()
    made = 0
    call_at = loop.call_at

    def counting(*args: object, **kwargs: object) -> asyncio.TimerHandle:
        nonlocal made
        made += 1
        return call_at(*args, **kwargs)  # type: ignore[arg-type]

    loop.call_at = counting  # type: ignore[method-assign,assignment]
    try:
        for _ in range(1000):
            await watch.next_of(items, soon(30))
    finally:
        loop.call_at = call_at  # type: ignore[method-assign]
        watch.stop()
    assert made == 1
