"""Sessions in Redis under the hash of their token: who reads Redis cannot log in with what it finds.

A token is ``<partition>.<43 random characters>``: the partition is that of the account, so a
request's session lies in the same Redis slot as the account's rooms.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets

from service.cache.cache_errors import CacheCommandError
from service.cache.cache_service import CacheService
from template.base.session_info import SessionInfo

_TOKEN = re.compile(r"([0-9]{2,4})\.[A-Za-z0-9_-]{43}")


class SessionStore:
    """Creates, finds (with a sliding life of ``ttl_s``) and deletes sessions."""

    def __init__(self, cache: CacheService, ttl_s: int) -> None:
        self._cache = cache
        self._ttl_s = ttl_s

    async def create(self, account: SessionInfo) -> str:
        """Store a session of ``account`` (its ``session_key`` is ignored) and return its new token."""
        partition = self._cache.partitions.of_text(account.account_id)
        token = f"{partition:02d}.{secrets.token_urlsafe(32)}"
        session_key = _session_key(token)
        record = {
            "key": session_key,
            "account_id": account.account_id,
            "account_db_key": account.account_db_key,
            "shard_id": account.shard_id,
            "nickname": account.nickname,
        }
        await self._cache.get_client().execute(
            "SET", self._redis_key(session_key), json.dumps(record), "EX", self._ttl_s
        )
        return token

    async def find(self, token: str) -> SessionInfo | None:
        """The session of ``token``, whose life begins anew, or None; one round trip.

        Raises ``ServiceUnavailable`` when Redis cannot be asked.
        """
        shape = _TOKEN.fullmatch(token)
        if shape is None or int(shape[1]) >= self._cache.partitions.count:
            return None
        session_key = _session_key(token)
        try:
            text = await self._cache.get_client().execute("GETEX", self._redis_key(session_key), "EX", self._ttl_s)
        except CacheCommandError:  # a key of another type is no session
            return None
        return _read(text, session_key)

    async def delete(self, session_key: str) -> None:
        """End the session of that name (``SessionInfo.session_key``); ending it again changes nothing."""
        await self._cache.get_client().execute("DEL", self._redis_key(session_key))

    def _redis_key(self, session_key: str) -> str:
        partition, digest = session_key.split(".")
        return self._cache.get_client().key(f"session:{digest}", partition=int(partition))


def _session_key(token: str) -> str:
    return f"{token.split('.', maxsplit=1)[0]}.{hashlib.sha256(token.encode()).hexdigest()}"


def _read(text: str | None, session_key: str) -> SessionInfo | None:
    """The stored session, if it is whole and really the one that was asked for."""
    try:
        record = json.loads(text or "null")
        if record["key"] != session_key:
            return None
        return SessionInfo(
            account_id=str(record["account_id"]),
            account_db_key=int(record["account_db_key"]),
            shard_id=int(record["shard_id"]),
            nickname=str(record["nickname"]),
            session_key=session_key,
        )
    except (ValueError, TypeError, KeyError):
        return None
