"""The file descriptors of this process."""

from __future__ import annotations

from pathlib import Path


def open_files() -> int:
    """How many are open, that of the look itself included."""
    return len(list(Path("/proc/self/fd").iterdir()))
