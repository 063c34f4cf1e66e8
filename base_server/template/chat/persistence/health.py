"""Whether events reach MySQL, for ``/readyz``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from base_server.service.core.errors import ServiceError
from base_server.template.base.readiness import Health, ReadinessCheck
from base_server.template.chat.chat_persistence_consumer import (
    ChatPersistenceConsumer,
    ConsumerHealth,
)
from base_server.template.chat.domain.events import QUEUE_NAME

# A consumer that wrote nothing for so long, with work waiting and a database that answers, is
# stuck.
_STUCK_S = 60.0


class PingableShards(Protocol):
    """What is asked of DatabaseService."""

    @property
    def shard_ids(self) -> Sequence[int]: ...
    async def ping_shard(self, shard_id: int) -> None: ...


class PersistenceHealth:
    """Of one process. Events wait at most ``max_backlog`` per stream."""

    def __init__(
        self, consumer: ChatPersistenceConsumer, database: PingableShards, max_backlog: int
    ) -> None:
        self._consumer = consumer
        self._database = database
        self._max_backlog = max_backlog

    async def checks(self) -> list[ReadinessCheck]:
        """Raises ServiceUnavailable when Redis is away."""
        health = await self._consumer.health()
        checks = [await self._backlog_check(health)]
        if health.dead:
            fix = f"python -m application.manage dlq list --queue {QUEUE_NAME}"
            reason = f"{health.dead} events that the database refused, or behind one, wait for an"
            reason += f" operator: {fix}"
            checks.append(ReadinessCheck("chat_dead_letters", Health.DEGRADED, reason))
        if health.older_shards:
            reason = "; ".join(map(str, health.older_shards))
            if any(found.is_incomplete for found in health.older_shards):
                reason += "; until an operator has seen it: python -m application.manage db"
                reason += " acknowledge"
            checks.append(ReadinessCheck("chat_older_shards", Health.DEGRADED, reason))
        return checks

    async def _backlog_check(self, health: ConsumerHealth) -> ReadinessCheck:
        if health.largest_stream >= self._max_backlog:
            reason = f"{health.largest_stream} events wait, the limit is {self._max_backlog}"
            return ReadinessCheck("chat_backlog", Health.FAILED, reason)
        if health.backlog and health.silent_s > _STUCK_S:
            reason = (
                f"{health.backlog} events wait, nothing was written for {health.silent_s:.0f} s"
            )
            reason += f": {health.last_error}"
            return ReadinessCheck("chat_consumer", await self._diagnose(), reason)
        return ReadinessCheck("chat_consumer", Health.OK)

    async def _diagnose(self) -> Health:
        """FAILED when every shard answers (then it is the consumer), DEGRADED when one is away."""
        try:
            for shard_id in self._database.shard_ids:
                await self._database.ping_shard(shard_id)
        except ServiceError:
            return Health.DEGRADED
        return Health.FAILED
