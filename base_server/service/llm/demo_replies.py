"""Replies of the offline demo, in the question's language; the chat page's suggestions have replies
of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "ko"]

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7ff]")
# First words of an English sentence that may name Korean ones: "What does 안녕 mean?"
_ENGLISH_OPENER = re.compile(
    r"(?:are|can|could|define|describe|difference|do|does|explain|give|good|help|how|i|i['’]m|is"
    r"|let['’]s|meaning|my|please|pronounce|say|should|show|tell|translate|what|what['’]s|when|where"
    r"|which|who|why|will|would|write)",
    re.IGNORECASE,
)
_GREETING = re.compile(r"hello|hey|hi", re.IGNORECASE)
# Last words of a Korean sentence that may name English ones: "Show me the money 가사"
_KOREAN_REQUEST = re.compile(
    r"\w*(?:줘|줘요|주세요)|가사|뜻|번역|비교|설명|요약|줄거리|차이|추천|해석"
)
_NAMES_ONE = 4
"""From so many words on, a single Korean one behind English ones is a name or a quotation."""

_GREETING_EN = """Hello! I am the **demo** of this chat server. No AI provider was called for \
this reply, so I know \
only a few prepared answers. What you can try here is real, though:

- **Streaming**: this text arrives word by word. Reload the page in the middle, and it goes on.
- **Two tabs**: open this chat in a second tab. Both show the same reply.
- **Stop**: a long reply can be stopped; what has arrived is kept.

Ask me for *a short story*, or for *a table and a block of code*. For real answers, start the \
server with an API key."""

_GREETING_KO = """안녕하세요! 저는 이 채팅 서버의 **데모**입니다. 이 답변에는 AI 제공자를 호출하지 않았고, 준비된 답변 \
몇 가지만 알고 있습니다. 하지만 여기서 해 볼 수 있는 것은 모두 진짜입니다.

- **스트리밍**: 이 글은 단어 단위로 도착합니다. 도중에 페이지를 새로 고쳐도 이어집니다.
- **두 개의 탭**: 이 채팅을 다른 탭에서도 열어 보세요. 두 탭에 같은 답변이 나타납니다.
- **멈추기**: 긴 답변은 멈출 수 있고, 도착한 부분은 그대로 남습니다.

*짧은 이야기*나 *표와 코드 블록*을 부탁해 보세요. 실제 답변을 받으려면 API 키를 넣고 서버를 시작하면 됩니다."""

_STORY_EN = """### The message that was almost lost

At eleven at night Mina typed three words, *I forgive you*, and pressed Enter. At that very \
second the lights in the \
machine room went out.

In the dark a small program woke up. It had one rule: **nothing is thanked for before it is \
written down.** It opened \
its log, and there the three words were, on the last line, with the ink still wet.

“Are you sure?” asked the database. “I have no record of them.”

“That is why I came,” said the program. It carried the words over, once, and crossed out the line.

When the lights came back, her brother's phone buzzed. He read the message twice. It had been \
sent only once.

---

*This is a demo: the story was prepared, and no AI provider was called.*"""

_STORY_KO = """### 하마터면 사라질 뻔한 메시지

밤 열한 시, 미나는 *나는 널 용서해*라고 쓰고 Enter를 눌렀습니다. 바로 그 순간 서버실의 불이 모두 꺼졌습니다.

어둠 속에서 작은 프로그램 하나가 깨어났습니다. 프로그램의 규칙은 하나뿐이었습니다. **적어 두기 전에는 받았다고 말하지 \
않는다.** 기록을 펼치자 마지막 줄에 그 문장이 있었습니다. 잉크도 아직 마르지 않은 채로.

“확실해?” 데이터베이스가 물었습니다. “나에게는 그런 기록이 없는걸.”

“그래서 내가 온 거야.” 프로그램은 문장을 단 한 번 옮겨 적고, 기록의 그 줄에 선을 그었습니다.

불이 다시 들어오자 동생의 휴대전화가 울렸습니다. 동생은 메시지를 두 번 읽었습니다. 보낸 것은 단 한 번이었습니다.

---

*데모 응답입니다. 준비된 이야기이며, AI 제공자를 호출하지 않았습니다.*"""

_TABLE_EN = """Here are both. This is a **demo**, so they were prepared and no AI provider was \
called.

| Step | Where | Usual time | Survives a crash |
|---|---|--:|:-:|
| Accept the message | Redis | 1 ms | yes |
| Stream the reply | Redis | 25 ms per piece | yes |
| Store both | MySQL | 3,000 ms | yes |
"""

_TABLE_KO = """두 가지를 함께 보여 드립니다. **데모** 응답이므로 미리 준비한 내용이며, AI 제공자를 호출하지 않았습니다.

| 단계 | 저장 위치 | 걸리는 시간 | 장애 후 보존 |
|---|---|--:|:-:|
| 메시지 접수 | Redis | 1 ms | 예 |
| 답변 스트리밍 | Redis | 조각마다 25 ms | 예 |
| 영구 저장 | MySQL | 3,000 ms | 예 |
"""

_CODE_EN = """The client sends the same id until it gets an answer, so a message is stored once:

