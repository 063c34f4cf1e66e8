"""Whose room it is: the account behind a request, with its shard and partition."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """``db_key`` names the account in the shard databases and in Redis records; ``partition`` is that of its keys."""

    account_id: str
    db_key: int
    shard_id: int
    partition: int
