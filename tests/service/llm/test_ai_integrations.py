"""Providers of other LangChain integrations, by Anthropic's over a real socket: the same rules as
OpenAI's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import StartError
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.AIChat_service import AIChatService
from base_server.service.llm.conversation import HistoryMessage, ReplyStart
from base_server.service.llm.llm_errors import AITimeout, AIUnavailable, ReplyWithheld
from base_server.service.llm.llm_settings import LlmSettings
from tests.anthropic_stub import AnthropicStub
from tests.openai_stub import OpenAIStub, Reply
from tests.service.llm.ai_fixtures import collected, next_text, running_service
from tests.waiting import PATIENCE_S


@pytest.fixture
async def claude() -> AsyncIterator[AnthropicStub]:
    async with AnthropicStub() as running:
        yield running


def settings(
    base_url: str,
    provider: dict[str, Any] | None = None,
    others: dict[str, Any] | None = None,
    **persona: Any,
) -> LlmSettings:
    """Persona CLAUDE of the provider ``claude``; ``others``: more providers."""
    fields = {
        "integration": "anthropic",
        "base_url": base_url,
        "api_key": "sk-secret-key",
        "max_retries": 0,
    }
    return LlmSettings.model_validate(
        {
            "default_persona": "CLAUDE",
            "personas": {"CLAUDE": {"provider": "claude", "model": "claude-x", **persona}},
            "providers": {"claude": {**fields, **(provider or {})}, **(others or {})},
        }
    )


async def test_reply_has_the_providers_usage_and_personas_parameters(
    claude: AnthropicStub, cache: CacheService
) -> None:
    """A reply comes with the providers usage and the personas parameters are sent."""
    claude.script(Reply(["안녕", "하세요 ", "👋🏽"], usage=(21, 5)))
    chosen = settings(
        claude.base_url,
        system_prompt="be {x}",
        temperature=0.25,
        max_tokens=77,
        options={"top_k": 3},
    )
    async with running_service(chosen, cache, "PROD") as service:
        texts, end = await collected(
            service.stream(
                "hi {{", "s1", history=[HistoryMessage("USER", "a"), HistoryMessage("AI", "b")]
            )
        )
    assert "".join(texts) == "안녕하세요 👋🏽"
    assert len(texts) == 3
    assert end is not None
    assert (end.model, end.prompt_tokens, end.completion_tokens, end.finish_reason) == (
        "claude-x-stub",
        21,
        5,
        "stop",
    )
    body = claude.requests[0].body
    assert (body["model"], body["temperature"], body["max_tokens"], body["top_k"]) == (
        "claude-x",
        0.25,
        77,
        3,
    )
    assert body["system"] == "be {x}"
    assert [message["content"] for message in body["messages"]] == ["a", "b", "hi {{"]
    assert "sk-secret-key" in claude.requests[0].headers["Authorization"]


async def test_its_ways_to_end_are_known(claude: AnthropicStub, cache: CacheService) -> None:
    claude.script(
        Reply(["a"], finish_reason="max_tokens"),
        Reply(["a"], finish_reason="refusal"),
        Reply(["a"], cut="clean"),
    )
    async with running_service(settings(claude.base_url), cache) as service:
        assert (await service.chat("hi", "s1", history=[]))["finish_reason"] == "length"
        with pytest.raises(ReplyWithheld):
            await service.chat("hi", "s1", history=[])
        with pytest.raises(AIUnavailable, match="cut off"):
            await service.chat("hi", "s1", history=[])


@pytest.mark.parametrize("max_retries", [0, 2])
async def test_a_refusal_is_repeated_as_configured_and_not_by_the_sdk(
    claude: AnthropicStub, cache: CacheService, max_retries: int
) -> None:
    claude.script(*[Reply(status=529, headers={"Retry-After": "0"})] * 5)
    async with running_service(
        settings(claude.base_url, {"max_retries": max_retries}), cache
    ) as service:
        with pytest.raises(AIUnavailable):
            await service.chat("hi", "s1", history=[])
    assert claude.calls == 1 + max_retries


@pytest.mark.parametrize(
    ("reply", "phase"),
    [
        (Reply(silent=True), "first token"),
        (Reply([], hang=True), "first token"),
        (Reply(["a"], hang=True), "next token"),
    ],
    ids=["no headers", "no token", "no second token"],
)
async def test_slowness_is_ai_timeout_and_closes_the_connection(
    claude: AnthropicStub, cache: CacheService, reply: Reply, phase: str
) -> None:
    claude.script(reply)
    limits = {"first_token_timeout_s": 1.0} if phase == "first token" else {"idle_timeout_s": 0.5}
    async with running_service(settings(claude.base_url, limits), cache) as service:
        with pytest.raises(AITimeout) as failed:
            await service.chat("hi", "s1", history=[])
        assert failed.value.phase == phase
        await asyncio.wait_for(claude.requests[0].ended.wait(), PATIENCE_S)
        assert claude.requests[0].closed_by_client


@pytest.mark.parametrize("how", ["left", "service stopped"])
async def test_leaving_and_stopping_close_the_connection(
    claude: AnthropicStub, cache: CacheService, how: str
) -> None:
    claude.script(Reply(["one"], hang=True))
    async with running_service(settings(claude.base_url), cache) as service:
        items = service.stream("hi", "s1", history=[])
        assert await next_text(items) == "one"
        if how == "left":
            await items.aclose()
        else:
            waiting = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0)
            await service.stop()
            with pytest.raises(AIUnavailable, match="stopped"):
                await asyncio.wait_for(waiting, PATIENCE_S)
        await asyncio.wait_for(claude.requests[0].ended.wait(), PATIENCE_S)
        assert claude.requests[0].closed_by_client


async def test_a_fallback_may_speak_another_protocol(
    claude: AnthropicStub, stub: OpenAIStub, cache: CacheService
) -> None:
    claude.script(Reply(status=500))
    others = {"other": {"base_url": stub.base_url, "key_required": False}}
    chosen = settings(
        claude.base_url, others=others, fallbacks=[{"provider": "other", "model": "m"}]
    )
    async with running_service(chosen, cache) as service:
        items = [item async for item in service.stream("hi", "s1", history=[])]
    assert [item.model for item in items if isinstance(item, ReplyStart)] == ["claude-x", "m"]
    assert (claude.calls, stub.calls) == (1, 1)


@pytest.mark.parametrize(
    ("provider", "persona", "named"),
    [
        ({"integration": "ollama"}, {}, "pip install langchain-ollama"),
        ({"integration": "nobody"}, {}, "nobody"),
        ({}, {"options": {"num_ctx": 8192}}, "num_ctx"),
        ({}, {"options": {"top_k": "many"}}, "top_k"),
        (
            {"integration": "openai"},
            {"options": {"num_ctx": 8192}},
            "ChatOpenAI does not know num_ctx",
        ),
    ],
    ids=[
        "package missing",
        "unknown integration",
        "unknown option",
        "wrong option",
        "unknown option of openai",
    ],
)
async def test_what_langchain_cannot_build_stops_the_start_and_says_why(
    cache: CacheService, provider: dict[str, Any], persona: dict[str, Any], named: str
) -> None:
    tasks = TaskRegistry()
    service = AIChatService(
        settings("http://127.0.0.1:9", provider, **persona), cache, tasks, "PROD", environ={}
    )
    with pytest.raises(StartError) as refused:
        await service.start()
    await service.stop()
    text = str(refused.value)
    assert named in text
    assert "llmConfig.providers.claude" in text
    assert "\n" not in text
    assert "sk-secret" not in text
    assert await tasks.drain(5) == 0