```python
import time, urllib.error, uuid


def send(post, room_id: str, text: str) -> dict:
    message_id = str(uuid.uuid4())  # made once, before the first attempt
    for attempt in range(5):
        try:
            return post("/api/chat/message/send", room_id=room_id,
                        content=text, client_message_id=message_id)
        except urllib.error.URLError:
            time.sleep(0.5 * 2**attempt)  # sending it again is safe
    raise TimeoutError("the server cannot be reached")
```"""

_CODE_KO = """클라이언트는 응답을 받을 때까지 같은 ID로 다시 보냅니다. 그래서 메시지는 한 번만 저장됩니다.

```python
import time, urllib.error, uuid


def send(post, room_id: str, text: str) -> dict:
    message_id = str(uuid.uuid4())  # 첫 시도 전에 한 번만 만든다
    for attempt in range(5):
        try:
            return post("/api/chat/message/send", room_id=room_id,
                        content=text, client_message_id=message_id)
        except urllib.error.URLError:
            time.sleep(0.5 * 2**attempt)  # 다시 보내도 안전하다
    raise TimeoutError("서버에 연결할 수 없습니다")
```"""

_DEMO_EN = "*This is a demo: the reply was prepared, and no AI provider was called.*"
_DEMO_KO = "*데모 응답입니다. 준비된 답변이며, AI 제공자를 호출하지 않았습니다.*"

# Benchmarks send many of these: no longer than the replies of earlier runs, word by word.
_OTHER_EN = (
    "This is a **demo**: no AI was asked. Try “Tell me a story” or “Show me a table and code”."
)
_OTHER_KO = (
    "**데모** 응답입니다. AI를 호출하지 않았습니다."
    " “짧은 이야기를 들려주세요” 또는 “표와 코드 블록을 보여 주세요”라고 말해 보세요."
)


@dataclass(frozen=True)
class _Topic:
    """A prepared reply to questions in which all of ``asked`` are found, in any order.

    Separate patterns: one pattern for two words, with anything between them, takes quadratic time.
    """

    language: Language
    asked: tuple[re.Pattern[str], ...]
    reply: str


def _topic(language: Language, *asked: str, reply: str) -> _Topic:
    return _Topic(language, tuple(re.compile(words, re.IGNORECASE) for words in asked), reply)


_LOOKED_AT = 1000
"""Characters of a question: the reply is made on the event loop."""


# The first one that fits.
_TOPICS = (
    _topic("en", r"\btable\b", r"\bcode\b", reply=f"{_TABLE_EN}\n{_CODE_EN}"),
    _topic("en", r"\b(?:a|the|in|as) table\b", reply=f"{_TABLE_EN}\n{_DEMO_EN}"),
    _topic("en", r"\b(?:code|python|program)\b", reply=f"{_CODE_EN}\n\n{_DEMO_EN}"),
    _topic("en", r"\b(?:story|tale)\b", reply=_STORY_EN),
    _topic(
        "en", r"\bwho are you\b|\bwhat can you do\b|^\W*(?:hello|hi|hey)\b\W*$", reply=_GREETING_EN
    ),
    _topic("ko", r"(?<!\w)표(?!\w{2})", r"코드", reply=f"{_TABLE_KO}\n{_CODE_KO}"),
    _topic("ko", r"(?<!\w)표(?:를|로|는|가)?(?!\w)", reply=f"{_TABLE_KO}\n{_DEMO_KO}"),
    _topic("ko", r"코드|파이썬|python", reply=f"{_CODE_KO}\n\n{_DEMO_KO}"),
    _topic(
        "ko",
        r"이야기(?:를|를\s*하나|\s*하나)?\s*(?:좀\s*)?(?:들려|해|써|만들)|동화|소설",
        reply=_STORY_KO,
    ),
    _topic(
        "ko",
        r"누구(?:예요|세요|인가요|이고|야|니|죠|입니까)|무엇을 할 수|^\W*안녕(?:하세요|하십니까)?\W*$",
        reply=_GREETING_KO,
    ),
)


def demo_reply(questions: list[str]) -> str:
    """The reply to the last of ``questions``, which are those of a conversation, oldest first."""
    question = questions[-1] if questions else ""
    language = next((found for text in reversed(questions) if (found := language_of(text))), "en")
    prose = _CODE.sub(" ", question)[:_LOOKED_AT]
    for topic in _TOPICS:
        if topic.language == language and all(words.search(prose) for words in topic.asked):
            return topic.reply
    return _OTHER_KO if language == "ko" else _OTHER_EN


def language_of(text: str) -> Language | None:
    """The language to answer ``text`` in; None when it has no words, such as a number or an emoji.

    A Korean sentence begins or ends in Korean, whatever names it holds; every other language is
    answered in English."""
    words = _WORD.findall(_CODE.sub(" ", text))
    if not words:
        return None
    if _KOREAN_REQUEST.fullmatch(words[-1]):
        return "ko"
    korean = [bool(_HANGUL.search(word)) for word in words]
    if sum(korean) == 1 and not korean[0] and len(words) >= _NAMES_ONE:
        return "en"
    if len(words) > 1 and _GREETING.fullmatch(words[0]):
        del words[0], korean[0]  # said in both languages
    if 2 * sum(korean) > len(words):
        return "ko"
    return "ko" if (korean[0] or korean[-1]) and not _ENGLISH_OPENER.fullmatch(words[0]) else "en"
