"""The services for an operator's command, beside a running server or on a stopped one's data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_service import LockService
from base_server.service.queue.queue_service import QueueService
from base_server.template.chat.persistence.dead_letters import ChatDeadLetters
from base_server.template.chat.persistence.older_shards import OlderShards

from ..base_web_server.config.loading import ServerSettings


@dataclass(frozen=True)
class Operating:
    """``how``: a sentence that says which Redis this is."""

    cache: CacheService
    queue: QueueService
    chat_letters: ChatDeadLetters
    older_shards: OlderShards
    how: str


@asynccontextmanager
async def operating(settings: ServerSettings) -> AsyncIterator[Operating]:
    """Connect to Redis as the server does. Raises StartError.

    A running embedded Valkey is reached through its socket; one that does not run is started for
    the duration of the command.
    """
    cache_settings, how = await _reach(settings)
    tasks = TaskRegistry()
    cache = CacheService(
        # An operator must be able to manage a Redis on which PROD refuses to start.
        cache_settings.model_copy(update={"accept_volatile": True}),
        app_id=settings.templateConfig.appId,
        env=settings.templateConfig.env,
        partitions=settings.queueConfig.partitions,
        data_dir=settings.templateConfig.data_dir.absolute(),
    )
    await cache.start()
    try:
        queue = QueueService(settings.queueConfig, cache, LockService(cache), tasks)
        letters = ChatDeadLetters(queue, cache.get_bulk_client(), settings.chatConfig)
        older = OlderShards(cache.get_bulk_client())
        yield Operating(cache, queue, letters, older, how)
    finally:
        await tasks.drain(1.0)
        await cache.stop()


async def _reach(settings: ServerSettings) -> tuple[CacheSettings, str]:
    cache = settings.cacheConfig
    if cache.type != "embedded":
        return cache, f"Redis at {cache.address}"
    from base_server.service.cache.embedded import find_running  # noqa: PLC0415 - needs POSIX file locks

    data_dir = settings.templateConfig.data_dir.absolute()
    if (running := await find_running(data_dir, cache)) is not None:
        return running, f"the embedded Valkey that runs in {data_dir}"
    return cache, f"the embedded Valkey of {data_dir}, started for this command"
