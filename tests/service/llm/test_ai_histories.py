"""What a reply knows of the conversation, and where that is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.llm.conversation import HistoryMessage, as_history_message
from base_server.service.llm.llm_errors import AIUnavailable
from base_server.service.llm.prompt import build_prompt, count_tokens
from tests.openai_stub import OpenAIStub, Reply
from tests.service.llm.ai_fixtures import running_cache, running_service, stub_settings


def contents(stub: OpenAIStub, call: int) -> list[str]:
    return [message["content"] for message in stub.requests[call].messages]


async def test_session_remembers_question_and_reply_over_a_restart(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """A session remembers question and reply and a restart does not forget."""
    settings = stub_settings(stub.base_url)
    async with running_service(settings, cache) as service:
        await service.chat("하나 👍", "s1")
        await service.chat("two", "s1")
        await service.chat("other", "s2")
    async with running_service(settings, cache) as service:
        await service.chat("three", "s1")
    assert contents(stub, 1) == ["하나 👍", "stub: 하나 👍", "two"]
    assert contents(stub, 2) == ["other"]
    assert contents(stub, 3) == ["하나 👍", "stub: 하나 👍", "two", "stub: two", "three"]


async def test_the_list_keeps_the_newest_turns_under_its_ttl(
    stub: OpenAIStub, cache: CacheService
) -> None:
    settings = stub_settings(stub.base_url, max_conversation_length=4, conversation_ttl_s=100)
    client = cache.get_client()
    async with running_service(settings, cache) as service:
        for number in range(4):
            await service.chat(f"q{number}", "s1")
        stored = [json.loads(text) for text in await client.list_range("ai_history:s1", 0, -1)]
        assert [turn["content"] for turn in stored] == ["q2", "stub: q2", "q3", "stub: q3"]
        assert 90_000 < await client.execute("PTTL", client.key("ai_history:s1")) <= 100_000
        await service.chat("q4", "s1")
    assert contents(stub, 4) == ["q2", "stub: q2", "q3", "stub: q3", "q4"]


async def test_a_failed_reply_is_not_remembered(stub: OpenAIStub, cache: CacheService) -> None:
    stub.script(Reply(["half"], cut="clean"))
    async with running_service(stub_settings(stub.base_url), cache) as service:
        with pytest.raises(AIUnavailable):
            await service.chat("one", "s1")
        await service.chat("two", "s1")
    assert contents(stub, 1) == ["two"]


@pytest.mark.parametrize(
    "command", [("SET", "text"), ("SADD", "member"), ("RPUSH", "no json", "[]", '{"lc":1}', "7")]
)
async def test_a_damaged_history_counts_as_none_and_is_mended_by_the_next_reply(
    stub: OpenAIStub, cache: CacheService, command: tuple[str, ...]
) -> None:
    client = cache.get_client()
    await client.execute(command[0], client.key("ai_history:s1"), *command[1:])
    async with running_service(stub_settings(stub.base_url), cache) as service:
        await service.chat("one", "s1")
        await service.chat("two", "s1")
    assert contents(stub, 0) == ["one"]
    assert contents(stub, 1) == ["one", "stub: one", "two"]


async def test_registered_reader_comes_first_and_is_never_written(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """A registered reader comes first and its sessions are never written."""
    window = [
        HistoryMessage("USER", "earlier"),
        HistoryMessage("AI", "answer"),
        HistoryMessage("USER", "now"),
    ]

    async def reader(session_id: str) -> Sequence[HistoryMessage] | None:
        return window if session_id == "room_1" else None

    async with running_service(stub_settings(stub.base_url), cache) as service:
        service.register_history(reader)
        await service.chat("now", "room_1")
        await service.chat("now", "elsewhere")
        await service.load_chat_history("room_1", [HistoryMessage("USER", "forged")])
        memory = service.mem("room_1").chat_memory
        await memory.aadd_messages([HumanMessage("forged")])
        await memory.aclear()
        assert [message.text for message in await memory.aget_messages()] == [
            "earlier",
            "answer",
            "now",
        ]
        assert not await cache.get_client().exists("ai_history:room_1")
        assert await cache.get_client().exists("ai_history:elsewhere")
    assert contents(stub, 0) == ["earlier", "answer", "now"], (
        "the window's last entry is the question itself"
    )
    assert contents(stub, 1) == ["now"]


async def test_given_history_is_used_and_nothing_is_stored(
    stub: OpenAIStub, cache: CacheService
) -> None:
    async with running_service(stub_settings(stub.base_url), cache) as service:
        await service.chat(
            "now",
            "s1",
            history=[
                HistoryMessage("USER", "a"),
                HistoryMessage("AI", "b"),
                HistoryMessage("USER", "now"),
            ],
        )
        assert not await cache.get_client().exists("ai_history:s1")
    assert contents(stub, 0) == ["a", "b", "now"]


async def test_an_outage_of_the_cache_is_its_own_error_and_costs_no_call(
    stub: OpenAIStub, tmp_path: Path
) -> None:
    async def unreachable(_: str) -> None:
        raise ServiceUnavailable("cache", "down")

    async with (
        running_cache(tmp_path) as cache,
        running_service(stub_settings(stub.base_url), cache) as service,
    ):
        service.register_history(unreachable)
        with pytest.raises(ServiceUnavailable):
            await service.chat("one", "s1")
    assert stub.calls == 0


async def test_a_reply_survives_that_it_cannot_be_remembered(
    stub: OpenAIStub, cache: CacheService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise ServiceUnavailable("cache", "OOM")

    monkeypatch.setattr(type(cache.get_client()), "eval_script", full)
    async with running_service(stub_settings(stub.base_url), cache) as service:
        assert (await service.chat("one", "s1"))["reply"] == "stub: one"


async def test_load_chat_history_replaces_and_takes_every_usual_form(
    stub: OpenAIStub, cache: CacheService
) -> None:
    async with running_service(stub_settings(stub.base_url), cache) as service:
        await service.chat("gone", "s1")
        await service.load_chat_history(
            "s1",
            [
                HistoryMessage("USER", "a"),
                {"role": "assistant", "content": "b"},
                SimpleNamespace(sender_type="USER", content="c"),
                AIMessage("d"),
            ],
        )
        await service.chat("now", "s1")
        await service.load_chat_history("s1", [])
        await service.chat("alone", "s1")
    assert contents(stub, 1) == ["a", "b", "c", "d", "now"]
    assert contents(stub, 2) == ["alone"]


@pytest.mark.parametrize(
    "message",
    [ToolMessage("x", tool_call_id="1"), {"content": "x"}, {"role": "user"}, "text", None],
)
def test_other_messages_are_refused(message: object) -> None:
    with pytest.raises(ValueError, match="history message"):
        as_history_message(message)


async def test_chat_memory_is_a_langchain_history_of_the_session(
    stub: OpenAIStub, cache: CacheService
) -> None:
    async with running_service(stub_settings(stub.base_url), cache) as service:
        await service.chat("one", "s1")
        memory = service.mem("s1").chat_memory
        assert isinstance(memory, BaseChatMessageHistory)
        assert memory.messages == []
        assert await memory.aget_messages() == [HumanMessage("one"), AIMessage("stub: one")]
        await memory.aadd_messages([HumanMessage("two"), AIMessage("zwei")])
        assert memory.messages[-1] == AIMessage("zwei")
        await service.chat("three", "s1")
        await memory.aclear()
        assert await service.mem("s1").chat_memory.aget_messages() == []
    assert contents(stub, 1) == ["one", "stub: one", "two", "zwei", "three"]


async def test_synchronous_memory_calls_keep_order_and_reach_the_next_reply(
    stub: OpenAIStub, cache: CacheService
) -> None:
    """The synchronous memory calls are kept in order and the next reply knows them."""
    turns_to_wait = iter(range(100, 0, -2))

    async def ever_faster(_: str) -> None:
        for _turn in range(next(turns_to_wait)):
            await asyncio.sleep(0)

    async with running_service(
        stub_settings(stub.base_url, max_conversation_length=60), cache
    ) as service:
        await service.chat("forgotten", "s1")
        service.register_history(ever_faster)
        memory = service.mem("s1").chat_memory
        memory.clear()
        for number in range(10):
            memory.add_user_message(f"q{number}")
            memory.add_ai_message(f"a{number}")
        assert len(memory.messages) == 20
        await service.chat("now", "s1")
        assert service._histories._queued == {}
    assert contents(stub, 1) == [
        text for number in range(10) for text in (f"q{number}", f"a{number}")
    ] + ["now"]


def test_the_prompt_keeps_the_newest_turns_that_fit_and_begins_with_a_user() -> None:
    turns = [
        HistoryMessage("USER" if i % 2 == 0 else "AI", f"{i} " + "x" * 38) for i in range(10)
    ]  # 10 + 4 tokens each

    def kept(**limits: int) -> list[str]:
        prompt = build_prompt(
            "sys", turns, "question", **{"max_messages": 20, "max_tokens": 1000, **limits}
        )
        assert prompt.tokens == count_tokens(prompt.messages)
        assert (prompt.messages[0], prompt.messages[-1]) == (
            SystemMessage("sys"),
            HumanMessage("question"),
        )
        return [message.text.split()[0] for message in prompt.messages[1:-1]]

    assert kept() == [str(i) for i in range(10)]
    assert kept(max_messages=3) == ["8", "9"]
    assert kept(max_tokens=14 * 5) == ["6", "7", "8", "9"]
    assert kept(max_tokens=0) == []
    assert kept(max_messages=0) == []


def test_prompt_leaves_out_empty_messages_and_the_question_at_its_end() -> None:
    """The prompt leaves out empty messages and the question itself only at the end."""
    turns = [
        HistoryMessage("USER", "q"),
        HistoryMessage("AI", ""),
        HistoryMessage("SYSTEM", "notice"),
        HistoryMessage("USER", "q"),
    ]
    prompt = build_prompt("", turns, "q", max_messages=20, max_tokens=1000)
    assert prompt.messages == [SystemMessage("notice"), HumanMessage("q\n\nq")]


def test_a_question_larger_than_the_budget_is_still_asked() -> None:
    prompt = build_prompt(
        "", [HistoryMessage("AI", "a")], "한" * 16_000, max_messages=20, max_tokens=100
    )
    assert [message.text for message in prompt.messages] == ["한" * 16_000]
