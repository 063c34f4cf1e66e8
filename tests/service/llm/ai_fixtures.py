"""For the tests of service/llm: a service on an embedded cache, settings that point at a stub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.AIChat_service import AIChatService
from base_server.service.llm.conversation import ReplyChunk, ReplyEnd, ReplyStart
from base_server.service.llm.llm_settings import LlmSettings


def stub_settings(base_url: str, provider: dict[str, Any] | None = None, **llm: Any) -> LlmSettings:
    """Persona GPT4O on the stub, without retries unless asked for; persona DEMO offline."""
    llm.setdefault(
        "personas",
        {
            "GPT4O": {"provider": "openai", "model": "gpt-4o"},
            "DEMO": {"provider": "demo", "model": "demo"},
        },
    )
    fields = {
        "base_url": base_url,
        "api_key": "sk-secret-key",
        "max_retries": 0,
        **(provider or {}),
    }
    return LlmSettings.model_validate({"providers": {"openai": fields}, **llm})


@asynccontextmanager
async def running_cache(data_dir: Path) -> AsyncIterator[CacheService]:
    cache = CacheService(
        CacheSettings(), app_id="app", env="LOCAL", partitions=16, data_dir=data_dir
    )
    await cache.start()
    try:
        yield cache
    finally:
        await cache.stop()


@asynccontextmanager
async def running_service(
    settings: LlmSettings, cache: CacheService, env: str = "LOCAL"
) -> AsyncIterator[AIChatService]:
    tasks = TaskRegistry()
    service = AIChatService(settings, cache, tasks, env, environ={})
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        assert await tasks.drain(5) == 0


async def collected(stream: Any) -> tuple[list[str], ReplyEnd | None]:
    """The texts of a stream and its end."""
    texts, end = [], None
    async for item in stream:
        if isinstance(item, ReplyChunk):
            texts.append(item.text)
        elif isinstance(item, ReplyEnd):
            end = item
    return texts, end


async def next_text(items: Any) -> str:
    """The next piece of a stream; what is not text is passed over."""
    while isinstance(item := await anext(items), ReplyStart):
        pass
    assert isinstance(item, ReplyChunk), item
    return item.text
