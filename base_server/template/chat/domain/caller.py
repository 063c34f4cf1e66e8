"""Whose room it is: the account behind a request, with its shard and partition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

RunScript = Callable[..., Awaitable[Any]]
"""As CacheClient.run_script."""


@dataclass(frozen=True, slots=True)
class Caller:
    """``db_key`` names the account in the shard databases and in Redis records; ``partition`` is
    that of its keys.

    ``run_script`` runs the scripts of a request, the first of which verifies the session. None:
    there is no session to verify."""

    account_id: str
    db_key: int
    shard_id: int
    partition: int
    run_script: RunScript | None = field(default=None, compare=False, repr=False)
