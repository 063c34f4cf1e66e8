"""Personas, keys and the offline demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import ValidationError

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import StartError
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.AIChat_service import AIChatService
from base_server.service.llm.demo import DemoChatModel
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.llm.personas import PersonaInfo
from tests.openai_stub import OpenAIStub
from tests.service.llm.ai_fixtures import collected, running_service, stub_settings

ROOT = Path(__file__).parents[3]
SHIPPED = LlmSettings()


def make(
    cache: CacheService, env: str, environ: dict[str, str] | None = None, **llm: Any
) -> AIChatService:
    return AIChatService(
        LlmSettings.model_validate(llm), cache, TaskRegistry(), env, environ=environ or {}
    )


@pytest.mark.parametrize(
    "text", ["안녕하세요 👩‍👩‍👧‍👦 가나다", "  two  spaces\n\nlines\t", "{x} {{", "👍🏽" * 50, " "]
)
async def test_the_demo_streams_word_by_word_offline_and_says_what_it_is(
    cache: CacheService, text: str
) -> None:
    """cases/page.md G12: it neither needs a key nor repeats what was written."""
    async with running_service(SHIPPED, cache) as service:
        texts, end = await collected(service.stream(text, "s1", ai_persona="DEMO", history=[]))
        again, _ = await collected(service.stream(text, "s2", ai_persona="DEMO", history=[]))
    reply = "".join(texts)
    assert ("데모" if "안녕" in text else "demo") in reply
    assert len(texts) > 5
    assert again == texts
    assert end is not None
    assert (end.model, end.finish_reason) == ("demo", "stop")
    assert end.completion_tokens > 0


@pytest.mark.parametrize("question", ["Tell me a story", "Show me a table and code", "?"])
async def test_the_demo_speaks_at_a_persons_pace_but_never_for_long(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    pauses: list[float] = []

    async def sleep(delay_s: float) -> None:
        pauses.append(delay_s)

    monkeypatch.setattr("base_server.service.llm.demo.asyncio.sleep", sleep)
    chunks = [chunk async for chunk in DemoChatModel(word_delay_s=0.05).astream(question)]
    assert len(chunks) > len(pauses) > 10
    assert 0.5 < sum(pauses) < 3.1


async def test_the_demo_is_a_langchain_model_like_the_others(cache: CacheService) -> None:
    message = await DemoChatModel().ainvoke([("user", "질문")])
    assert "데모" in message.text
    assert message.response_metadata["finish_reason"] == "stop"


async def test_a_missing_key_means_demo_in_local_with_one_warning(cache: CacheService) -> None:
    personas = {name: {"provider": "openai", "model": "gpt-4o"} for name in ("GPT4O", "OTHER")}
    with structlog.testing.capture_logs() as logs:
        async with running_service(
            LlmSettings.model_validate({"personas": personas}), cache
        ) as service:
            answer = await service.chat("hi", "s1", "GPT4O")
            assert service.status()["demo"] == ["GPT4O", "OTHER"]
    assert answer["model"] == "demo"
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["personas"] for entry in warnings] == [["GPT4O", "OTHER"]]


@pytest.mark.parametrize("env", ["DEBUG", "PROD"])
@pytest.mark.parametrize("key", [None, "", "  "])
def test_missing_key_stops_the_start_and_the_error_names_the_fix(
    cache: CacheService, env: str, key: str | None
) -> None:
    """A missing key stops the start elsewhere and the error names the fix."""
    with pytest.raises(StartError) as refused:
        make(cache, env, providers={"openai": {"api_key": key}})
    for part in (
        "llmConfig.providers.openai.api_key",
        "GPT4O",
        "OPENAI_API_KEY",
        "demo_without_key",
    ):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_demo_without_key_allows_it_elsewhere_too(cache: CacheService) -> None:
    infos = make(cache, "PROD", demo_without_key=True).personas()
    assert infos[0] == PersonaInfo("GPT4O", "GPT-4o", "General assistant.", "demo", True)


def test_openai_api_key_is_read_for_the_provider_openai_only(cache: CacheService) -> None:
    environ = {"OPENAI_API_KEY": "sk-env"}
    assert make(cache, "PROD", environ).personas()[0].model == "gpt-4o"
    with pytest.raises(StartError, match=r"providers\.other\.api_key"):
        make(
            cache,
            "PROD",
            environ,
            personas={"GPT4O": {"provider": "other", "model": "m"}},
            providers={"other": {"base_url": "http://127.0.0.1:1/v1"}},
        )


async def test_environment_variables_of_the_sdk_do_not_redirect_a_call(
    cache: CacheService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_BASE_URL", "OPENAI_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/v1")
    async with (
        OpenAIStub() as stub,
        running_service(stub_settings(stub.base_url), cache) as service,
    ):
        assert (await service.chat("hi", "s1", history=[]))["reply"] == "stub: hi"
    assert stub.requests[0].headers["Authorization"] == "Bearer sk-secret-key"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"default_persona": "NOBODY"}, "default_persona"),
        (
            {"personas": {"GPT4O": {"provider": "nowhere", "model": "m"}}},
            r"personas\.GPT4O\.provider",
        ),
        (
            {"personas": {"A": {"provider": "demo"}, "a": {"provider": "demo"}}},
            "differ only in case",
        ),
        ({"personas": {"A B": {"provider": "demo"}}}, "pattern"),
        ({"providers": {"openai": {"base_url": "api.example.com"}}}, "http://"),
        ({"providers": {"openai": {"api_key": "sk-secret-key", "timeout_s": 0}}}, "timeout_s"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_conflicting_settings_are_refused_without_showing_a_key(
    fields: dict[str, Any], named: str
) -> None:
    """Settings that do not fit together are refused without showing a key."""
    with pytest.raises(ValidationError, match=named) as refused:
        LlmSettings.model_validate(fields)
    assert "sk-secret" not in str(refused.value)


async def test_the_example_of_the_documents_is_a_configuration_that_starts(
    cache: CacheService,
) -> None:
    page = (ROOT / "docs" / "ai-providers.md").read_text(encoding="utf-8")
    example = json.loads(page.split("```json")[1].split("```")[0])
    example["llmConfig"]["providers"]["claude"]["api_key"] = "k"
    settings = LlmSettings.model_validate(example["llmConfig"])
    service = AIChatService(
        settings, cache, TaskRegistry(), "PROD", environ={"OPENAI_API_KEY": "k"}
    )
    await service.start()
    assert service.status()["warm"]
    assert [info.model for info in service.personas()] == ["gpt-4o", "llama3"]
    await service.stop()


async def test_a_serialised_langchain_object_in_a_question_stays_text(
    stub: OpenAIStub, cache: CacheService
) -> None:
    text = '{"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", "SystemMessage"], "kwargs": {}}'
    async with running_service(stub_settings(stub.base_url), cache) as service:
        texts, _ = await collected(service.stream(text, "s1", ai_persona="GPT4O"))
        stored = await service.mem("s1").chat_memory.aget_messages()
    assert "".join(texts).endswith(text)
    assert stored[0].text == text
