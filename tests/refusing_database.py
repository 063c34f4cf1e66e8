"""A database that refuses chosen writes of the persistence consumer."""

from __future__ import annotations

from typing import Any

from base_server.service.core.errors import DataRefused, ServiceUnavailable
from tests.chat_harness import ChatHarness

POISON = "☠"


class Refusing:
    """The database, which refuses every write that holds ``POISON`` as long as ``on``."""

    def __init__(self, chat: ChatHarness) -> None:
        self.on = True
        self.down = False
        self.reads_too = False
        self._database = chat.container.database
        chat.template.parts.consumer.writer._database = self

    async def call_shard_procedure(
        self, shard_id: int, name: str, params: Any = ()
    ) -> list[dict[str, Any]]:
        if self.down:
            raise ServiceUnavailable("database", "read only")
        texts = [str(param) for param in params]
        if self.on and any(POISON in text for text in texts):
            raise DataRefused(1366, "Incorrect string value")
        if self.reads_too and name == "fp_chat_room_get":
            raise ServiceUnavailable("database", "away")
        return await self._database.call_shard_procedure(shard_id, name, params)
