"""Findings of health checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """OK, DEGRADED (serves, with something missing), FAILED (take this process out of rotation)."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True)
class ReadinessCheck:
    """One finding; ``reason`` is one line for operators without secrets, empty when there is
    nothing to say.
    """

    name: str
    health: Health
    reason: str = ""
