"""The part of a session that handlers need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SessionInfo:
    """The account behind a request. A host's own session service makes these for its own accounts.

    ``account_id`` is the canonical text id, ``account_db_key`` the number used in the shard
    databases, ``shard_id`` the account's shard (0 or less: not known to this session).
    ``session_key`` names the session to the store that made it; it is not the token.
    """

    account_id: str
    account_db_key: int = 0
    shard_id: int = 0
    nickname: str = ""
    session_key: str = ""
