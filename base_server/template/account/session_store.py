"""Sessions in Redis under the hash of their token: who reads Redis cannot log in with what it finds.

A token is ``<partition>.<43 random characters>``: the partition is that of the account, so a
request's session lies in the same Redis slot as the account's rooms.

A session carries the run epoch of its partition. In another run of Redis, which may have come back with
data from before a logout, it is believed again only after the global database knows of no logout.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from typing import Any

import ujson

from service.cache.cache_errors import CacheCommandError
from service.cache.cache_service import CacheService
from service.cache.premise import Premise
from template.account.ended_sessions import EndedSessions
from template.base.session_info import SessionInfo
from template.base.session_proof import Belief

_MOST_FOUND = 5000
"""Sessions that are remembered, about a kilobyte each."""

_TOKEN = re.compile(r"([0-9]{2,4})\.[A-Za-z0-9_-]{43}")


class SessionStore:
    """Creates, finds (with a sliding life of ``ttl_s``) and deletes sessions."""

    def __init__(self, cache: CacheService, ended: EndedSessions, ttl_s: int) -> None:
        self._cache = cache
        self._ended = ended
        self._ttl_s = ttl_s
        self._runs: dict[int, str | None] = {}
        self._found: dict[str, Belief] = {}

    async def create(self, account: SessionInfo) -> str:
        """Store a session of ``account`` (its ``session_key`` is ignored) and return its new token."""
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
        }
        await self._cache.get_client().execute(
            "SET", self._redis_key(session_key), ujson.dumps(record), "EX", self._ttl_s
        )
        return token

    async def find(self, token: str) -> SessionInfo | None:
        """The session of ``token``, whose life begins anew, or None; one round trip, except the first time in a
        run of Redis.

        Raises ``ServiceUnavailable`` when Redis, or the database where it must be asked, is away.
        """
        self._found.pop(token, None)
        shape = _TOKEN.fullmatch(token)
        if shape is None or int(shape[1]) >= self._cache.partitions.count:
            return None
        session_key = _session_key(token)
        client, key, epoch_key = self._cache.get_client(), self._redis_key(session_key), self._epoch_key(session_key)
        try:
            text, epoch = await client.execute_many([("GETEX", key, "EX", self._ttl_s), ("GET", epoch_key)])
        except CacheCommandError:  # a key of another type is no session
            return None
        record = _read(text, session_key)
        if record is None:
            return None
        if epoch is None or record.get("epoch") != epoch:
            if await self._ended.contains(_session_hash(session_key)):
                await client.execute("DEL", key)
                return None
            # XX: a logout meanwhile is not undone.
            text = ujson.dumps(record | {"epoch": epoch})
            await client.execute("SET", key, text, "EX", self._ttl_s, "XX")
        session = SessionInfo(
            account_id=str(record["account_id"]),
            account_db_key=int(record["account_db_key"]),
            shard_id=int(record["shard_id"]),
            nickname=str(record["nickname"]),
            session_key=session_key,
        )
        if epoch is not None:
            self._remember(token, Belief(session, Premise(key, text, self._ttl_s, epoch_key, epoch)))
        return session

    def recall(self, token: str) -> Belief | None:
        """The session of ``token`` as this process found it last, with what must hold for it to go on."""
        return self._found.get(token)

    def _remember(self, token: str, belief: Belief) -> None:
        if len(self._found) >= _MOST_FOUND:
            del self._found[next(iter(self._found))]
        self._found[token] = belief

    async def find_ended(self, tokens: Collection[str]) -> list[str]:
        """Those of ``tokens`` that :meth:`find` knows no more, for sessions that it found before; one round trip.

        Raises ``ServiceUnavailable`` as :meth:`find` does."""
        keys = {token: _session_key(token) for token in tokens}
        partitions = sorted({_partition(key) for key in keys.values()})
        client = self._cache.get_client()
        # The run itself: one that came back with older data may get the number that the lost one had.
        runs = [("GET", client.key("epoch_run", partition)) for partition in partitions]
        answers = await client.execute_many([*runs, *(("EXISTS", self._redis_key(key)) for key in keys.values())])
        seen = dict(zip(partitions, answers, strict=False))
        ended = [token for token, exists in zip(keys, answers[len(runs) :], strict=True) if not exists]
        # In another run of Redis a session that is there may have ended before.
        doubtful = [token for token, key in keys.items() if self._runs.get(_partition(key)) != seen[_partition(key)]]
        ended += [token for token in doubtful if token not in ended and await self.find(token) is None]
        self._runs.update(seen)
        return ended

    async def delete(self, session_key: str) -> None:
        """End the session of that name (``SessionInfo.session_key``) for good; a repeat changes nothing.

        When this raises, the session may go on. The row comes first: without it an old Redis could bring it back.
        """
        await self._ended.add(_session_hash(session_key))
        await self._cache.get_client().execute("DEL", self._redis_key(session_key))

    def _redis_key(self, session_key: str) -> str:
        return self._cache.get_client().key(f"session:{_session_hash(session_key)}", partition=_partition(session_key))

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
        int(record["account_db_key"]), int(record["shard_id"]), record["account_id"], record["nickname"]
    except (ValueError, TypeError, KeyError):
        return None
    return record
