"""Logouts as rows of the global database: what a Redis that comes back with older data cannot undo."""

from __future__ import annotations

from service.db.database_service import DatabaseService


class EndedSessions:
    """Notes of logouts; each is kept for ``ttl_s``, after which no Redis holds the session any more."""

    def __init__(self, database: DatabaseService, ttl_s: int) -> None:
        self._database = database
        self._ttl_s = ttl_s

    async def add(self, session_hash: str) -> None:
        """Raises ``ServiceUnavailable`` when the logout could not be noted. A repeat changes nothing."""
        await self._database.call_global_procedure("fp_session_end", (session_hash, self._ttl_s))

    async def contains(self, session_hash: str) -> bool:
        return bool(await self._database.call_global_procedure("fp_session_ended_get", (session_hash,)))
