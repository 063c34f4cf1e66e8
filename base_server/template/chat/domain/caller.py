"""Whose room it is: the account behind a request, with its shard and partition."""

from __future__ import annotations

from dataclasses import dataclass, field

from base_server.template.base.session_proof import SessionProof


@dataclass(frozen=True, slots=True)
class Caller:
    """``db_key`` names the account in the shard databases and in Redis records; ``partition`` is that of its keys.

    ``proof``: that of the session for which a request asks, where its first script has to give it."""

    account_id: str
    db_key: int
    shard_id: int
    partition: int
    proof: SessionProof | None = field(default=None, compare=False, repr=False)
