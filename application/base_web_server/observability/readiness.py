"""The result of one health check of a server process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from base_server.template.base.readiness import Health, ReadinessCheck


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True)
class Readiness:
    """All findings of one health check. ``ready`` is false if one of them has failed."""

    phase: Phase
    checks: Sequence[ReadinessCheck]

    @property
    def ready(self) -> bool:
        return self.phase is Phase.READY and not self.names(Health.FAILED)

    def names(self, health: Health) -> list[str]:
        return [check.name for check in self.checks if check.health is health]

    @property
    def status(self) -> str:
        return (
            "ready" if self.ready else "not ready" if self.phase is Phase.READY else str(self.phase)
        )

    def to_json(self, *, verbose: bool) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "status": self.status,
            "degraded": self.names(Health.DEGRADED),
            "failed": self.names(Health.FAILED),
        }
        if verbose:
            summary["checks"] = [
                {"name": check.name, "health": str(check.health), "reason": check.reason}
                for check in self.checks
            ]
        return summary
