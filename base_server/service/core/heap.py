"""Keeps the garbage collector from stopping the process while many modules are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_NEVER = 2**31 - 1


@contextmanager
def heap_growing_for_good() -> Iterator[None]:
    """For a first import of many modules, in a thread: a full collection stops every thread, the
    event loop's too, for a tenth of a second. None runs inside, and later ones skip every object
    that exists by then."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(young, middle, old)
