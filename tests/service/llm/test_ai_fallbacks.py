"""A persona's fallback models: before the first word only, and who answered is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import structlog

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import StartError
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.AIChat_service import AIChatService
from base_server.service.llm.conversation import ReplyChunk, ReplyEnd, ReplyStart
from base_server.service.llm.llm_errors import AITimeout, AIUnavailable, ReplyWithheld
from base_server.service.llm.llm_settings import LlmSettings
from tests.openai_stub import OpenAIStub, Reply
from tests.service.llm.ai_fixtures import next_text, running_service


@pytest.fixture
async def spare() -> AsyncIterator[OpenAIStub]:
    """The fallback's provider."""
    async with OpenAIStub() as running:
        yield running


def settings(
    first: OpenAIStub | None, second: OpenAIStub, key: str = "k", **limits: Any
) -> LlmSettings:
    url = first.base_url if first is not None else "http://127.0.0.1:9/v1"
    return LlmSettings.model_validate(
        {
            "default_persona": "P",
            "personas": {
                "P": {
                    "provider": "one",
                    "model": "m1",
                    "fallbacks": [{"provider": "two", "model": "m2"}],
                }
            },
            "providers": {
                "one": {"base_url": url, "api_key": key, "max_retries": 0, **limits},
                "two": {"base_url": second.base_url, "api_key": "k2"},
            },
        }
    )


FAILS = {
    "wrong key": Reply(status=401),
    "too busy": Reply(status=429),
    "conversation too long": Reply(
        status=400, error={"message": "", "code": "context_length_exceeded"}
    ),
    "no headers": Reply(silent=True),
    "no first token": Reply([], hang=True),
    "cut before the first token": Reply([], cut="clean"),
    "says nothing": Reply([]),
    "garbage": Reply(raw="<html>", content_type="text/html"),
}


@pytest.mark.parametrize("failure", FAILS)
async def test_model_failing_before_its_first_word_uses_the_fallback(
    stub: OpenAIStub, spare: OpenAIStub, cache: CacheService, failure: str
) -> None:
    """A model that fails before its first word is followed by the fallback."""
    stub.script(FAILS[failure])
    async with running_service(
        settings(stub, spare, first_token_timeout_s=1.5), cache, "PROD"
    ) as service:
        items = [item async for item in service.stream("hi", "s1", history=[])]
    assert [item.model for item in items if isinstance(item, ReplyStart)] == ["m1", "m2"]
    assert "".join(item.text for item in items if isinstance(item, ReplyChunk)) == "stub: hi"
    assert isinstance(items[-1], ReplyEnd)
    assert items[-1].model == "m2-stub"
    assert (stub.calls, spare.calls) == (1, 1)
    assert spare.requests[0].headers["Authorization"] == "Bearer k2"


async def test_a_provider_that_is_not_there_is_followed_too(
    spare: OpenAIStub, cache: CacheService
) -> None:
    async with running_service(settings(None, spare), cache) as service:
        assert (await service.chat("hi", "s1", history=[]))["model"] == "m2-stub"


@pytest.mark.parametrize(
    "cut", [Reply(["some"], cut="reset"), Reply(["some"], hang=True)], ids=["cut", "silent"]
)
async def test_after_the_first_word_nobody_else_is_asked(
    stub: OpenAIStub, spare: OpenAIStub, cache: CacheService, cut: Reply
) -> None:
    stub.script(cut)
    async with (
        running_service(settings(stub, spare, idle_timeout_s=0.5), cache) as service,
        aclosing(service.stream("hi", "s1", history=[])) as items,
    ):
        assert await next_text(items) == "some"
        with pytest.raises((AIUnavailable, AITimeout)):
            await anext(items)
    assert spare.calls == 0


async def test_what_a_provider_withholds_no_other_is_asked_to_say(
    stub: OpenAIStub, spare: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply([], finish_reason="content_filter"))
    async with running_service(settings(stub, spare), cache) as service:
        with pytest.raises(ReplyWithheld):
            await service.chat("hi", "s1", history=[])
    assert spare.calls == 0


async def test_when_all_fail_the_last_failure_is_told_and_each_was_asked_once(
    stub: OpenAIStub, spare: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply(status=401))
    spare.script(Reply(status=429, headers={"Retry-After": "30"}))
    with structlog.testing.capture_logs() as logs:
        async with running_service(settings(stub, spare), cache) as service:
            with pytest.raises(AIUnavailable, match="429") as failed:
                await service.chat("hi", "s1", history=[])
    assert failed.value.retry_after_s == 30
    calls = [entry for entry in logs if entry["event"] == "ai call"]
    assert [(call["provider"], call["model"], call["outcome"]) for call in calls] == [
        ("one", "m1", "failed"),
        ("two", "m2", "failed"),
    ]
    assert (stub.calls, spare.calls) == (1, 1)


async def test_model_without_key_is_left_out_and_logged_where_demo_may_serve(
    stub: OpenAIStub, spare: OpenAIStub, cache: CacheService
) -> None:
    """A model without its key is left out where demo may stand in and the log says so."""
    with structlog.testing.capture_logs() as logs:
        async with running_service(settings(stub, spare, key=""), cache, "LOCAL") as service:
            answer = await service.chat("hi", "s1", history=[])
            assert service.personas()[0].model == "m2"
            assert service.status()["demo"] == []
    assert answer["model"] == "m2-stub"
    assert stub.calls == 0
    warned = [entry for entry in logs if "left out" in entry["event"]]
    assert [entry["personas"] for entry in warned] == [["P"]]
    with pytest.raises(StartError, match=r"providers\.one\.api_key"):
        AIChatService(settings(stub, spare, key=""), cache, TaskRegistry(), "PROD", environ={})


async def test_the_demo_may_be_a_fallback_when_it_is_named(
    stub: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply(status=500))
    fields = settings(stub, stub).model_dump()
    fields["personas"]["P"]["fallbacks"] = [{"provider": "demo"}]
    async with running_service(LlmSettings.model_validate(fields), cache, "PROD") as service:
        assert (await service.chat("hi", "s1", history=[]))["model"] == "demo"
