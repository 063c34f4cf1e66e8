"""The text of a running reply is a function of offsets: never doubled, never torn (cases/page.md
G1).

Whatever tells of it (list, stream, resume, another tab), in any order and however it overlaps, the
page holds and shows the beginning of the final text and nothing else. ``REPLY_TEXT_REPLIES=200``
lets the last test stream 200 replies.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from tests.browser.browser_harness import Player, Provider, Visitor, send, words
from tests.browser.conftest import Visit
from tests.server_process import ServerProcess

STORIES = (Path(__file__).parent / "reply_stories.js").read_text(encoding="utf-8")
REPLIES = int(os.environ.get("REPLY_TEXT_REPLIES", "6"))

in_a_browser = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

LETTERS = [
    "a",
    " ",
    "\n",
    "é",
    "한",
    "글",
    "ᄒ",
    "ᅡ",
    "ᆫ",
    "日",
    "👩\u200d👩\u200d👧",
    "👍🏽",
    "🇰🇷",
    "e\u0301",
    "\ufeff",
    "\u2028",
]
texts = st.lists(st.sampled_from(LETTERS), min_size=1, max_size=40).map("".join)


@pytest.fixture(scope="module")
def page(chromium: Browser, server: ServerProcess) -> Iterator[Page]:
    """The whole page; its requests are answered by reply_stories.js."""
    visitor = Visitor(chromium, server, Player(server))
    visitor.context.add_init_script(STORIES)
    yield visitor.open()
    visitor.context.close()
    visitor.check()


PUT_TOGETHER = """async ([text, parts]) => {
    const { byteLength, extended } = await import("/static/reply_text.js");
    const letters = [...text];
    const seen = [];
    let known = "";
    for (const [start, end] of parts) {
        const part = letters.slice(start, end).join("");
        const next = extended(known, part, byteLength(letters.slice(0, end).join("")));
        // Null exactly if something is missing between the known text and the part.
        if ((next === null) !== (start > [...known].length)) return `${part} after ${known}`;
        known = next ?? known;
        if (!text.startsWith(known)) return known;
        seen.push([...known].length);
    }
    return seen;
}"""


@given(text=texts, cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12))
@settings(in_a_browser, max_examples=50)
def test_parts_in_any_order_give_the_text(
    page: Page, text: str, cuts: list[tuple[int, int]]
) -> None:
    """G1. Each part that joins up adds exactly what lies beyond; no other part changes anything."""
    parts = [(min(pair), min(max(pair), len(text))) for pair in cuts]
    parts = [(start, end) for start, end in parts if start <= end]
    known, expected = 0, []
    for start, end in parts:
        known = max(known, end) if start <= known else known
        expected.append(known)
    assert page.evaluate(PUT_TOGETHER, [text, parts]) == expected


say = st.tuples(st.just("say"), st.integers(1, 6))
event = st.tuples(st.just("event"), st.integers(1, 8), st.integers(0, 4))
hear = st.just(("hear",))
answer = st.tuples(
    st.just("list"), st.sampled_from(["oldest", "newest"]), st.sampled_from(["then", "now"])
)
steps = st.one_of(
    st.tuples(say, event),
    st.tuples(say, hear, answer, event),
    st.tuples(hear, say, event, answer),
    st.tuples(hear),
    st.tuples(answer),
    st.tuples(st.tuples(st.just("cut"), st.sampled_from(["close", "error"]))),
    st.tuples(st.tuples(st.just("hide"), st.booleans())),
    st.tuples(st.sampled_from([("ask",), ("elsewhere",)]), answer),
    st.tuples(st.tuples(st.just("end"), st.sampled_from(["stop", "stopped", "error"]))),
)
FIRST_LIST = ("list", "oldest", "now")
beginnings = st.sampled_from([[FIRST_LIST, ("ask",)], [("elsewhere",), FIRST_LIST], []])
room_numbers = itertools.count()


@given(
    texts=st.lists(texts, min_size=1, max_size=3),
    begin=beginnings,
    story=st.lists(steps, max_size=12),
)
@settings(in_a_browser, max_examples=50)
def test_whatever_comes_in_whatever_order_the_text_is_the_replys(
    page: Page,
    texts: list[str],
    begin: list[tuple[Any, ...]],
    story: list[tuple[tuple[Any, ...], ...]],
) -> None:
    """G1. Lists, deltas, breaks, resumes, hidden tabs, another tab's questions, stops and failures,
    in any order."""
    told = {
        "roomId": f"story-{next(room_numbers)}",
        "texts": texts,
        "story": [*begin, *itertools.chain(*story)],
    }
    assert page.evaluate("story => playStory(story)", told) is None


# Looks at every change of the page, and lets a test cut the stream that is read.
WATCH = """(() => {
    window.wrong = [];
    let cut = () => {};
    window.cutStream = () => cut();
    const realFetch = fetch;
    window.fetch = async (...request) => {
        const answer = await realFetch(...request);
        if (!/\\/(stream|resume)$/.test(request[0]) || !answer.ok) return answer;
        const reader = answer.body.getReader();
        const body = new ReadableStream({
            start(controller) {
                cut = () => {
                    try {
                        controller.error(new Error("cut"));
                    } catch {}
                    reader.cancel().catch(() => {});
                };
            },
            async pull(controller) {
                const { done, value } = await reader.read();
                done ? controller.close() : controller.enqueue(value);
            },
            cancel: reason => reader.cancel(reason),
        });
        return new Response(body, { headers: answer.headers });
    };
    const isBeginning = (text, texts) => texts.some(whole => whole.startsWith(text));
    document.addEventListener("DOMContentLoaded", async () => {
        const { state } = await import("/static/state.js");
        const look = () => {
            const { plain, markdown } = JSON.parse(localStorage["test.texts"] ?? '{"plain": [], "markdown": []}');
            for (const { messages } of state.threads.values())
                for (const { sender_type, content } of messages)
                    if (sender_type === "AI" && !isBeginning(content, [...plain, ...markdown]))
                        wrong.push({ held: content });
            for (const reply of document.querySelectorAll(".theirs .prose:has(.block)")) {
                const text = [...reply.querySelectorAll(".block")].map(block => block.textContent).join("\\n").trim();
                if (text.startsWith("plain") && !isBeginning(text, plain)) wrong.push({ shown: text });
            }
        };
        const everything = { subtree: true, childList: true, characterData: true, attributes: true };
        new MutationObserver(look).observe(document, everything);
    });
})()"""

MARKDOWN = """markdown *{name}* **굵은 글씨**입니다 👩‍👩‍👧

