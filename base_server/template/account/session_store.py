"""Sessions in Redis under the hash of their token: who reads Redis cannot log in with what it
finds.

A token is ``<partition>.<43 random characters>``: the partition is that of the account, so a
request's session lies in the same Redis slot as the account's rooms.

A session carries the run epoch of its partition. In another run of Redis, which may have come back
with data from before a logout, it counts again only after the global database knows of no logout.
It carries the generation of the global database too: after that came back older, only after it
knows the account.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from typing import Any

import ujson

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.precondition import Precondition
from base_server.template.account.ended_sessions import EndedSessions
from base_server.template.account.global_mark import GlobalMark
from base_server.template.base.session_guard import CachedSession
from base_server.template.base.session_info import SessionInfo

_MOST_FOUND = 5000
"""Sessions that are remembered, about a kilobyte each."""

_LOOKS_AT_ONCE = 100

_TOKEN = re.compile(r"([0-9]{2,4})\.[A-Za-z0-9_-]{43}")


class SessionStore:
    """Creates, finds (with a sliding life of ``ttl_s``) and deletes sessions.

    ``mark``: of the global database that has their accounts. Without it nothing is noticed when
    that comes back older.
    """

    def __init__(
        self, cache: CacheService, ended: EndedSessions, ttl_s: int, mark: GlobalMark | None = None
    ) -> None:
        self._cache = cache
        self._ended = ended
        self._ttl_s = ttl_s
        self.mark = mark
        self._runs: dict[int, str | None] = {}
        self._watched_generation = 0
        self._found: dict[str, CachedSession] = {}
        self._found_generation = 0

    async def create(self, account: SessionInfo, generation: int = 0) -> str:
        """Store a session of ``account`` (its ``session_key`` is ignored) and return its new token.

        ``generation``: of the global database when it was asked for the account.
        """
        partition = self._cache.partitions.of_id(account.account_id)
        token = f"{partition:02d}.{secrets.token_urlsafe(32)}"
        session_key = _session_key(token)
        epoch = await self._cache.get_client().execute("GET", self._epoch_key(session_key))
        record = {
            "key": session_key,
            "account_id": account.account_id,
            "account_db_key": account.account_db_key,
            "shard_id": account.shard_id,
            "nickname": account.nickname,
            "epoch": epoch,
            "generation": generation,
        }
        await self._cache.get_client().execute(
            "SET", self._redis_key(session_key), ujson.dumps(record), "EX", self._ttl_s
        )
        return token

    async def find(self, token: str) -> SessionInfo | None:
        """The session of ``token``, whose life begins anew, or None; one round trip, except the
        first time in a run of Redis and in a generation of the global database.

        Raises ``ServiceUnavailable`` when Redis, or the database where it must be asked, is away.
        """
        self._found.pop(token, None)
        shape = _TOKEN.fullmatch(token)
        if shape is None or int(shape[1]) >= self._cache.partitions.count:
            return None
        session_key = _session_key(token)
        client, key, epoch_key = (
            self._cache.get_client(),
            self._redis_key(session_key),
            self._epoch_key(session_key),
        )
        generation = self._generation
        try:
            text, epoch = await client.execute_many(
                [("GETEX", key, "EX", self._ttl_s), ("GET", epoch_key)]
            )
        except CacheCommandError:  # a key of another type is no session
            return None
        record = _read(text, session_key)
        if record is None:
            return None
        is_of_another_run = epoch is None or record.get("epoch") != epoch
        is_of_an_older_database = record.get("generation", 0) < generation
        if is_of_another_run or is_of_an_older_database:
            if not await self._goes_on(record, is_of_another_run, is_of_an_older_database):
                await client.execute("DEL", key)
                return None
            renewed = ujson.dumps(
                record
                | {"epoch": epoch, "generation": max(generation, record.get("generation", 0))}
            )
            try:
                # XX: a logout meanwhile is not undone.
                await client.execute("SET", key, renewed, "EX", self._ttl_s, "XX")
                text = renewed
            except ServiceUnavailable as outage:
                # A full Redis, say: the session goes on all the same, and the next request
                # verifies it again.
                Logger.debug("a session could not be written again", reason=outage.reason)
        session = SessionInfo(
            account_id=str(record["account_id"]),
            account_db_key=int(record["account_db_key"]),
            shard_id=int(record["shard_id"]),
            nickname=str(record["nickname"]),
            session_key=session_key,
        )
        # If the database was found older meanwhile, nobody has asked it about this session.
        if epoch is not None and generation == self._generation:
            self._remember(
                token,
                CachedSession(session, Precondition(key, text, self._ttl_s, epoch_key, epoch)),
            )
        return session

    def find_cached(self, token: str) -> CachedSession | None:
        """The session of ``token`` as this process found it last, with what must hold for it to go
        on.
        """
        self._forget_older_generations()
        return self._found.get(token)

    @property
    def _generation(self) -> int:
        return self.mark.generation if self.mark is not None else 0

    async def _goes_on(
        self, record: dict[str, Any], is_of_another_run: bool, is_of_an_older_database: bool
    ) -> bool:
        """Whether the global database knows the account and no logout of the session that this
        record is of.
        """
        if is_of_another_run and is_of_an_older_database:
            # Redis may have forgotten that it ended, and so may the database: nobody knows any
            # more.
            Logger.info(
                "session ended: Redis and the global database both came back",
                account=record["account_db_key"],
            )
            return False
        account_id, account_db_key = record["account_id"], int(record["account_db_key"])
        if is_of_an_older_database and not await self._ended.has_account(
            account_id, account_db_key
        ):
            Logger.info("session ended: its account is not known", account=account_db_key)
            return False
        return not await self._ended.contains(_session_hash(record["key"]))

    def _forget_older_generations(self) -> None:
        if self._found_generation != self._generation:
            self._found_generation = self._generation
            self._found.clear()

    def _remember(self, token: str, cached: CachedSession) -> None:
        self._forget_older_generations()
        if len(self._found) >= _MOST_FOUND:
            del self._found[next(iter(self._found))]
        self._found[token] = cached

    async def find_ended(self, tokens: Collection[str]) -> list[str]:
        """Those of ``tokens`` that :meth:`find` knows no more, for sessions that it found before;
        one round trip for each hundred, since thousands at once would hold up everybody else's
        calls.

        Raises ``ServiceUnavailable`` as :meth:`find` does.
        """
        keys = {token: _session_key(token) for token in tokens}
        partitions = sorted({_partition(key) for key in keys.values()})
        client = self._cache.get_client()
        # The run itself: one that came back with older data may get the number that the lost one
        # had.
        runs = [("GET", client.key("epoch_run", partition)) for partition in partitions]
        looks = [("EXISTS", self._redis_key(key)) for key in keys.values()]
        answers = await client.execute_many([*runs, *looks[:_LOOKS_AT_ONCE]])
        # A run that begins after this is noticed the next time.
        seen = dict(zip(partitions, answers, strict=False))
        for start in range(_LOOKS_AT_ONCE, len(looks), _LOOKS_AT_ONCE):
            answers += await client.execute_many(looks[start : start + _LOOKS_AT_ONCE])
        ended = [
            token for token, exists in zip(keys, answers[len(runs) :], strict=True) if not exists
        ]
        # In another run of Redis, or in an older global database, a session that is there may have
        # ended before.
        generation = self._generation
        if generation != self._watched_generation:
            doubtful = list(keys)
        else:
            doubtful = [
                token
                for token, key in keys.items()
                if self._runs.get(_partition(key)) != seen[_partition(key)]
            ]
        ended += await self._not_found([token for token in doubtful if token not in set(ended)])
        self._runs.update(seen)
        self._watched_generation = generation
        return ended

    async def _not_found(self, tokens: Sequence[str]) -> list[str]:
        missing = []
        for start in range(0, len(tokens), _LOOKS_AT_ONCE):
            some = tokens[start : start + _LOOKS_AT_ONCE]
            found = await asyncio.gather(*(self.find(token) for token in some))
            missing += [
                token for token, session in zip(some, found, strict=True) if session is None
            ]
        return missing

    async def delete(self, session_key: str) -> None:
        """End the session of that name (``SessionInfo.session_key``) for good; a repeat changes
        nothing.

        When this raises, the session may go on. The row comes first: without it an old Redis could
        bring it back.
        """
        if self.mark is not None:
            await self.mark.check()
        mark = await self._ended.add(_session_hash(session_key))
        await self._cache.get_client().execute("DEL", self._redis_key(session_key))
        if self.mark is not None:
            await self.mark.note(mark)

    def _redis_key(self, session_key: str) -> str:
        return self._cache.get_client().key(
            f"session:{_session_hash(session_key)}", partition=_partition(session_key)
        )

    def _epoch_key(self, session_key: str) -> str:
        return self._cache.get_client().key("epoch", partition=_partition(session_key))


def _session_key(token: str) -> str:
    return f"{token.split('.', maxsplit=1)[0]}.{hashlib.sha256(token.encode()).hexdigest()}"


def _partition(session_key: str) -> int:
    return int(session_key.partition(".")[0])


def _session_hash(session_key: str) -> str:
    return session_key.partition(".")[2]


def _read(text: str | None, session_key: str) -> dict[str, Any] | None:
    """The stored record, if it is whole and really the one that was asked for."""
    try:
        record: dict[str, Any] = ujson.loads(text or "null")
        if record["key"] != session_key:
            return None
        (
            int(record["account_db_key"]),
            int(record["shard_id"]),
            record["account_id"],
            record["nickname"],
        )
        if not isinstance(record.get("generation", 0), int):
            return None
    except (ValueError, TypeError, KeyError):
        return None
    return record
