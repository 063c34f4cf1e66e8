"""Waiting for a condition instead of sleeping for a while."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], object | Awaitable[object]], timeout_s: float = 10.0, what: str = "") -> None:
    """Return as soon as ``condition`` is true; fail after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.005)
