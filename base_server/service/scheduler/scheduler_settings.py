"""Configuration section ``schedulerConfig``."""

from __future__ import annotations

from pydantic import Field

from base_server.service.core.settings import Settings


class SchedulerSettings(Settings):
    """Shipped values; times in seconds."""

    drain_timeout_s: float = Field(default=10.0, gt=0)
    """How long :meth:`SchedulerService.stop` waits for runs under way before it cancels them."""

    max_jobs: int = Field(default=1000, ge=1)
    """Jobs known at once; one more is refused."""
