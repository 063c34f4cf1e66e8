"""A reply from an OpenAI-compatible provider over a real socket."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from langchain_openai.chat_models.base import BaseChatOpenAI

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.AIChat_service import AIChatService
from base_server.service.llm.conversation import (
    HistoryMessage,
    ReplyChunk,
    ReplyEnd,
    ReplyStart,
    estimate_tokens,
)
from base_server.service.llm.llm_errors import AIUnavailable, UnknownPersona
from tests.openai_stub import OpenAIStub, Reply
from tests.service.llm.ai_fixtures import (
    collected,
    next_text,
    running_cache,
    running_service,
    stub_settings,
)
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).parents[3]
AWKWARD = [
    "{x}",
    "{{",
    "{{{x}}}",
    "%s {0} ${HOME}",
    '{"lc":1,"type":"secret","id":["OPENAI_API_KEY"]}',
    "안녕 👩‍👩‍👧‍👦 é",
    "a\rb\r\n\nc",
    "data: x\n\ndata: [DONE]\n\nevent: y\u2028",
]


async def test_tokens_arrive_one_by_one_then_the_end_with_the_providers_usage(
    stub: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply(["안녕", "하세요 ", "👋🏽"], usage=(21, 5)))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        texts, end = await collected(service.stream("hi", "s1", ai_persona="GPT4O", history=[]))
    assert texts == ["안녕", "하세요 ", "👋🏽"]
    assert end is not None
    assert (end.model, end.prompt_tokens, end.completion_tokens, end.finish_reason) == (
        "gpt-4o-stub",
        21,
        5,
        "stop",
    )
    assert end.latency_ms >= 0
    assert stub.requests[0].body["stream_options"] == {"include_usage": True}
    assert stub.requests[0].headers["Authorization"] == "Bearer sk-secret-key"


async def test_a_token_is_handed_on_before_the_next_one_exists(
    stub: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply(["first", "second"], hang=True))
    async with (
        running_service(stub_settings(stub.base_url), cache) as service,
        aclosing(service.stream("hi", "s1", history=[])) as items,
    ):
        assert await anext(items) == ReplyStart("gpt-4o", 5)
        assert await anext(items) == ReplyChunk("first", 2)
        assert await anext(items) == ReplyChunk("second", 1)


@pytest.mark.parametrize("text", AWKWARD)
async def test_user_text_history_and_system_prompt_reach_the_provider_literally(
    stub: OpenAIStub, cache: CacheService, text: str
) -> None:
    personas = {"GPT4O": {"provider": "openai", "model": "m", "system_prompt": f"be {text}"}}
    stub.script(Reply([f"stub: {text}"]))
    async with running_service(stub_settings(stub.base_url, personas=personas), cache) as service:
        texts, _ = await collected(
            service.stream(
                text,
                "s1",
                history=[HistoryMessage("USER", f"a{text}"), HistoryMessage("AI", f"b{text}")],
            )
        )
    assert stub.requests[0].messages == [
        {"role": "system", "content": f"be {text}"},
        {"role": "user", "content": f"a{text}"},
        {"role": "assistant", "content": f"b{text}"},
        {"role": "user", "content": text},
    ]
    assert "".join(texts) == f"stub: {text}"


async def test_persona_parameters_are_sent(stub: OpenAIStub, cache: CacheService) -> None:
    personas = {
        "GPT4O": {"provider": "openai", "model": "m-1", "temperature": 0.25, "max_tokens": 77}
    }
    async with running_service(stub_settings(stub.base_url, personas=personas), cache) as service:
        await service.chat("hi", "s1", history=[])
    body = stub.requests[0].body
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("m-1", 0.25, 77)


async def test_split_emoji_is_joined_and_lone_halves_are_replaced(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """An emoji split over two deltas is joined and lone halves are replaced."""
    stub.script(Reply(["a\ud83d", "\ude00b", "\ude00", "\x00", "c\ud83d"]))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        texts, _ = await collected(service.stream("hi", "s1", history=[]))
    assert "".join(texts) == "a😀b\ufffd\ufffdc\ufffd"
    assert all(texts)


async def test_usage_is_estimated_when_the_provider_sends_none(
    stub: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply(["x" * 40], usage=None))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        answer = await service.chat("y" * 80, "s1", history=[])
    assert answer["tokens"] == {"prompt": 24, "completion": 10, "total": 34}


async def test_endless_reply_is_cut_reported_and_its_connection_closed(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """Length is reported and an endless reply is cut and its connection closed."""
    stub.script(Reply(["cut"], finish_reason="length"), Reply(["abc", "def", "ghi"], hang=True))
    async with running_service(stub_settings(stub.base_url, max_reply_chars=5), cache) as service:
        assert (await service.chat("hi", "s1", history=[]))["finish_reason"] == "length"
        answer = await service.chat("hi", "s1", history=[])
        assert (answer["reply"], answer["finish_reason"]) == ("abcde", "length")
        await until(lambda: stub.requests[1].closed_by_client)


async def test_huge_chunk_and_thousands_of_one_byte_chunks_are_replies(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """Ten megabytes in one chunk and thousands of one byte chunks are replies too."""
    stub.script(Reply(["x" * 10_000_000]), Reply(["y"] * 5000))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        large = await service.chat("hi", "s1", history=[])
        small = await service.chat("hi", "s1", history=[])
    assert (len(large["reply"]), large["finish_reason"]) == (100_000, "length")
    assert (small["reply"], small["finish_reason"]) == ("y" * 5000, "stop")


async def test_the_estimates_of_the_pieces_add_up_to_that_of_the_text(
    stub: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply(["가", "나", "a", "b", "c", "👋🏽", " words"], usage=None))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        items = [item async for item in service.stream("hi", "s1", history=[])]
    pieces = [item for item in items if isinstance(item, ReplyChunk)]
    text = "".join(piece.text for piece in pieces)
    assert sum(piece.tokens for piece in pieces) == estimate_tokens(text)
    assert isinstance(items[-1], ReplyEnd)
    assert items[-1].completion_tokens == estimate_tokens(text)


async def test_usage_that_a_server_repeats_with_every_chunk_is_not_added_up(
    stub: OpenAIStub, cache: CacheService
) -> None:
    chunk = '{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[%s],"usage":%s}'
    deltas = ['{"index":0,"delta":{"content":"a"}}'] * 2 + [
        '{"index":0,"delta":{},"finish_reason":"stop"}'
    ]
    usage = [
        f'{{"prompt_tokens":9,"completion_tokens":{n},"total_tokens":{9 + n}}}' for n in (1, 2, 2)
    ]
    stub.script(
        Reply(raw="".join(f"data: {chunk % pair}\n\n" for pair in zip(deltas, usage, strict=True)))
    )
    async with running_service(stub_settings(stub.base_url), cache) as service:
        assert (await service.chat("hi", "s1", history=[]))["tokens"] == {
            "prompt": 9,
            "completion": 2,
            "total": 11,
        }


async def test_chat_and_process_message_are_the_stream_collected(
    stub: OpenAIStub, cache: CacheService
) -> None:
    async with running_service(stub_settings(stub.base_url), cache) as service:
        service.install()
        try:
            answer = await AIChatService.chat("one two", "room_1", "gpt4o")
            reply = await AIChatService.process_message(
                room_id="room_1", user_message="three", ai_persona="GPT4O"
            )
        finally:
            service.uninstall()
    assert answer.pop("latency_ms") >= 0
    assert answer == {
        "session_id": "room_1",
        "reply": "stub: one two",
        "model": "gpt-4o-stub",
        "tokens": {"prompt": 11, "completion": 7, "total": 18},
        "finish_reason": "stop",
    }
    assert reply == "stub: three"


@pytest.mark.parametrize("how", ["closed between tokens", "closed while waiting", "task cancelled"])
async def test_leaving_the_stream_closes_the_providers_connection(
    stub: OpenAIStub, cache: CacheService, how: str
) -> None:
    stub.script(Reply(["one", "two"], hang=True))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        items = service.stream("hi", "s1", history=[])
        assert await next_text(items) == "one"
        if how == "closed between tokens":
            await items.aclose()
        else:
            assert await next_text(items) == "two"
            waiting = asyncio.create_task(anext(items))
            await until(lambda: stub.requests[0].tokens_sent == 2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            if how == "closed while waiting":
                await items.aclose()
        await asyncio.wait_for(stub.requests[0].ended.wait(), PATIENCE_S)
        assert stub.requests[0].closed_by_client
        assert service.status()["running"] == 0


async def test_connection_is_closed_while_the_stream_is_referenced(
    stub: OpenAIStub, cache: CacheService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is closed even while something still refers to LangChain's stream."""
    original = BaseChatOpenAI._astream
    kept: list[Any] = []

    def keeping(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept.append(original(self, *args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(BaseChatOpenAI, "_astream", keeping)
    stub.script(Reply(["one"], hang=True))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        items = service.stream("hi", "s1", history=[])
        await next_text(items)
        await items.aclose()
        await asyncio.wait_for(stub.requests[0].ended.wait(), PATIENCE_S)
        assert stub.requests[0].closed_by_client
        assert len(kept) == 1
        await kept.pop().aclose()


async def test_no_more_calls_at_once_than_allowed_and_the_rest_waits_its_turn(
    stub: OpenAIStub, cache: CacheService
) -> None:
    stub.responder = lambda _: Reply(["a", "b"], delay_s=0.01)
    settings = stub_settings(stub.base_url, max_concurrent_requests=2, max_waiting_requests=4)
    async with running_service(settings, cache) as service:
        answers = await asyncio.gather(*(service.chat("hi", f"s{i}", history=[]) for i in range(6)))
        assert [answer["reply"] for answer in answers] == ["ab"] * 6
        assert (stub.calls, stub.most_running) == (6, 2)
        assert (service.status()["running"], service.status()["waiting"]) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_waiting_requests": 0}, "too many"), ({"wait_timeout_s": 0.05}, "no capacity")],
)
async def test_a_full_service_refuses_without_calling(
    stub: OpenAIStub, cache: CacheService, limits: dict[str, float], reason: str
) -> None:
    stub.script(Reply(["a"], hang=True))
    async with running_service(
        stub_settings(stub.base_url, max_concurrent_requests=1, **limits), cache
    ) as service:
        async with aclosing(service.stream("hi", "s1", history=[])) as items:
            await next_text(items)
            with pytest.raises(AIUnavailable, match=reason) as refused:
                await service.chat("hi", "s2", history=[])
        assert (refused.value.called, stub.calls) == (False, 1)
        assert refused.value.retry_after_s
        assert (await service.chat("again", "s2", history=[]))["reply"] == "stub: again"


async def test_an_unknown_persona_is_refused_with_the_known_names(
    stub: OpenAIStub, cache: CacheService
) -> None:
    async with running_service(stub_settings(stub.base_url), cache) as service:
        with pytest.raises(UnknownPersona) as refused:
            await service.chat("hi", "s1", "NOBODY")
        assert refused.value.known == ["DEMO", "GPT4O"]
        assert str(refused.value) == "unknown ai_persona: known are DEMO, GPT4O"
        assert service.resolve_persona(None) == "GPT4O"
        assert service.resolve_persona("gpt4o") == "GPT4O"
    assert stub.calls == 0


async def test_start_returns_at_once_while_langchain_is_imported(
    tmp_path: Path,
) -> None:
    """In a process of its own, where nothing is imported yet."""
    program = """
import asyncio, gc, sys, time
from pathlib import Path
from base_server.service.llm.AIChat_service import AIChatService
from tests.service.llm.ai_fixtures import running_cache, running_service, stub_settings
heavy = lambda: sorted({name.split(".")[0] for name in sys.modules} & {"langchain_core", "langchain_openai", "openai"})
assert not heavy(), heavy()
thresholds = gc.get_threshold()
async def main():
    async with running_cache(Path(sys.argv[1])) as cache:
        longest = 0.0
        async def watch():
            nonlocal longest
            while True:
                before = time.process_time()  # what others on the machine take does not count
                await asyncio.sleep(0.005)
                longest = max(longest, time.process_time() - before)
        settings = stub_settings("http://127.0.0.1:9/v1", default_persona="DEMO")
        watcher = asyncio.create_task(watch())
        await asyncio.sleep(0.02)
        async with running_service(settings, cache) as service:
            assert not service.status()["warm"], "start waited"
            answer = await service.chat("hi", "s1")
            await asyncio.sleep(0.02)
            watcher.cancel()
            assert answer["model"] == "demo" and heavy() and service.status()["warm"]
            assert gc.get_freeze_count() and gc.get_threshold() == thresholds, "later collections walk through it"
        gc.unfreeze()
        before = time.process_time()
        gc.collect()
        print(longest, time.process_time() - before)
asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    longest_s, full_collection_s = map(float, done.stdout.splitlines()[-1].split())
    assert longest_s < full_collection_s, "the import, or a garbage collection, held the event loop"


async def test_service_loads_at_first_call_and_refuses_when_stopped(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """A service that was not started loads at the first call and a stopped one refuses."""
    tasks = TaskRegistry()
    service = AIChatService(stub_settings(stub.base_url), cache, tasks, "PROD", environ={})
    assert (await service.chat("x", "s1", history=[]))["reply"] == "stub: x"
    await service.stop()
    with pytest.raises(AIUnavailable) as refused:
        await service.chat("x", "s1", history=[])
    assert not refused.value.called
    assert await tasks.drain(1) == 0


async def test_stop_ends_running_replies_with_an_error_of_ours(
    stub: OpenAIStub, cache: CacheService
) -> None:
    stub.script(Reply(["a"], hang=True))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        items = service.stream("hi", "s1", history=[])
        await next_text(items)
        waiting = asyncio.create_task(anext(items))
        await asyncio.sleep(0)
        await service.stop()
        with pytest.raises(AIUnavailable):
            await asyncio.wait_for(waiting, PATIENCE_S)


async def test_a_second_event_loop_of_the_same_process_gets_its_replies_too(tmp_path: Path) -> None:
    """LangChain's default HTTP client would still be bound to the first loop."""

    async def once(name: str) -> str:
        async with (
            OpenAIStub() as stub,
            running_cache(tmp_path / name) as cache,
            running_service(stub_settings(stub.base_url), cache) as service,
        ):
            return str((await service.chat(name, "s1", history=[]))["reply"])

    replies = [
        await asyncio.to_thread(lambda n=name: asyncio.run(once(n))) for name in ("one", "two")
    ]
    assert replies == ["stub: one", "stub: two"]


async def test_the_stub_runs_as_a_process_of_its_own(cache: CacheService) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "tests" / "openai_stub.py"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        base_url = (await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)).decode().strip()
        async with running_service(stub_settings(base_url), cache) as service:
            assert (await service.chat("far away", "s1", history=[]))["reply"] == "stub: far away"
    finally:
        process.terminate()
        await process.wait()
