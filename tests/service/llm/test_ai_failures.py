"""Whatever a provider does, callers see AIUnavailable or AITimeout, and no call is billed twice."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import ujson
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessageChunk, HumanMessageChunk, ToolMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from base_server.service.cache.cache_service import CacheService
from base_server.service.llm.call_permit import CallPermit
from base_server.service.llm.llm_errors import AITimeout, AIUnavailable
from base_server.service.llm.model_stream import ModelTraits
from base_server.service.llm.prompt import Prompt
from base_server.service.llm.provider_call import CallLimits, CallTarget, ProviderCall
from tests.certificates import make_certificate
from tests.openai_stub import OpenAIStub, Reply
from tests.service.llm.ai_fixtures import collected, next_text, running_service, stub_settings
from tests.silent_port import silent_port

# One limit alone: the others would be over first on a slow machine.
SHORT = {
    "first token": {"first_token_timeout_s": 1.0},
    "next token": {"idle_timeout_s": 0.5},
    "reply": {"timeout_s": 3.0},
}
CHUNK = '{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[%s]}'

BROKEN = {
    "429": Reply(status=429, headers={"Retry-After": "0"}),
    "400": Reply(status=400),
    "401": Reply(status=401),
    "403": Reply(status=403),
    "404": Reply(status=404),
    "408": Reply(status=408),
    "409": Reply(status=409),
    "418": Reply(status=418),
    "500": Reply(status=500, headers={"Retry-After": "0"}),
    "502": Reply(status=502),
    "504": Reply(status=504),
    "context too long": Reply(
        status=400, error={"message": "too long", "code": "context_length_exceeded"}
    ),
    "no JSON": Reply(raw="data: <html>busy</html>\n\n"),
    "not an event stream": Reply(raw="Service temporarily strange"),
    "a page of HTML": Reply(raw="<html><body>busy</body></html>", content_type="text/html"),
    "invalid UTF-8": Reply(raw="data: \udcff\udcfe\n\n"),
    "a list": Reply(raw="data: [1, 2]\n\n"),
    "a number": Reply(raw="data: 7\n\n"),
    "null": Reply(raw="data: null\n\n"),
    "choices of numbers": Reply(raw=f"data: {CHUNK % 1}\n\n"),
    "choice without delta": Reply(raw=f"data: {CHUNK % '{}'}\n\n"),
    "content of a wrong type": Reply(
        raw="data: " + CHUNK % '{"index":0,"delta":{"content":{"a":1}}}' + "\n\n"
    ),
    "unknown role": Reply(
        raw="data: " + CHUNK % '{"index":0,"delta":{"role":5,"content":"a"}}' + "\n\n"
    ),
    "an error event": Reply(
        raw='data: {"error": {"message": "the user said SECRET", "code": "overloaded"}}\n\n'
    ),
    "an error event after text": Reply(
        raw="data: "
        + CHUNK % '{"index":0,"delta":{"content":"a"}}'
        + '\n\ndata: {"error": {"message": "SECRET"}}\n\n'
    ),
    "an empty body": Reply(raw=""),
    "only [DONE]": Reply(raw="data: [DONE]\n\n"),
    "deep nesting": Reply(raw="data: " + "[" * 100_000 + "\n\n"),
    "cut in mid-JSON": Reply(["some", " text"], cut="mid_json"),
    "cut cleanly": Reply(["some", " text"], cut="clean"),
    "cut before the first token": Reply([], cut="clean"),
    "connection reset": Reply(["some"], cut="reset"),
    "withheld": Reply([], finish_reason="content_filter"),
    "withheld after text": Reply(["some"], finish_reason="content_filter"),
    "an empty reply": Reply([]),
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_provider_failure_is_ai_unavailable_and_only_refusals_retry(
    stub: OpenAIStub, cache: CacheService, broken: str
) -> None:
    """Every failure of a provider is ai unavailable and only refusals are repeated."""
    stub.script(*[BROKEN[broken]] * (3 if broken in {"429", "500"} else 1))
    async with running_service(stub_settings(stub.base_url, {"max_retries": 2}), cache) as service:
        with pytest.raises(AIUnavailable) as failed:
            await collected(service.stream("SECRET question", "s1", history=[]))
        assert failed.value.called
        assert failed.value.__cause__ is None
        assert stub.calls == (3 if broken in {"429", "500"} else 1)
        assert service.status()["running"] == 0
        assert (await service.chat("next", "s1", history=[]))["reply"] == "stub: next"


async def test_a_provider_that_is_not_there_is_ai_unavailable(cache: CacheService) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = taken.getsockname()[1]
        settings = stub_settings(
            f"http://user:geheim@127.0.0.1:{port}/v1?key=geheim", {"max_retries": 1}
        )
        async with running_service(settings, cache) as service:
            with structlog.testing.capture_logs() as logs, pytest.raises(AIUnavailable):
                await service.chat("hi", "s1", history=[])
    (call,) = [entry for entry in logs if entry["event"] == "ai call"]
    assert (call["outcome"], call["attempts"]) == ("failed", 2)
    assert call["base_url"] == f"http://127.0.0.1:{port}/v1"
    assert "ConnectError: " in call["reason"]
    assert "refused" in call["reason"] or "Connect call failed" in call["reason"]
    assert "geheim" not in json.dumps(logs)


async def test_a_name_that_nobody_knows_is_said(cache: CacheService) -> None:
    async with running_service(stub_settings("http://nobody.invalid/v1"), cache) as service:
        with pytest.raises(AIUnavailable, match=r"ConnectError: .*([Nn]ame|resol|address)"):
            await service.chat("hi", "s1", history=[])


async def test_a_certificate_that_nobody_vouches_for_is_said(
    tmp_path: Path, cache: CacheService
) -> None:
    certificate = make_certificate(tmp_path, "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    async with await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context
    ) as server:
        port = server.sockets[0].getsockname()[1]
        async with running_service(stub_settings(f"https://127.0.0.1:{port}/v1"), cache) as service:
            with pytest.raises(AIUnavailable, match=r"ConnectError: .*certificate"):
                await service.chat("hi", "s1", history=[])


async def test_text_before_a_cut_is_delivered_before_the_error(
    stub: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply(["some", " text"], cut="mid_json"))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        items = service.stream("hi", "s1", history=[])
        assert [await next_text(items), await next_text(items)] == ["some", " text"]
        with pytest.raises(AIUnavailable):
            await anext(items)


@pytest.mark.parametrize(
    ("endless", "reason"),
    [
        ("x" * 65_536, "event of the provider's has no end"),
        ("data: " + "x" * 65_536 + "\n", "event of the provider's has no end"),
        (": " + "x" * 65_536 + "\n\n", "sent too much"),
    ],
    ids=["one line", "lines of one event", "comments"],
)
async def test_a_provider_that_sends_without_end_is_left_after_some_megabytes(
    stub: OpenAIStub, cache: CacheService, endless: str, reason: str
) -> None:
    stub.script(Reply(["some"], endless=endless))
    limits = {"first_token_timeout_s": 600, "idle_timeout_s": 600, "timeout_s": 600}
    async with running_service(
        stub_settings(stub.base_url, limits, max_reply_chars=20_000), cache
    ) as service:
        items = service.stream("hi", "s1", history=[])
        assert await next_text(items) == "some"
        with pytest.raises(AIUnavailable, match=reason):
            await anext(items)
        await stub.requests[0].ended.wait()
        assert stub.requests[0].closed_by_client


@pytest.mark.parametrize(
    ("reply", "phase"),
    [
        (Reply(silent=True), "first token"),
        (Reply([], hang=True), "first token"),
        (Reply(["a"], hang=True), "next token"),
        (Reply(["a"] * 100, delay_s=0.1), "reply"),
    ],
    ids=["no headers", "silent from the start", "silent after a token", "too slow in all"],
)
async def test_every_kind_of_slowness_is_ai_timeout_and_closes_the_connection(
    stub: OpenAIStub, cache: CacheService, reply: Reply, phase: str
) -> None:
    stub.script(reply)
    async with running_service(
        stub_settings(stub.base_url, {**SHORT[phase], "max_retries": 3}), cache
    ) as service:
        with pytest.raises(AITimeout) as failed:
            await service.chat("hi", "s1", history=[])
        assert failed.value.phase == phase
        await stub.requests[0].ended.wait()
        assert stub.requests[0].closed_by_client
        assert stub.calls == 1, "a call that may have been served is not repeated"


async def test_provider_without_connection_is_ai_timeout_after_retries(
    cache: CacheService,
) -> None:
    """A provider that takes no connection is ai timeout after its retries."""
    with silent_port() as port:
        limits = {"connect_timeout_s": 0.2, "max_retries": 1}
        async with running_service(
            stub_settings(f"http://127.0.0.1:{port}/v1", limits), cache
        ) as service:
            with structlog.testing.capture_logs() as logs, pytest.raises(AITimeout) as failed:
                await service.chat("hi", "s1", history=[])
    assert failed.value.phase == "connect"
    assert [entry["attempts"] for entry in logs if entry["event"] == "ai call"] == [2]


async def test_a_provider_that_accepts_and_never_answers_is_ai_timeout(cache: CacheService) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        settings = stub_settings(
            f"http://127.0.0.1:{silent.getsockname()[1]}/v1", SHORT["first token"]
        )
        async with running_service(settings, cache) as service:
            with pytest.raises(AITimeout, match="first token"):
                await service.chat("hi", "s1", history=[])


async def test_a_whole_reply_counts_although_the_provider_then_stalls(
    stub: OpenAIStub, cache: CacheService
) -> None:
    end = (
        "data: " + CHUNK % '{"index":0,"delta":{"content":"done"},"finish_reason":"stop"}' + "\n\n"
    )
    stub.script(Reply(raw=end, hang=True))
    async with running_service(stub_settings(stub.base_url, SHORT["next token"]), cache) as service:
        answer = await service.chat("hi", "s1", history=[])
    assert (answer["reply"], answer["finish_reason"]) == ("done", "stop")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"model": "m\ud800\0"}, {"model": "m??"}),
        ({"model": "m" * 100_000}, {"model": "m" * 200}),
        ({"usage": {"prompt_tokens": 10**400, "completion_tokens": 1, "total_tokens": 1}}, {}),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": -5, "total_tokens": 1}}, {}),
    ],
)
async def test_what_else_a_provider_says_of_a_whole_reply_cannot_spoil_it(
    stub: OpenAIStub, cache: CacheService, said: dict[str, Any], told: dict[str, Any]
) -> None:
    end = json.loads(CHUNK % '{"index":0,"delta":{"content":"done"},"finish_reason":"stop"}') | said
    stub.script(Reply(raw=f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n"))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        answer = await service.chat("hi", "s1", history=[])
    assert (answer["reply"], answer["finish_reason"]) == ("done", "stop")
    assert {name: answer[name] for name in told} == told
    ujson.dumps(answer, ensure_ascii=False).encode()
    assert all(0 <= count < 1000 for count in answer["tokens"].values())


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_refusal_is_retried_as_often_as_configured(
    stub: OpenAIStub, cache: CacheService, status: int
) -> None:
    refusal = Reply(status=status, headers={"Retry-After": "0"})
    async with running_service(stub_settings(stub.base_url, {"max_retries": 2}), cache) as service:
        stub.script(refusal, refusal)
        assert (await service.chat("hi", "s1", history=[]))["reply"] == "stub: hi"
        assert stub.calls == 3
        stub.script(refusal, refusal, refusal)
        with pytest.raises(AIUnavailable):
            await service.chat("hi", "s1", history=[])
        assert stub.calls == 6


async def test_a_long_retry_after_is_passed_on_and_not_waited_for(
    stub: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply(status=429, headers={"Retry-After": "30"}))
    async with running_service(stub_settings(stub.base_url, {"max_retries": 2}), cache) as service:
        with pytest.raises(AIUnavailable) as failed:
            await service.chat("hi", "s1", history=[])
    assert (failed.value.retry_after_s, stub.calls) == (30, 1)


async def test_logs_and_errors_hold_no_key_question_or_provider_prose(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """No log and no error text holds the key the question or the providers prose."""
    error = {"message": "bad key sk-secret-key for SECRET", "type": "x", "code": "invalid_api_key"}
    stub.script(Reply(status=401, error=error), Reply(["SECRET reply"]))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        with structlog.testing.capture_logs() as logs:
            with pytest.raises(AIUnavailable) as failed:
                await service.chat("SECRET question", "s1", history=[])
            await service.chat("SECRET question", "s1", history=[])
    written = json.dumps(logs) + str(failed.value)
    assert "invalid_api_key" in written
    assert "HTTP 401" in written
    assert "SECRET" not in written
    assert "sk-secret" not in written


class _RaisingModel(GenericFakeChatModel):
    """A LangChain model that fails with any exception after one chunk."""

    error: Exception
    after: int = 0

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        for _i in range(self.after):
            yield ChatGenerationChunk(message=AIMessageChunk(content="a"))
        raise self.error


async def anyone() -> None:
    """Every caller may ask."""


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize(
    "error",
    [RuntimeError, KeyError, RecursionError, MemoryError, OSError, StopIteration, AssertionError],
)
async def test_any_exception_of_langchain_is_mapped(error: type[Exception], after: int) -> None:
    model = _RaisingModel(messages=iter([]), error=error("SECRET"), after=after)
    limits = CallLimits(1, 1, 1, 1, 2, 1000)
    callee = CallTarget(
        model, ModelTraits(says_why=True, usage_adds_up=False), limits, "P", "p", "m", None
    )
    with pytest.raises(AIUnavailable) as failed:
        await collected(ProviderCall(callee, Prompt("", [], "hi"), CallPermit(anyone)).stream())
    assert "SECRET" not in str(failed.value)


class _ChunkModel(GenericFakeChatModel):
    """A LangChain model that streams one chunk as it is, whatever its type."""

    message: Any

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        yield ChatGenerationChunk.model_construct(
            message=self.message, generation_info={"finish_reason": "stop"}
        )


def _call(model: GenericFakeChatModel) -> ProviderCall:
    callee = CallTarget(
        model,
        ModelTraits(says_why=True, usage_adds_up=False),
        CallLimits(1, 1, 1, 1, 2, 9),
        "P",
        "p",
        "m",
        None,
    )
    return ProviderCall(callee, Prompt("", [], "hi"), CallPermit(anyone))


@pytest.mark.parametrize(
    "message",
    [HumanMessageChunk("a"), ToolMessageChunk("a", tool_call_id="1")],
    ids=["user", "tool"],
)
async def test_chunk_of_another_role_is_text(message: Any) -> None:
    """cases/providers.md V3."""
    texts, end = await collected(_call(_ChunkModel(messages=iter([]), message=message)).stream())
    assert (texts, end and end.finish_reason) == (["a"], "stop")


@pytest.mark.parametrize(
    "wrong",
    [{"content": 5}, {"content": None}, {"usage_metadata": {"SECRET": 1}}, {"usage_metadata": [1]}],
    ids=str,
)
async def test_chunk_that_cannot_be_read_is_ai_unavailable(wrong: dict[str, Any]) -> None:
    """cases/providers.md V3: ProviderCall.stream raises only AIUnavailable and AITimeout."""
    message = AIMessageChunk("a").model_copy(update=wrong)
    with pytest.raises(AIUnavailable) as failed:
        await collected(_call(_ChunkModel(messages=iter([]), message=message)).stream())
    assert "SECRET" not in str(failed.value)
