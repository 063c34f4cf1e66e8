"""What providers send in the wild, over a real socket: keep-alives, finish reasons, ends, refused
prompts."""

from __future__ import annotations

import json
import warnings
from typing import Any

import httpx
import pydantic.main
import pytest
import structlog

from base_server.service.cache.cache_service import CacheService
from base_server.service.llm.conversation import HistoryMessage, ReplyStart
from base_server.service.llm.failures import is_context_overflow
from base_server.service.llm.llm_errors import AIUnavailable, ConversationTooLong, ReplyWithheld
from tests.anthropic_stub import AnthropicStub
from tests.openai_stub import OpenAIStub, Reply, context_of, refuse_unlike_roles
from tests.service.llm.ai_fixtures import collected, running_service, stub_settings

KEEP_ALIVES = {
    "comment": ": ping\n\n",
    "comments between lines": ":\n: a\n\n:\n",
    "an id, later a blank line": "id: 1\n\n: ping\n\n",
    "an id without a blank line": "id: 1\n",
    "retry": "retry: 3000\n\n",
    "retry without a blank line": "retry: 3000\n",
    "an event name alone": "event: ping\n\n",
    "an event name and an id": "event: ping\nid: 2\nretry: 1\n\n",
    "empty data": "data\n\ndata:\n\ndata: \n\n",
    "named keep-alives with data": 'event: ping\ndata: {"type": "ping"}\n\nevent: heartbeat\ndata: now\n\n',
    "data that is no object": "".join(
        f"data: {data}\n\n" for data in ("ping", "null", "[]", "7", '"{"', "busy")
    ),
    "blank lines": "\n\n\n",
    "unknown fields": "foo: bar\nbaz\n\n",
}
"""Between the tokens of a reply; none of them is part of it."""


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("kind", KEEP_ALIVES)
async def test_reply_with_keep_alives_is_whole(
    stub: OpenAIStub, cache: CacheService, kind: str, line_end: str
) -> None:
    """cases/providers.md V2."""
    stub.script(Reply(["안녕", " ", "👋🏽"], keep_alive=KEEP_ALIVES[kind], line_end=line_end))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        answer = await service.chat("hi", "s1", history=[])
    assert (answer["reply"], answer["finish_reason"]) == ("안녕 👋🏽", "stop")
    assert answer["tokens"] == {"prompt": 11, "completion": 7, "total": 18}


CHUNK = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}


USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def chunk(content: str | list[Any] | None = None, finish_reason: Any = None) -> str:
    delta = {} if content is None else {"content": content}
    return json.dumps(
        {**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    )


def events(*data: str) -> str:
    return "".join(f"data: {text}\n\n" for text in data)


WHOLE_STREAMS = {
    "byte order mark": "\ufeff" + events(chunk("a"), chunk("b", "stop"), "[DONE]"),
    "no space after the colon": events(chunk("a"), chunk("b", "stop"), "[DONE]").replace(
        "data: ", "data:"
    ),
    "a JSON text over several lines": "data: "
    + json.dumps(json.loads(chunk("ab", "stop")), indent=1).replace("\n", "\ndata: ")
    + "\n\ndata: [DONE]\n\n",
    "named events": events(chunk("a"), chunk("b", "stop")).replace(
        "data:", "event: message\ndata:"
    ),
    "blank lines before": "\n \r\n\n" + events(chunk("a"), chunk("b", "stop")),
    "invalid UTF-8 in a comment": ": \udcff\udce2\n\n" + events(chunk("a"), chunk("b", "stop")),
    "an unfinished event after the end": events(chunk("ab", "stop"), "[DONE]") + "data: {",
    "separators that are no line ends": events(chunk("a"), chunk("b", "stop")).replace(
        "data", ":\x0b\x0c\x85\u2028\ndata"
    ),
}


@pytest.mark.parametrize("kind", WHOLE_STREAMS)
async def test_stream_of_the_standard_is_a_whole_reply(
    stub: OpenAIStub, cache: CacheService, kind: str
) -> None:
    """cases/providers.md V2."""
    stub.script(Reply(raw=WHOLE_STREAMS[kind]))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        answer = await service.chat("hi", "s1", history=[])
    assert (answer["reply"], answer["finish_reason"]) == ("ab", "stop")


@pytest.mark.parametrize("status", [201, 203, 299])
async def test_event_stream_of_any_success_is_read(
    stub: OpenAIStub, cache: CacheService, status: int
) -> None:
    """cases/providers.md V2."""
    stream = "id: 1\n\n" + events(chunk("a"), "ping", chunk("b"), "[DONE]")
    stub.script(Reply(status=status, raw=stream))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        assert (await service.chat("hi", "s1", history=[]))["reply"] == "ab"


@pytest.mark.parametrize("role", ["user", "system", "tool", "model", "", None])
async def test_role_of_a_delta_does_not_matter(
    stub: OpenAIStub, cache: CacheService, role: str | None
) -> None:
    """cases/providers.md V3: the first chunk may name any."""
    first = json.dumps(
        {**CHUNK, "choices": [{"index": 0, "delta": {"role": role, "content": "a"}}]}
    )
    stub.script(Reply(raw=events(first, chunk("b", "stop"), "[DONE]")))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        assert (await service.chat("hi", "s1", history=[]))["reply"] == "ab"


async def test_content_in_parts_leaves_no_warning_behind(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """cases/providers.md V2: nothing is printed, and the interpreter's registry of warnings does
    not grow."""
    parts = [chunk([{"type": "text", "text": f"{number},"}]) for number in range(20)]
    stub.script(Reply(raw=events(*parts, chunk([], "stop"), "[DONE]")))
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("default")
        async with running_service(stub_settings(stub.base_url), cache) as service:
            answer = await service.chat("hi", "s1", history=[])
    assert answer["reply"] == "".join(f"{number}," for number in range(20))
    assert printed == []
    assert set(vars(pydantic.main).get("__warningregistry__", {})) <= {"version"}


async def test_call_without_streaming_passes_the_reader(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """cases/providers.md V2: a JSON answer is no event stream."""
    stub.script(Reply(["whole"]))
    persona = {"provider": "openai", "model": "m", "options": {"disable_streaming": True}}
    chosen = stub_settings(stub.base_url, personas={"GPT4O": persona})
    async with running_service(chosen, cache) as service:
        assert (await service.chat("hi", "s1", history=[]))["reply"] == "whole"


_DATA_OF_OPENAI = {"empty data", "named keep-alives with data", "data that is no object"}


@pytest.mark.parametrize("kind", sorted(set(KEEP_ALIVES) - _DATA_OF_OPENAI))
async def test_keep_alives_pass_another_integration_too(cache: CacheService, kind: str) -> None:
    """cases/providers.md V2: its own SDK reads the stream."""
    async with AnthropicStub() as claude:
        claude.script(Reply(["a", "b"], keep_alive=KEEP_ALIVES[kind]))
        personas = {"GPT4O": {"provider": "openai", "model": "claude-x"}}
        chosen = stub_settings(claude.base_url, {"integration": "anthropic"}, personas=personas)
        async with running_service(chosen, cache) as service:
            assert (await service.chat("hi", "s1", history=[]))["reply"] == "ab"


@pytest.mark.parametrize(
    "reason",
    [
        *[
            "stop",
            "STOP",
            "eos",
            "eos_token",
            "end_turn",
            "End-Turn",
            "EndTurn",
            "stop_sequence",
        ],
        *["StopSequence", "complete", "COMPLETE", "completed", "finished", "done"],
    ],
)
async def test_reason_of_a_whole_reply_is_known(
    stub: OpenAIStub, cache: CacheService, reason: str
) -> None:
    """cases/providers.md V3."""
    stub.script(Reply(["some"], finish_reason=reason))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        answer = await service.chat("hi", "s1", history=[])
    assert (answer["reply"], answer["finish_reason"]) == ("some", "stop")


@pytest.mark.parametrize(
    "reason",
    [
        *["length", "LENGTH", "max_tokens", "model_length", "MAX_TOKENS", "MaxTokens", "maxTokens"],
        *["token_limit", "model_context_window_exceeded"],
    ],
)
async def test_reason_of_a_cut_reply_is_known(
    stub: OpenAIStub, cache: CacheService, reason: str
) -> None:
    """cases/providers.md V3."""
    stub.script(Reply(["some"], finish_reason=reason))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        assert (await service.chat("hi", "s1", history=[]))["finish_reason"] == "length"


@pytest.mark.parametrize("tokens", [["some"], []], ids=["after text", "without text"])
@pytest.mark.parametrize(
    ("reason", "logged"),
    [
        ("error", "error"),
        ("abort", "abort"),
        ("insufficient_system_resource", "insufficient_system_resource"),
        ("tool_calls", "tool_calls"),
        (7, "7"),
        (["stop"], "??stop??"),
        ("the user said\n\x1b[31m sk-1", "the?user?said???31m?sk-1"),
        ("한", "?"),
        ("x" * 10_000, "x" * 64),
    ],
)
async def test_unknown_reason_is_reported_and_logged(
    stub: OpenAIStub, cache: CacheService, reason: Any, logged: str, tokens: list[str]
) -> None:
    """cases/providers.md V3: neither success nor emptiness."""
    stub.script(Reply(tokens, finish_reason=reason))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        with structlog.testing.capture_logs() as logs, pytest.raises(AIUnavailable) as failed:
            await collected(service.stream("hi", "s1", history=[]))
    assert str(failed.value) == f"the reply ended with an unknown finish reason: {logged}"
    assert [entry["reason"] for entry in logs if entry["event"] == "ai call"] == [str(failed.value)]
    assert stub.calls == 1


@pytest.mark.parametrize("reason", ["content_filter", "ContentFiltered", "SAFETY", "sensitive"])
async def test_reason_of_a_withheld_reply_is_known(
    stub: OpenAIStub, cache: CacheService, reason: str
) -> None:
    """cases/providers.md V3."""
    stub.script(Reply(["some"], finish_reason=reason))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        with pytest.raises(ReplyWithheld):
            await service.chat("hi", "s1", history=[])


async def test_reason_of_the_settings_is_whole(stub: OpenAIStub, cache: CacheService) -> None:
    """cases/providers.md V3: `whole_reasons`, in any case."""
    stub.script(Reply(["some"], finish_reason="NORMAL-end"))
    async with running_service(
        stub_settings(stub.base_url, {"whole_reasons": ["Normal_End"]}), cache
    ) as service:
        assert (await service.chat("hi", "s1", history=[]))["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["error", "stop"], AIUnavailable),
        (["stop", "error"], AIUnavailable),
        (["content_filter", "stop"], ReplyWithheld),
        (["content_filter", "error"], ReplyWithheld),
        (["length", "stop"], "length"),
        (["null", "stop"], "stop"),
        (["", "none", "stop"], "stop"),
    ],
)
async def test_later_reason_never_makes_an_end_look_better(
    stub: OpenAIStub, cache: CacheService, reasons: list[str], expected: str | type[Exception]
) -> None:
    """cases/providers.md V3."""
    stub.script(
        Reply(
            raw=events(
                chunk("some"), *(chunk(finish_reason=reason) for reason in reasons), "[DONE]"
            )
        )
    )
    async with running_service(stub_settings(stub.base_url), cache) as service:
        if isinstance(expected, str):
            assert (await service.chat("hi", "s1", history=[]))["finish_reason"] == expected
        else:
            with pytest.raises(expected):
                await service.chat("hi", "s1", history=[])


DONE_STREAMS: dict[str, tuple[str, bool]] = {
    "no reason": (events(chunk("a"), chunk("b"), "[DONE]"), True),
    "no space": ("data:" + chunk("ab") + "\n\ndata:[DONE]\n\n", True),
    "the text null for a reason": (events(chunk("ab", "null"), "[DONE]"), True),
    "usage": (
        events(chunk("ab"), json.dumps({**CHUNK, "choices": [], "usage": None}), "[DONE]"),
        True,
    ),
    "keep-alives": (events(chunk("ab")) + ": x\n\nid: 1\n\n" + events("[DONE]"), True),
    "usage without choices": (
        events(chunk("ab"), json.dumps({**CHUNK, "usage": USAGE}), "[DONE]"),
        True,
    ),
    "empty data": (
        events(chunk("a"), "ping", "null", "[]", chunk("b"), "[KEEP-ALIVE]", "[DONE]"),
        True,
    ),
    "an error in plain words": (events(chunk("ab"), "Internal SECRET error", "[DONE]"), False),
    "an error event in plain words": (
        events(chunk("ab")) + "event: error\ndata: SECRET\n\n" + events("[DONE]"),
        False,
    ),
    "an error event without words": (
        events(chunk("ab")) + "event: error\ndata:\n\n" + events("[DONE]"),
        False,
    ),
    "an error event with usage": (
        events(chunk("ab"))
        + f"event: error\ndata: {json.dumps({'usage': USAGE})}\n\n"
        + events("[DONE]"),
        False,
    ),
    "no end": (events(chunk("a"), chunk("b")), False),
    "an unfinished end": (events(chunk("ab")) + "data: [DONE]\n", False),
    "an error in a form of its own": (
        events(chunk("ab"), '{"object": "error", "message": "SECRET"}', "[DONE]"),
        False,
    ),
    "an error event": (
        events(chunk("ab")) + 'event: error\ndata: {"message": "SECRET"}\n\n' + events("[DONE]"),
        False,
    ),
}


@pytest.mark.parametrize("strict", [False, True], ids=["default", "require_finish_reason"])
@pytest.mark.parametrize("kind", DONE_STREAMS)
async def test_stream_without_a_reason_is_whole_if_done_came(
    stub: OpenAIStub, cache: CacheService, kind: str, strict: bool
) -> None:
    """cases/providers.md V17."""
    stream, is_whole = DONE_STREAMS[kind]
    stub.script(Reply(raw=stream))
    chosen = stub_settings(stub.base_url, {"require_finish_reason": strict})
    async with running_service(chosen, cache) as service:
        items = service.stream("hi", "s1", history=[])
        if is_whole and not strict:
            texts, end = await collected(items)
            assert end is not None
            assert ("".join(texts), end.finish_reason) == ("ab", "stop")
        else:
            with pytest.raises(AIUnavailable) as failed:
                await collected(items)
            assert "SECRET" not in str(failed.value)


async def test_reply_of_another_integration_needs_its_reason(cache: CacheService) -> None:
    """cases/providers.md V17: `[DONE]` is OpenAI's."""
    async with AnthropicStub() as claude:
        claude.script(Reply(["a"], cut="clean"))
        personas = {"GPT4O": {"provider": "openai", "model": "claude-x"}}
        chosen = stub_settings(claude.base_url, {"integration": "anthropic"}, personas=personas)
        async with running_service(chosen, cache) as service:
            with pytest.raises(AIUnavailable, match="cut off"):
                await service.chat("hi", "s1", history=[])


def turns(count: int, chars: int = 3000) -> list[HistoryMessage]:
    return [
        HistoryMessage("USER" if number % 2 == 0 else "AI", f"{number} " + "x" * (chars - 2))
        for number in range(count)
    ]


def starts(call: Any) -> list[str]:
    return [message["content"].split(" ")[0] for message in call.messages]


REFUSED_PROMPTS: dict[str, tuple[int, str]] = {
    "OpenAI": (
        400,
        '{"error": {"message": "This model\'s maximum context length is 4096 tokens.", "type":'
        ' "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}}',
    ),
    "vLLM": (
        400,
        '{"error": {"message": "This model\'s maximum context length is 4096 tokens. However, you requested'
        ' 5096 tokens.", "type": "BadRequestError", "code": 400}}',
    ),
    "vLLM, before 0.6": (
        400,
        '{"object": "error", "message": "The decoder prompt (length 5000) is longer than the'
        ' maximum model length of 4096", "type": "BadRequestError", "code": 400}',
    ),
    "SGLang": (
        400,
        '{"object": "error", "message": "The input (5000 tokens) is longer than the model\'s context length'
        ' (4096 tokens).", "type": "BadRequest", "code": 400}',
    ),
    "llama.cpp": (
        400,
        '{"error": {"code": 400, "message": "the request exceeds the available context size", "type":'
        ' "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096}}',
    ),
    "Ollama": (
        400,
        '{"error": {"message": "the input length exceeds the context length", "type": "api_error"}}',
    ),
    "Ollama as 500": (
        500,
        '{"error": {"message": "input length exceeds maximum context length", "code": null}}',
    ),
    "Mistral": (
        400,
        '{"object": "error", "message": "Prompt contains 40000 tokens, too large for model with 32768'
        ' maximum context length", "type": "invalid_request_prompt", "code": "3051"}',
    ),
    "Anthropic behind a gateway": (
        400,
        '{"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}',
    ),
    "xAI": (
        400,
        '{"error": "This model\'s maximum prompt length is 131072 but the request contains 537812 tokens."}',
    ),
    "TGI": (
        422,
        '{"error": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",'
        ' "error_type": "validation"}',
    ),
    "Google": (
        400,
        '{"error": {"message": "The input token count (5000) exceeds the maximum number of tokens allowed'
        ' (4096).", "status": "INVALID_ARGUMENT"}}',
    ),
    "FastAPI": (413, '{"detail": "prompt too large: context window exceeded"}'),
    "plain text": (400, "Prompt is too long for the model"),
    "Vertex": (400, "the input token count is 40000 but model only supports up to 32768."),
    "watsonx": (
        400,
        "the number of input tokens 5000 cannot exceed the total tokens limit 4096 for this model",
    ),
    "MLC": (
        400,
        "Request prompt has 5000 tokens in total, larger than the model input length limit 4096.",
    ),
    "llama.cpp, before 2025": (
        500,
        "Input prompt is too big compared to KV size. Please try increasing KV size.",
    ),
    "GitHub": (
        413,
        '{"error": {"message": "Request body too large for gpt-4o model. Max size: 8000 tokens."}}',
    ),
    "a proxy": (413, "<html><h1>Payload Too Large</h1></html>"),
}


@pytest.mark.parametrize("kind", REFUSED_PROMPTS)
async def test_prompt_that_is_too_long_is_asked_once_more_with_half(
    stub: OpenAIStub, cache: CacheService, kind: str
) -> None:
    """cases/providers.md V4: however the provider says it; refused unserved, so nothing is billed
    twice."""
    status, body = REFUSED_PROMPTS[kind]
    stub.script(Reply(status=status, raw=body))
    async with running_service(stub_settings(stub.base_url, {"max_retries": 2}), cache) as service:
        with structlog.testing.capture_logs() as logs:
            items = [item async for item in service.stream("hi", "s1", history=turns(6))]
    assert [starts(call) for call in stub.requests] == [
        ["0", "1", "2", "3", "4", "5", "hi"],
        ["4", "5", "hi"],
    ]
    assert [item.prompt_tokens for item in items if isinstance(item, ReplyStart)] == [4529, 1513]
    (warning,) = [entry for entry in logs if "too long" in entry["event"]]
    assert "context_tokens" in warning["fix"]
    assert "xxx" not in json.dumps(logs)


async def test_error_event_in_place_of_the_first_chunk_is_a_refusal_too(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """cases/providers.md V4: as LM Studio does."""
    error = {"error": {"message": "the model is loaded with a context length of only 4096 tokens"}}
    stub.script(Reply(raw=f"event: error\ndata: {json.dumps(error)}\n\n"))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        assert (await service.chat("hi", "s1", history=turns(6)))["reply"] == "stub: hi"
    assert stub.calls == 2


async def test_context_that_ends_within_a_reply_is_not_asked_again(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """cases/providers.md V4: what was served is billed."""
    error = {"error": {"message": "context size has been exceeded"}}
    stub.script(Reply(raw=events(chunk("some"), json.dumps(error))))
    async with running_service(stub_settings(stub.base_url, {"max_retries": 2}), cache) as service:
        with pytest.raises(AIUnavailable):
            await service.chat("hi", "s1", history=turns(6))
    assert stub.calls == 1


@pytest.mark.parametrize(("history", "calls"), [(6, 2), (1, 2), (0, 1)])
async def test_prompt_that_stays_too_long_is_its_own_error(
    stub: OpenAIStub, cache: CacheService, history: int, calls: int
) -> None:
    """cases/providers.md V4: never more than one more call, and without history none."""
    stub.refuse = context_of(100)
    async with running_service(stub_settings(stub.base_url, {"max_retries": 5}), cache) as service:
        with (
            structlog.testing.capture_logs() as logs,
            pytest.raises(ConversationTooLong, match="context_tokens"),
        ):
            await service.chat("y" * 4000, "s1", history=turns(history))
    assert stub.calls == calls
    assert [entry["attempts"] for entry in logs if entry["event"] == "ai call"] == [calls]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, '{"error": {"message": "bad tool name", "code": "invalid_value"}}'),
        (401, '{"error": {"message": "key"}}'),
        (404, '{"error": {"message": "no such model"}}'),
        (429, '{"error": {"message": "too many tokens a minute"}}'),
        (
            400,
            '{"error": {"message": "max_tokens is too large: 99999. It supports at most 16384 completion tokens"}}',
        ),
        (400, '{"error": {"message": "too many tokens: the limit is 6000 tokens per minute"}}'),
        (402, '{"error": {"message": "the prompt is too long for your credits"}}'),
    ],
)
async def test_other_refusal_is_not_taken_for_a_long_prompt(
    stub: OpenAIStub, cache: CacheService, status: int, body: str
) -> None:
    """cases/providers.md V4."""
    stub.script(Reply(status=status, raw=body))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        with pytest.raises(AIUnavailable) as failed:
            await service.chat("hi", "s1", history=turns(6))
    assert not isinstance(failed.value, ConversationTooLong)
    assert stub.calls == 1


async def test_retries_are_counted_beside_the_shortened_prompt(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """cases/providers.md V4."""
    busy = Reply(status=503, headers={"Retry-After": "0"})
    too_long = Reply(status=400, error={"message": "x", "code": "context_length_exceeded"})
    stub.script(busy, too_long, busy)
    async with running_service(stub_settings(stub.base_url, {"max_retries": 2}), cache) as service:
        assert (await service.chat("hi", "s1", history=turns(6)))["reply"] == "stub: hi"
    assert stub.calls == 4


async def test_another_integrations_prompt_is_halved_too(cache: CacheService) -> None:
    """cases/providers.md V4."""
    async with AnthropicStub() as claude:
        claude.script(
            Reply(
                status=400,
                raw='{"type": "error", "error": {"type": "invalid_request_error", "message":'
                ' "prompt is too long: 210000 tokens > 200000 maximum"}}',
            )
        )
        personas = {"GPT4O": {"provider": "openai", "model": "claude-x"}}
        chosen = stub_settings(claude.base_url, {"integration": "anthropic"}, personas=personas)
        async with running_service(chosen, cache) as service:
            await service.chat("hi", "s1", history=turns(6))
        assert [len(call.messages) for call in claude.requests] == [7, 3]


def test_error_of_the_http_library_is_read_by_its_response() -> None:
    """cases/providers.md V4: langchain-mistralai raises httpx's own."""
    request = httpx.Request("POST", "http://x")
    text = "Error response 400 while fetching http://x: Prompt contains 40000 tokens, too large for model with 32768"
    error = httpx.HTTPStatusError(
        text, request=request, response=httpx.Response(400, request=request)
    )
    assert is_context_overflow(error)


class SdkError(Exception):
    """An error of an SDK that has neither ``status_code`` nor ``body``, as Google's and
    Amazon's."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


GOOGLE = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."


@pytest.mark.parametrize(
    ("error", "is_overflow"),
    [
        (SdkError(f"Invalid argument provided to Gemini: 400 {GOOGLE}"), True),
        (SdkError(f"400 INVALID_ARGUMENT. {GOOGLE}", code=400), True),
        (
            SdkError(
                "(ValidationException) ConverseStream operation: Input is too long for requested model."
            ),
            True,
        ),
        (SdkError("Request Entity Too Large", code=413), True),
        (SdkError(f"429 RESOURCE_EXHAUSTED. {GOOGLE}", code=429), False),
        (
            SdkError("(ThrottlingException) Too many tokens, please wait before trying again."),
            False,
        ),
        (SdkError("You exceeded your quota: too many input tokens"), False),
        (SdkError("Request too large on tokens per minute: too many tokens, limit 6000"), False),
        (SdkError("your credit balance is too low"), False),
        (
            SdkError("maxOutputTokens value of 100000 but the supported range is from 1 to 65537"),
            False,
        ),
        (ValueError("what the model said: the context window"), False),
        (KeyError("context length"), False),
        (OSError("Message too long: prompt is too long"), False),
        (AIUnavailable("context length"), False),
    ],
)
def test_refusal_of_an_sdk_without_a_status_is_read_by_its_text(
    error: Exception, is_overflow: bool
) -> None:
    """cases/providers.md V4: an error that the SDK or we made of a chunk is no refusal, since it
    may be billed."""
    assert is_context_overflow(error) == is_overflow


@pytest.mark.parametrize("where", ["persona", "provider"])
async def test_context_size_of_the_settings_trims_the_history(
    stub: OpenAIStub, cache: CacheService, where: str
) -> None:
    """cases/providers.md V4: nothing is refused, whatever the tokenizer makes of Korean or code."""
    stub.refuse = context_of(4096 - 500, chars_a_token=0.6)  # 1.7 tokens a Korean letter
    size = {"context_tokens": 4096}
    persona = {"provider": "openai", "model": "m", "max_tokens": 500} | (
        size if where == "persona" else {}
    )
    chosen = stub_settings(
        stub.base_url, size if where == "provider" else {}, personas={"GPT4O": persona}
    )
    korean = [
        HistoryMessage(turn.sender, turn.content.replace("x" * 10, "한국어로 말하는 것"))
        for turn in turns(6)
    ]
    async with running_service(chosen, cache) as service:
        assert (await service.chat("한" * 300, "s1", history=korean))["finish_reason"] == "stop"
    assert stub.calls == 1


async def test_fallback_gets_the_history_that_fits_it(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """cases/providers.md V4: each model by its own context."""
    stub.script(Reply(status=401))
    small = {"provider": "openai", "model": "small", "context_tokens": 2000}
    persona = {"provider": "openai", "model": "large", "fallbacks": [small]}
    async with running_service(
        stub_settings(stub.base_url, personas={"GPT4O": persona}), cache
    ) as service:
        await service.chat("hi", "s1", history=turns(6))
    assert [len(call.messages) for call in stub.requests] == [7, 1]


def test_reply_that_leaves_no_room_for_a_prompt_is_refused() -> None:
    """cases/providers.md V4."""
    persona = {"provider": "openai", "model": "m", "max_tokens": 4096, "context_tokens": 4096}
    with pytest.raises(ValueError, match=r"personas\.GPT4O\.max_tokens: leaves nothing"):
        stub_settings("http://x/v1", personas={"GPT4O": persona})


async def test_alternating_roles_are_kept_after_failures(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """cases/providers.md V1: a host's own session, loaded in any order."""
    stub.refuse = refuse_unlike_roles
    loaded = [
        HistoryMessage("AI", "greeting"),
        HistoryMessage("USER", "a"),
        HistoryMessage("USER", "b"),
        HistoryMessage("SYSTEM", "note"),
        HistoryMessage("AI", ""),
        HistoryMessage("AI", "c"),
    ]
    async with running_service(stub_settings(stub.base_url), cache) as service:
        await service.load_chat_history("s1", loaded)
        stub.script(Reply(["half"], cut="clean"))
        with pytest.raises(AIUnavailable):
            await service.chat("d", "s1")
        assert (await service.chat("e", "s1"))["finish_reason"] == "stop"
        assert (await service.chat("f", "s1"))["finish_reason"] == "stop"
    assert [message["content"] for message in stub.requests[-1].messages] == [
        "note",
        "a\n\nb",
        "c",
        "e",
        "stub: e",
        "f",
    ]