| a | b |
|---|---|
| 1 | 2 |

```python
print("{name}")
```

1. one
2. `two`"""


def plain_text(name: str) -> str:
    return " ".join([f"plain-{name}", *(f"word{number}" for number in range(40))])


@pytest.mark.timeout(6_000 if REPLIES > 20 else 240)
def test_at_no_change_of_the_page_is_a_text_torn(
    player: Player, provider: Provider, visit: Visit
) -> None:
    """G1. Two tabs, of which one reads on in a new stream at random: plain words as they are shown,
    and the source of Markdown as the modules hold it. Some replies are the first of a chat, some
    were queued by the other tab. ``REPLY_TEXT_REPLIES``: how many replies."""
    chance = random.Random(12)
    visitor = visit(player=player)
    visitor.context.add_init_script(WATCH)
    first, second = visitor.open("/#new"), visitor.open("/#new")
    texts: dict[str, list[str]] = {"plain": [], "markdown": []}
    said: list[str] = []
    in_room: list[str] = []
    while len(said) < REPLIES:
        is_new = len(said) % 6 == 0
        new = []
        for name in range(len(said), len(said) + (1 if is_new else chance.randint(1, 2))):
            kind = chance.choice(["plain", "plain", "markdown"])
            new.append(plain_text(str(name)) if kind == "plain" else MARKDOWN.format(name=name))
            texts[kind].append(new[-1])
        said += new
        first.evaluate("texts => { localStorage['test.texts'] = JSON.stringify(texts) }", texts)
        provider.will_say(*(words(text, 0.02) for text in new))
        askers = [first] if is_new else chance.sample([first, second], len(new))
        if is_new:
            in_room = []
            first.goto("/#new")
            first.get_by_role("radio", name="GPT-4o").check()
        for number, tab in enumerate(askers):
            question = f"question {len(said) - len(new) + number}"
            send(tab, question)
            # The next one is accepted after it.
            expect(tab.locator(".mine:not(.unsent)", has_text=question)).to_be_visible()
        if is_new:
            second.goto(first.url)
        in_room += new
        cut_until_answered(chance, first, second, len(in_room))
        for tab in (first, second):
            assert tab.evaluate("wrong.splice(0)") == []
            assert tab.evaluate(HELD) == in_room
            shown = [
                text
                for text in tab.locator(".theirs .prose").all_inner_texts()
                if text.startswith("plain")
            ]
            assert shown == [text for text in in_room if text in texts["plain"]]


HELD = """async () => {
    const { openThread } = await import("/static/state.js");
    return openThread().messages.filter(one => one.sender_type === "AI").map(one => one.content);
}"""


def cut_until_answered(chance: random.Random, first: Page, second: Page, answered: int) -> None:
    """Break the second tab's stream, or load the tab again, at random moments."""
    finished = first.locator(".theirs[data-streaming='false']")
    while finished.count() < answered:
        second.wait_for_timeout(chance.choice([20, 50, 100, 200]))
        if chance.random() < 0.1:
            assert second.evaluate("wrong.splice(0)") == []
            second.reload()
        elif chance.random() < 0.5:
            second.evaluate("window.cutStream?.()")
    for tab in (first, second):
        expect(tab.locator(".theirs[data-streaming='false']")).to_have_count(answered)
