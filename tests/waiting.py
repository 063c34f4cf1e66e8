"""Waiting for a condition instead of sleeping for a while."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PATIENCE_S = 120.0
"""How long a test waits for what must come. Only a failure takes so long, so it is generous: a
machine that is slow, or busy with other work, must not fail a test. pyproject.toml allows a whole
test several of these."""


async def until(
    condition: Callable[[], object | Awaitable[object]],
    timeout_s: float = PATIENCE_S,
    what: str = "",
) -> None:
    """Return as soon as ``condition`` is true; fail after ``timeout_s``, which is never less than
    PATIENCE_S."""
    timeout_s = max(timeout_s, PATIENCE_S)
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        if time.monotonic() > deadline_s:
            raise AssertionError(
                f"not within {timeout_s} s: {what or inspect.getsource(condition).strip()}"
            )
        await asyncio.sleep(0.005)
