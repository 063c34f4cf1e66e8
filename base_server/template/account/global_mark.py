"""The mark of the global database: a number that rises with every signup and logout, in their
transaction.

Redis and every process remember the highest mark. A database with a lower one came back older (a
restored dump, a lagging replica) and lost acknowledged signups and logouts. Its ``generation`` then
rises, and a session of an older generation is checked in the database before it is trusted again
(:mod:`base_server.template.account.session_store`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.instruments import Counter
from base_server.service.core.logger import Logger
from base_server.service.db.database_service import DatabaseService
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script import load_scripts

CAME_BACK_OLDER = Counter(
    "db_came_back_older",
    "Times that a database was found to lack changes that it had acknowledged.",
    ("database",),
)
CHECK_INTERVAL_S = 1.0
"""Within this time every process notices that the global database came back older."""
_ALARM_S = 86_400
_RAISE = load_scripts(Path(__file__).parent / "lua")["raise_mark"]
_FIELDS = ("number", "generation", "account", "older_s", "lost")


@dataclass(frozen=True)
class CameBackOlder:
    """``at_s``: when a server noticed it (Unix time); ``lost``: minimum of lost signups and
    logouts.
    """

    at_s: int
    lost: int

    @property
    def is_recent(self) -> bool:
        """Whether it was within the last day: operators are alerted."""
        return time.time() - self.at_s < _ALARM_S

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.at_s, UTC).isoformat(timespec="seconds")
        return (
            f"it came back older, noticed at {at}: at least {self.lost} acknowledged signups and"
            " logouts are lost"
        )


@dataclass(frozen=True)
class KnownMark:
    """The mark as stored in Redis; ``account`` is the key of the newest account, 0 for none."""

    number: int = 0
    generation: int = 0
    account: int = 0
    older: CameBackOlder | None = None

    @classmethod
    async def read(cls, cache: CacheService) -> KnownMark:
        """Raises ``ServiceUnavailable``. A key of another type or an invalid number counts as
        missing.
        """
        try:
            texts = await cache.get_client().execute("HMGET", _key(cache), *_FIELDS)
        except CacheCommandError:
            return cls()
        number, generation, account, older_s, lost = (
            int(text) if text and text.isdecimal() else 0 for text in texts
        )
        return cls(number, generation, account, CameBackOlder(older_s, lost) if older_s else None)


class GlobalMark:
    """This process's copy of the mark.

    ``generation`` rises when the database came back older, in every process within
    :data:`CHECK_INTERVAL_S`.
    """

    def __init__(self, cache: CacheService, database: DatabaseService) -> None:
        self._cache = cache
        self._database = database
        self._number = 0
        self._older: CameBackOlder | None = None
        # The newest account in Redis when the database was found to lack it.
        self._missed_account = 0
        self._unwritten_loss: int | None = None
        self.generation = 0

    @property
    def alarm(self) -> CameBackOlder | None:
        """The last time that the database came back older, if within the last day."""
        return self._older if self._older is not None and self._older.is_recent else None

    async def check(self) -> None:
        """Compare the database with Redis and this process. Raises ``ServiceUnavailable``.

        A job runs it every second. Signups and logouts run it first, since their own change could
        lift an older database to the known number, and hide the loss.
        """
        # Redis first: its mark was committed before, so a database below it now has lost something.
        known = await KnownMark.read(self._cache)
        number, generation = max(known.number, self._number), max(known.generation, self.generation)
        stored = (await self._database.call_global_procedure("fp_mark_get", (known.account,)))[0]
        # A Redis that refuses writes keeps naming an account that is known to be lost.
        lacks_newest = (
            known.account not in (0, self._missed_account) and not stored["account_known"]
        )
        if stored["number"] < number or stored["generation"] < generation or lacks_newest:
            self._missed_account = known.account
            generation = max(generation, stored["generation"]) + 1
            await self._lift(
                max(number, stored["number"]), generation, max(1, number - stored["number"])
            )
            return
        # Checks overlap: one that read the database before another lifted the mark must not lower
        # it.
        self._number = max(self._number, stored["number"])
        self.generation = max(self.generation, stored["generation"])
        self._older = known.older or self._older
        if (known.number, known.generation) != (
            self._number,
            self.generation,
        ) or self._unwritten_loss is not None:
            await self._write_to_redis()

    async def note(self, number: int, account_db_key: int | None = None) -> None:
        """The database's mark is now ``number``; after a signup, with the account's key."""
        self._number = max(self._number, number)
        await self._write_to_redis(account_db_key)

    async def watch(self) -> None:
        """Job of every process: :meth:`check`, ignoring outages."""
        try:
            await self.check()
        except ServiceUnavailable as outage:
            Logger.debug("the mark of the global database is not known", reason=outage.reason)

    async def _lift(self, number: int, generation: int, lost: int) -> None:
        # The database first: if this process dies now, the others find the new generation there.
        await self._database.call_global_procedure("fp_mark_lift", (number, generation))
        self._number, self.generation = number, generation
        self._older = CameBackOlder(int(time.time()), lost)
        CAME_BACK_OLDER.add("global")
        Logger.error(
            "the global database came back older",
            lost_changes=lost,
            number=number,
            generation=generation,
        )
        self._unwritten_loss = lost
        await self._write_to_redis()

    async def _write_to_redis(self, account_db_key: int | None = None) -> None:
        """Best effort: this process has it already, and the next check writes it again."""
        lost = self._unwritten_loss
        args = [self._number, self.generation, account_db_key or "", lost or ""]
        try:
            await self._cache.get_client().run_script(_RAISE, [_key(self._cache)], args)
            if self._unwritten_loss == lost:
                self._unwritten_loss = None
        except ServiceUnavailable as outage:
            Logger.debug(
                "the mark of the global database is not in Redis yet", reason=outage.reason
            )


def _key(cache: CacheService) -> str:
    return cache.get_client().key("global_mark", partition=0)
