"""When to log an outage: as it begins, once a minute while it lasts, and at its end."""

from __future__ import annotations

import time

INTERVAL_S = 60.0


class OutageLog:
    """Of one thing that may fail again and again while a service is away."""

    def __init__(self) -> None:
        self._logged_s: float | None = None  # None: no outage that the log knows of

    def is_due(self) -> bool:
        """It failed once more: log it now?"""
        now_s = time.monotonic()
        if self._logged_s is not None and now_s - self._logged_s < INTERVAL_S:
            return False
        self._logged_s = now_s
        return True

    def has_ended(self) -> bool:
        """It worked: was that the end of an outage, to be logged?"""
        was_out, self._logged_s = self._logged_s is not None, None
        return was_out
