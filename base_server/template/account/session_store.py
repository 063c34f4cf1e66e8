"""Sessions in Redis under the hash of their token: read access to Redis is not enough to log in.

A token is ``<partition>.<43 random characters>``: the partition is that of the account, so a
request's session lies in the same Redis slot as the account's rooms.

A session record has two generations. ``epoch`` is that of the Redis server: after a restart Redis
may have data from before a logout, so the session is valid again only when the global database has
no such logout. ``generation`` is that of the global database: after it came back older, the session
is valid again only when the database has the account.
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

_MAX_CACHED = 5000
"""Sessions that a process caches, about a kilobyte each."""

_TOKENS_PER_CALL = 100
"""Thousands in one call would delay all other calls on the connection."""

_TOKEN = re.compile(r"([0-9]{2,4})\.[A-Za-z0-9_-]{43}")


class SessionStore:
    """Creates, finds (with a sliding life of ``ttl_s``) and deletes sessions.

    ``mark``: of the accounts' global database. Without it a database that came back older is not
    noticed.
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
        self._cached: dict[str, CachedSession] = {}
        self._cached_generation = 0

    async def create(self, account: SessionInfo, generation: int = 0) -> str:
        """Store a session of ``account`` (its ``session_key`` is ignored) and return its new token.

        ``generation``: of the global database when the account was read.
        """
        partition = self._cache.partitions.of_id(account.account_id)
        token = f"{partition:02d}.{secrets.token_urlsafe(32)}"
        session_key = _session_key(token)
        redis_generation = await self._cache.get_client().execute(
            "GET", self._generation_key(session_key)
        )
        record = {
            "key": session_key,
            "account_id": account.account_id,
            "account_db_key": account.account_db_key,
            "shard_id": account.shard_id,
            "nickname": account.nickname,
            "epoch": redis_generation,
            "generation": generation,
        }
        await self._cache.get_client().execute(
            "SET", self._redis_key(session_key), ujson.dumps(record), "EX", self._ttl_s
        )
        return token

    async def find(self, token: str) -> SessionInfo | None:
        """The session of ``token`` with its time to live renewed, or None.

        One round trip, except the first time in a generation of Redis or of the global database.
        Raises ``ServiceUnavailable`` when Redis, or the database if it is needed, is down.
        """
        self._cached.pop(token, None)
        shape = _TOKEN.fullmatch(token)
        if shape is None or int(shape[1]) >= self._cache.partitions.count:
            return None
        session_key = _session_key(token)
        client, key, generation_key = (
            self._cache.get_client(),
            self._redis_key(session_key),
            self._generation_key(session_key),
        )
        generation = self._database_generation
        try:
            text, redis_generation = await client.execute_many(
                [("GETEX", key, "EX", self._ttl_s), ("GET", generation_key)]
            )
        except CacheCommandError:  # a key of another type is no session
            return None
        record = _read(text, session_key)
        if record is None:
            return None
        is_of_another_run = redis_generation is None or record.get("epoch") != redis_generation
        is_of_an_older_database = record.get("generation", 0) < generation
        if is_of_another_run or is_of_an_older_database:
            if not await self._goes_on(record, is_of_another_run, is_of_an_older_database):
                await client.execute("DEL", key)
                return None
            renewed = ujson.dumps(
                record
                | {
                    "epoch": redis_generation,
                    "generation": max(generation, record.get("generation", 0)),
                }
            )
            try:
                # XX: a logout meanwhile is not undone.
                await client.execute("SET", key, renewed, "EX", self._ttl_s, "XX")
                text = renewed
            except ServiceUnavailable as outage:
                # Redis is full, say: the session is valid, and the next request verifies it again.
                Logger.debug("a session could not be written again", reason=outage.reason)
        session = SessionInfo(
            account_id=str(record["account_id"]),
            account_db_key=int(record["account_db_key"]),
            shard_id=int(record["shard_id"]),
            nickname=str(record["nickname"]),
            session_key=session_key,
        )
        # Not cached if the database was found older meanwhile: this session is unchecked then.
        if redis_generation is not None and generation == self._database_generation:
            self._remember(
                token,
                CachedSession(
                    session, Precondition(key, text, self._ttl_s, generation_key, redis_generation)
                ),
            )
        return session

    def find_cached(self, token: str) -> CachedSession | None:
        """The session of ``token`` as this process found it last, with its precondition."""
        self._drop_older_generations()
        return self._cached.get(token)

    @property
    def _database_generation(self) -> int:
        return self.mark.generation if self.mark is not None else 0

    async def _goes_on(
        self, record: dict[str, Any], is_of_another_run: bool, is_of_an_older_database: bool
    ) -> bool:
        """Whether the global database has the account and no logout of this session."""
        if is_of_another_run and is_of_an_older_database:
            # Both may have lost its logout.
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

    def _drop_older_generations(self) -> None:
        if self._cached_generation != self._database_generation:
            self._cached_generation = self._database_generation
            self._cached.clear()

    def _remember(self, token: str, cached: CachedSession) -> None:
        self._drop_older_generations()
        if len(self._cached) >= _MAX_CACHED:
            del self._cached[next(iter(self._cached))]
        self._cached[token] = cached

    async def find_ended(self, tokens: Collection[str]) -> list[str]:
        """Those of ``tokens``, all found before, whose session has ended.

        One round trip for each hundred. Raises ``ServiceUnavailable`` as :meth:`find` does.
        """
        keys = {token: _session_key(token) for token in tokens}
        partitions = sorted({_partition(key) for key in keys.values()})
        client = self._cache.get_client()
        # The run's id, not its number: a Redis with restored data may get the same number again.
        runs = [("GET", client.key("epoch_run", partition)) for partition in partitions]
        checks = [("EXISTS", self._redis_key(key)) for key in keys.values()]
        answers = await client.execute_many([*runs, *checks[:_TOKENS_PER_CALL]])
        # Read before the sessions: a run that begins meanwhile is noticed by the next call.
        seen = dict(zip(partitions, answers, strict=False))
        for start in range(_TOKENS_PER_CALL, len(checks), _TOKENS_PER_CALL):
            answers += await client.execute_many(checks[start : start + _TOKENS_PER_CALL])
        ended = [
            token for token, exists in zip(keys, answers[len(runs) :], strict=True) if not exists
        ]
        # After a restart of Redis, or with an older database, an existing session may have ended.
        generation = self._database_generation
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
        for start in range(0, len(tokens), _TOKENS_PER_CALL):
            some = tokens[start : start + _TOKENS_PER_CALL]
            found = await asyncio.gather(*(self.find(token) for token in some))
            missing += [
                token for token, session in zip(some, found, strict=True) if session is None
            ]
        return missing

    async def delete(self, session_key: str) -> None:
        """End the session permanently. Idempotent. If this raises, the session may still be valid.

        The row comes first: without it a Redis with restored data could bring the session back.
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

    def _generation_key(self, session_key: str) -> str:
        return self._cache.get_client().key("epoch", partition=_partition(session_key))


def _session_key(token: str) -> str:
    return f"{token.split('.', maxsplit=1)[0]}.{hashlib.sha256(token.encode()).hexdigest()}"


def _partition(session_key: str) -> int:
    return int(session_key.partition(".")[0])


def _session_hash(session_key: str) -> str:
    return session_key.partition(".")[2]


def _read(text: str | None, session_key: str) -> dict[str, Any] | None:
    """The stored record, if it is complete and has this ``session_key``."""
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
