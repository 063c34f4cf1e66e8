"""Logs the durability level at start, and again when a setting of Redis or a database changed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from base_server.service.core.durability import Durability
from base_server.service.core.errors import ServiceError
from base_server.service.core.logger import Logger
from base_server.service.service_container import ServiceContainer

_INTERVAL_S = 60.0


class DurabilityWatch:
    """Queries Redis and the databases once a minute; one that is down keeps its last level."""

    def __init__(self, container: ServiceContainer, interval_s: float = _INTERVAL_S) -> None:
        self._container = container
        self._interval_s = interval_s
        self._known: dict[str, Durability] = {}
        self._watching: asyncio.Task[None] | None = None

    @property
    def findings(self) -> Sequence[Durability]:
        return list(self._known.values())

    async def start(self) -> None:
        """Query once, then every minute in the background."""
        await self._look()
        self._watching = self._container.tasks.spawn(self._watch(), "durability watch")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._look()

    async def _look(self) -> None:
        found: list[Durability] = []
        try:
            found += await self._container.database.durability()
            found.append(await self._container.cache.durability())
        except ServiceError as error:
            Logger.debug("durability not known", reason=str(error))
        for durability in found:
            before = self._known.get(durability.server)
            self._known[durability.server] = durability
            if before is None or (before.safe, before.sentence) != (
                durability.safe,
                durability.sentence,
            ):
                log = Logger.info if durability.safe else Logger.warn
                log(
                    "what an acknowledgement is worth",
                    server=durability.server,
                    worth=durability.sentence,
                )
