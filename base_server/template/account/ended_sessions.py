"""Logouts as rows of the global database, which a Redis with restored older data cannot undo."""

from __future__ import annotations

from base_server.service.db.database_service import DatabaseService


class EndedSessions:
    """Rows of logouts, kept for ``ttl_s``: after that no Redis can have the session any more."""

    def __init__(self, database: DatabaseService, ttl_s: int) -> None:
        self._database = database
        self._ttl_s = ttl_s

    async def add(self, session_hash: str) -> int:
        """Store the logout and return the database's new mark. Idempotent otherwise.

        Raises ``ServiceUnavailable`` if it could not be stored.
        """
        rows = await self._database.call_global_procedure(
            "fp_session_end", (session_hash, self._ttl_s)
        )
        return int(rows[0]["mark"])

    async def contains(self, session_hash: str) -> bool:
        return bool(
            await self._database.call_global_procedure("fp_session_ended_get", (session_hash,))
        )

    async def has_account(self, account_id: str, account_db_key: int) -> bool:
        """Whether this account exists, not only another of the same id or with the same key."""
        rows = await self._database.call_global_procedure("fp_account_get", (account_id,))
        return bool(rows) and rows[0]["account_db_key"] == account_db_key
