"""What the chat needs from outside, as it needs it."""

from __future__ import annotations

from typing import Any, Protocol

Row = dict[str, Any]


class ShardDatabase(Protocol):
    """The one call of DatabaseService that most parts need."""

    async def call_shard_procedure(
        self, shard_id: int, name: str, params: Any = ()
    ) -> list[Row]: ...
