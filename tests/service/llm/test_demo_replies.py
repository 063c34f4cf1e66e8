"""The demo answers in the question's language, the page's suggestions with replies of their own
(cases/page.md G12)."""

from __future__ import annotations

import re
import time

import pytest

from application.base_web_server.http.routers.page_router import STATIC
from base_server.service.cache.cache_service import CacheService
from base_server.service.llm.conversation import HistoryMessage
from base_server.service.llm.demo_replies import demo_reply, language_of
from tests.service.llm.ai_fixtures import running_service, stub_settings


def suggestions(language: str) -> list[str]:
    """What the new chat's buttons send."""
    texts = (STATIC / f"i18n/{language}.js").read_text(encoding="utf-8")
    return re.findall(r'"new\.suggest\.\d":\s*"([^"]+)"', texts)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_suggestions_of_the_page_get_replies_of_their_own(language: str) -> None:
    """G12. A greeting, a story, a table with a block of code; each says that it is a demo."""
    replies = [demo_reply([text]) for text in suggestions(language)]
    greeting, story, show = replies
    assert "\n- **" in greeting
    assert story.startswith("### ")
    assert "\n|---|" in show
    assert "\n```python\n" in show
    for reply in replies:
        assert len(reply) > 300
        assert {"en": "demo", "ko": "데모"}[language] in reply
        assert bool(re.search("[가-힣]", reply)) == (language == "ko")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello", "en"),
        ("안녕", "ko"),
        ("ㅋㅋ", "ko"),
        ("\u110b\u1161\u11ab\u1102\u1167\u11bc", "ko"),
        ("What does 안녕 mean?", "en"),
        ("Please translate: 안녕하세요", "en"),
        ("Pronounce 안녕하세요", "en"),
        ("Meaning of 안녕", "en"),
        ("My name is 민수", "en"),
        ("Good morning 민수", "en"),
        ("Hi 민수, how are you?", "en"),
        ("안녕하세요! I have a question, please", "ko"),
        ("hello 안녕", "ko"),
        ("hi, 짧은 코드", "ko"),
        ("Please 도와줘", "ko"),
        ("Can you 코드 보여줘", "ko"),
        ("Show me the money 가사", "ko"),
        ("Java 코드", "ko"),
        ("Kubernetes rolling update 설명해줘", "ko"),
        ("The Lord of the Rings 줄거리 알려줘", "ko"),
        ("이 코드 설명해줘: for i in range(10): print(i)", "ko"),
        ("Explain this: `print('안녕하세요 여러분')`", "en"),
        ("설명해줘\n```python\nfor number in range(10): print(number)\n```", "ko"),
        ("日本語で答えてください", "en"),
        ("Réponds en français, s'il te plaît", "en"),
        ("👋 12", None),
        ("", None),
    ],
)
def test_language_is_that_of_the_question(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_question_without_words_takes_the_conversations_language() -> None:
    """Question without words is answered in the language of the conversation."""
    assert "데모" in demo_reply(["안녕하세요, 반가워요", "👍"])
    assert "demo" in demo_reply(["안녕하세요", "Nice to meet you", "👍"])
    assert "demo" in demo_reply([])


@pytest.mark.parametrize(
    ("question", "begin"),
    [
        ("tell me a story please", "### "),
        ("동화 하나 들려줘", "### "),
        ("Write some Python", "The client sends"),
        ("파이썬 코드 보여줘", "클라이언트는"),
        ("표로 정리해 줘", "두 가지를"),
        ("Hi!", "Hello!"),
        ("안녕하세요 👋", "안녕하세요!"),
    ],
)
def test_other_words_for_a_suggestion_get_its_reply(question: str, begin: str) -> None:
    assert demo_reply([question]).startswith(begin)


@pytest.mark.parametrize(
    "question",
    ["표현의 자유가 뭐야?", "올해 목표를 세워 줘", "the history of the world", "이야기꾼이 뭐야?"],
)
def test_any_other_question_is_not_repeated(question: str) -> None:
    """G12. The reply says that it is a demo and what to try."""
    reply = demo_reply([question])
    assert question not in reply
    assert len(reply.split()) <= 20
    assert re.search("demo|데모", reply)


@pytest.mark.parametrize("word", ["코드", "표", "code", "table", "이야기", "`", "안녕!"])
def test_time_of_a_reply_grows_linearly_with_the_question(word: str) -> None:
    """cases/abuse.md: the event loop waits for it. Eight times the question would be 64 times as
    long."""

    def cost(times: int) -> float:
        begun = time.process_time()
        demo_reply([f"{word} " * times])
        return time.process_time() - begun

    short, long = (min(cost(times) for _ in range(3)) for times in (600, 4800))
    assert long < 32 * short


@pytest.mark.parametrize(
    "question",
    ["a block of code, then a table", "A TABLE\nand then\nCODE", "코드와 표", "표와 코드"],
)
def test_table_and_code_are_found_in_any_order(question: str) -> None:
    """G12."""
    reply = demo_reply([question])
    assert "\n|---|" in reply
    assert "\n```python\n" in reply


@pytest.mark.parametrize(
    "reply", [[], [HistoryMessage("AI", "")]], ids=["deleted", "stopped at once"]
)
@pytest.mark.parametrize(
    ("before", "question"),
    [
        ("짧은 이야기를 들려주세요", "Hello"),
        ("안녕하세요, 정말 반갑습니다", "Tell me a story"),
        ("Tell me a short story please", "안녕하세요"),
    ],
)
async def test_question_behind_one_without_a_reply_is_answered_alone(
    cache: CacheService, before: str, question: str, reply: list[HistoryMessage]
) -> None:
    """cases/page.md G12: neighbours are joined for real models only."""
    history = [HistoryMessage("USER", before), *reply]
    async with running_service(stub_settings("http://127.0.0.1:9/v1"), cache) as service:
        answer = await service.chat(question, "s", "DEMO", history=history)
    assert answer["reply"] == demo_reply([before, question])
    assert answer["reply"] != demo_reply([before])
