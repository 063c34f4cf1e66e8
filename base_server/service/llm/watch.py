"""A deadline over many waits that follow each other, with one timer for all of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import TypeVar, cast

T = TypeVar("T")


class Overdue(Exception):
    """The wait took longer than it was allowed to."""


class Watch:
    """Waits for one item after the other, each with its own due time on the event loop's clock.

    ``asyncio.timeout`` sets and cancels a timer for each wait, 4 to 10 µs a token. Here a wait only
    moves a number; a timer that goes off too early is set again. Only one task may wait at a time.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._due = math.inf
        self._waiting: asyncio.Task[object] | None = None
        self._rung: Exception | None = None

    async def next_of(self, items: AsyncIterator[T], due: float) -> T | None:
        """The next item, None at the end.

        Raises :class:`Overdue` at ``due``, and what :meth:`ring` was given."""
        if self._rung is not None:
            raise self._rung
        self._due = due
        if due < self._timer_at:
            self._set_timer(due)
        task = self._waiting = cast("asyncio.Task[object]", asyncio.current_task())
        cancelled_before = task.cancelling()
        try:
            return await anext(items)
        except StopAsyncIteration:
            return None
        except (asyncio.CancelledError, Exception) as error:
            # Somebody else's cancellation, or the items' own failure, passes on as it is.
            if self._rung is None or (
                isinstance(error, asyncio.CancelledError)
                and task.cancelling() > 1 + cancelled_before
            ):
                raise
            raise self._rung from None
        finally:
            self._waiting = None
            if self._rung is not None:
                task.uncancel()

    def ring(self, error: Exception) -> None:
        """End the present wait, and every later one, with ``error``."""
        if self._rung is None:
            self._rung = error
            if self._waiting is not None:
                self._waiting.cancel()

    def stop(self) -> None:
        """Nothing will be waited for any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, at: float) -> None:
        self.stop()
        self._timer, self._timer_at = self._loop.call_at(at, self._on_timer), at

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._waiting is None:
            return  # the next wait sets it again
        if self._loop.time() < self._due:
            self._set_timer(self._due)
        else:
            self.ring(Overdue())
