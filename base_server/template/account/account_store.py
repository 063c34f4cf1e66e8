"""Accounts in the global database, and the shard that each of them lives on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from base_server.service.db.database_service import DatabaseService
from base_server.template.account.global_mark import GlobalMark


@dataclass(frozen=True)
class Account:
    """A row of the global database; ``created_at`` is in UTC.

    ``shard_id`` is None if the database lost the mapping. ``generation``: of the database at the
    time of the read.
    """

    account_id: str
    account_db_key: int
    shard_id: int | None
    nickname: str
    password_hash: str
    created_at: datetime
    generation: int


class AccountStore:
    def __init__(self, database: DatabaseService, mark: GlobalMark) -> None:
        self._database = database
        self._mark = mark

    async def create(
        self, account_id: str, password_hash: str, nickname: str, email: str, platform_type: str
    ) -> bool:
        """Insert the account on the least-loaded shard; False if the id is taken."""
        await self._mark.check()
        rows = await self._database.call_global_procedure(
            "fp_account_create", (account_id, password_hash, nickname, email, platform_type)
        )
        if not rows[0]["created"]:
            return False
        await self._mark.note(rows[0]["mark"], rows[0]["account_db_key"])
        return True

    async def find(self, account_id: str) -> Account | None:
        """The account of a canonical id, or None."""
        # Read before the row: if the database turns out to be older right after, this account may
        # be among the lost ones, and its session must not count as checked.
        generation = self._mark.generation
        rows = await self._database.call_global_procedure("fp_account_get", (account_id,))
        if not rows:
            return None
        row = rows[0]
        return Account(
            account_id=row["account_id"],
            account_db_key=row["account_db_key"],
            shard_id=row["shard_id"],
            nickname=row["nickname"] or "",
            password_hash=row["password_hash"],
            created_at=row["created_at"],
            generation=generation,
        )
