"""The page's modules by themselves, in the browser they are written for: parser, order of messages,
Markdown, ids."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from base_server.template.base.event_stream import PING, StreamEvent
from tests.browser.browser_harness import Visitor
from tests.server_process import ServerProcess
from tests.waiting import PATIENCE_S

in_a_browser = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def page(chromium: Browser, server: ServerProcess) -> Iterator[Page]:
    visitor = Visitor(chromium, server)
    yield visitor.open()
    visitor.context.close()
    visitor.check()


texts = st.text(
    alphabet=st.one_of(
        st.characters(codec="utf-8"), st.sampled_from("\r\n\u2028\u2029\u0085: 한👋")
    ),
    max_size=30,
)
names = st.sampled_from(["reply.delta", "reply.done"])
events = st.lists(
    st.builds(StreamEvent, names, st.fixed_dictionaries({"text": texts}), st.integers(0, 10**6)),
    max_size=6,
)

READ = """async chunks => {
    const { readEvents } = await import("/static/stream.js");
    const bytes = chunks.map(chunk => Uint8Array.from(atob(chunk), letter => letter.charCodeAt(0)));
    const body = new ReadableStream({ start(controller) {
        for (const chunk of bytes) controller.enqueue(chunk);
        controller.close();
    } });
    const read = [];
    for await (const event of readEvents(body)) read.push(event);
    return read;
}"""


@given(told=events, cuts=st.lists(st.integers(1, 9), min_size=1, max_size=40), pings=st.booleans())
@in_a_browser
def test_events_are_read_however_they_are_cut(
    page: Page, told: list[StreamEvent], cuts: list[int], pings: bool
) -> None:
    """Encoded by the server's own encoder, cut inside characters, lines and line ends."""
    wire = (PING if pings else b"").join([b"", *(event.encode() for event in told), b""])
    chunks = []
    for size in cuts:
        chunks.append(wire[:size])
        wire = wire[size:]
    chunks.append(wire)
    read: Any = page.evaluate(READ, [base64.b64encode(chunk).decode() for chunk in chunks if chunk])
    assert read == [{"type": event.name, "id": str(event.id), "data": event.data} for event in told]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_of_the_standard_is_one(page: Page, end: str) -> None:
    lines = [
        "id: 7",
        "event: reply.delta",
        'data: {"text":',
        'data:"x"}',
        "",
        ": comment",
        "unknown: 1",
        "data",
        "",
        "",
    ]
    wire = end.join(lines).replace(f"data{end}", f'data: {{"second": 2}}{end}')
    chunks = [base64.b64encode(letter.encode()).decode() for letter in wire + "\n"]
    assert page.evaluate(READ, chunks) == [
        {"type": "reply.delta", "id": "7", "data": {"text": "x"}},
        {"type": "", "id": "7", "data": {"second": 2}},
    ]


LONG_LINE = """async patienceMs => {
    const { EventParser } = await import("/static/stream.js");
    const parser = new EventParser();
    const startMs = performance.now();
    parser.feed('data: {"text":"');
    for (let piece = 0; piece < 20_000; piece++) {
        parser.feed("x".repeat(500));
        if (performance.now() - startMs > patienceMs) return `given up at piece ${piece}`;
    }
    return parser.feed('"}\\n\\n')[0].data.text.length;
}"""


def test_a_long_line_is_not_read_again_with_each_piece(page: Page) -> None:
    """cases/page.md G12. Ten million characters in 20,000 pieces; read again each time, it takes
    ten minutes."""
    assert page.evaluate(LONG_LINE, 1000 * PATIENCE_S) == 10_000_000


# What happens to a room while a page looks at it: messages come and go, and are read in pages that
# overtake each other.
STEPS = [
    "come",
    "come",
    "come here",
    "delete",
    "delete newest",
    "read",
    "read short",
    "older",
    "late",
]
STORIES = 3_000

THREAD = """async stories => {
    const thread = await import("/static/thread.js");
    const tell = steps => {
        const LIMIT = 5;
        const room = [], gone = new Set();
        let seq = 0, clock = 0, late = null;
        const shown = thread.emptyThread();
        const pageBefore = before => {
            const all = room.filter(message => message.seq < before);
            const messages = all.slice(-LIMIT).map(message => ({ ...message }));
            const has_more = all.length > LIMIT;
            return { messages, has_more, next_cursor: has_more ? messages[0].seq : null, askedMs: clock };
        };
        // Of a server whose pages are not filled: without a message when the newest ones were deleted.
        const shortPage = () => {
            const messages = room.filter(message => message.seq > seq - LIMIT).map(message => ({ ...message }));
            const has_more = room.length > messages.length;
            return { messages, has_more, next_cursor: has_more ? seq - LIMIT + 1 : null, askedMs: clock };
        };
        const isGone = id => gone.has(id);
        const come = () => {
            room.push({ message_id: `m${++seq}`, seq, content: `c${seq}`, is_streaming: false });
            return { ...room.at(-1) };
        };
        for (const step of steps) {
            clock += 1;
            const newest = shown.messages.at(-1);
            if (step === "come") come();
            if (step === "come here") thread.putMessage(shown, come(), clock);
            if (step.startsWith("delete") && room.length) {
                const [{ message_id }] = room.splice(step === "delete" ? room.length >> 1 : -1, 1);
                gone.add(message_id);
                thread.removeMessage(shown, message_id);
            }
            if (step === "read") thread.mergeNewest(shown, pageBefore(Infinity), isGone);
            if (step === "read short") thread.mergeNewest(shown, shortPage(), isGone);
            // A page that was read now and arrives later.
            if (step === "late") {
                if (late) thread.mergeNewest(shown, late, isGone);
                late = late ? null : pageBefore(Infinity);
            }
            if (step === "older" && shown.hasMore) thread.prependOlder(shown, pageBefore(shown.cursor), isGone);
            // What can be read is not taken back by an answer that was overtaken.
            const isKept = step === "read short" || !newest || gone.has(newest.message_id);
            const isLost = !isKept && !(shown.messages.at(-1)?.seq >= newest.seq);
            if (isLost) return [`${newest.message_id} is gone`, "all"];
        }
        clock += 1;
        thread.mergeNewest(shown, pageBefore(Infinity), isGone);
        while (shown.hasMore) thread.prependOlder(shown, pageBefore(shown.cursor), isGone);
        return [shown.messages.map(message => message.message_id), room.map(message => message.message_id)];
    };
    for (const steps of stories) {
        const [shown, there] = tell(steps);
        if (String(shown) !== String(there)) return { steps, shown, there };
    }
    return null;
}"""


def test_a_room_is_shown_whole_in_order_and_once(page: Page) -> None:
    chance = random.Random(1)
    stories = [chance.choices(STEPS, k=chance.randint(1, 30)) for _ in range(STORIES)]
    assert page.evaluate(THREAD, stories) is None


def test_finished_reply_stays_finished_and_running_one_never_shrinks(page: Page) -> None:
    """A finished reply does not run again and a running one does not shrink."""
    contents: Any = page.evaluate("""async () => {
        const { emptyThread, putMessage } = await import("/static/thread.js");
        const thread = emptyThread();
        const reply = { message_id: "r", seq: 2, content: "abc", is_streaming: true };
        const seen = [];
        const end = { content: "abcde", is_streaming: false };
        for (const change of [{}, { content: "a" }, { content: "abcd" }, end, { content: "abcdef" }]) {
            const { content, is_streaming } = putMessage(thread, { ...reply, ...change });
            seen.push([content, is_streaming]);
        }
        return seen;
    }""")
    assert contents == [
        ["abc", True],
        ["abc", True],
        ["abcd", True],
        ["abcde", False],
        ["abcde", False],
    ]


FRAGMENTS = """< > </ <!-- script svg style math img src=x onerror=h=1 javascript: data: https://e.example/ &#58; &lt; "
' ` ``` ![ [ ]( ) ] | - # > * _ x"""
fragments = st.sampled_from([*FRAGMENTS.split(), "\n", "\t", " "])

SHOW = """async text => {
    const { safeBlocks } = await import("/static/markdown.js");
    const box = document.createElement("div");
    const found = [];
    for (const block of safeBlocks(text)) {
        box.innerHTML = block;
        for (const element of box.querySelectorAll("*")) {
            const attributes = [...element.attributes].map(one => [one.name, one.value]);
            found.push([element.localName, Object.fromEntries(attributes)]);
        }
    }
    return found;
}"""
TAGS = "a blockquote br button code del div em h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul"


@given(text=st.lists(fragments, max_size=25).map("".join))
@settings(in_a_browser, max_examples=150)
def test_no_markdown_gives_more_than_is_allowed(page: Page, text: str) -> None:
    for tag, attributes in page.evaluate(SHOW, text):
        assert tag in TAGS.split()
        assert attributes.keys() <= {"class", "href", "rel", "start", "tabindex", "target", "type"}
        assert attributes.get("href", "https:").startswith(("https:", "http:", "mailto:"))


def test_markdown_is_shown_as_meant(page: Page) -> None:
    def html(text: str) -> str:
        return str(
            page.evaluate(
                "async text => (await import('/static/markdown.js')).safeBlocks(text).join('')",
                text,
            )
        ).strip()

    assert html("a\nb") == "<p>a<br>\nb</p>"
    assert html("# T").startswith("<h3>T</h3>")
    assert html("see main.py and https://x.example") == (
        '<p>see main.py and <a href="https://x.example" target="_blank" rel="noopener noreferrer nofollow">https://x.example</a></p>'
    )
    assert '<td class="align-right">1</td>' in html("|a|\n|-:|\n|1|")
    assert '<ol start="3">' in html("3. three")
    assert "<code>x &lt; y\n</code>" in html("```\nx < y\n```")
    # A reference at the end reaches the blocks before it.
    assert 'href="https://x.example/r"' in html("[r]\n\ntext\n\n[r]: https://x.example/r")


HTML = """async texts => {
    const { safeBlocks } = await import("/static/markdown.js");
    return texts.map(text => safeBlocks(text).join("").trim());
}"""


@pytest.mark.parametrize(
    ("text", "tag", "inside", "after"),
    [
        ("**마크다운(Markdown)**을 쓰세요", "strong", "마크다운(Markdown)", "을 쓰세요"),
        ("*기울임*을", "em", "기울임", "을"),
        ("*“기울임”*은", "em", "“기울임”", "은"),
        ('**"인용"**은', "strong", "&quot;인용&quot;", "은"),
        ("~~취소(X)~~를", "s", "취소(X)", "를"),
        ("**굵게**(괄호)", "strong", "굵게", "(괄호)"),
        ("**「用語」**は", "strong", "「用語」", "は"),
        ("**这是重点。**接着", "strong", "这是重点。", "接着"),
        ("**`코드`**입니다", "strong", "<code>코드</code>", "입니다"),
        ("**100%**입니다", "strong", "100%", "입니다"),
        ("**이름:**John", "strong", "이름:", "John"),
        ("**합계:**12,500원", "strong", "합계:", "12,500원"),
        ("**버전(v2)**1.0부터", "strong", "버전(v2)", "1.0부터"),
        ("**주의!**API를", "strong", "주의!", "API를"),
    ],
)
def test_emphasis_ends_before_a_particle(
    page: Page, text: str, tag: str, inside: str, after: str
) -> None:
    """cases/page.md G4."""
    (html,) = page.evaluate(HTML, [text])
    assert html.replace('"', "&quot;") == f"<p><{tag}>{inside}</{tag}>{after}</p>"


def test_emphasis_beside_hangul_opens_where_it_did(page: Page) -> None:
    """G4. What closes behind punctuation is only what is open; without Hangul, CommonMark's rule
    stays."""
    shown = {
        "**굵게** 그리고 a:**b** 끝": "<strong>굵게</strong> 그리고 a:<strong>b</strong> 끝",
        "가 (**굵게**) 나": "가 (<strong>굵게</strong>) 나",
        "**가 (**b**) 나**": "<strong>가 (<strong>b</strong>) 나</strong>",
        "**이름:**John, **나이:**30": "<strong>이름:</strong>John, <strong>나이:</strong>30",
        "**Name:**John": "**Name:**John",
        "**Version(v2)**1.0": "**Version(v2)**1.0",
    }
    assert page.evaluate(HTML, list(shown)) == [f"<p>{html}</p>" for html in shown.values()]


def test_what_was_no_emphasis_is_none_now(page: Page) -> None:
    """G4. The rule for Korean changes nothing in other texts."""
    texts = ["2 * 3 * 4", "snake_case_name", "a ** b ** c", "**", "한글 * 둘 * 셋"]
    assert page.evaluate(HTML, texts) == [f"<p>{text}</p>" for text in texts]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://example.com/docs에서 보세요", "https://example.com/docs"),
        ("https://example.com에서", "https://example.com"),
        ("https://example.com/를", "https://example.com/"),
        ("https://example.com/a?b=c#d를", "https://example.com/a?b=c#d"),
        ("http://127.0.0.1:8080으로", "http://127.0.0.1:8080"),
        ("(https://example.com/docs)에서", "https://example.com/docs"),
        ("「https://example.com/docs」を見る", "https://example.com/docs"),
        ("“https://example.com/docs”라는", "https://example.com/docs"),
        ("https://example.com/docsを見てください", "https://example.com/docs"),
        ("请看https://example.com/docs。谢谢", "https://example.com/docs"),
        ("https://example.com/docs，然后", "https://example.com/docs"),
        ("https://example.com/docs.를", "https://example.com/docs"),
        ("**https://example.com/docs**에서", "https://example.com/docs"),
        ("https://example.com/한글", "https://example.com/"),
        ("https://ko.wikipedia.org/wiki/%ED%95%9C을", "https://ko.wikipedia.org/wiki/%ED%95%9C"),
        (
            "https://de.wikipedia.org/wiki/Österreich ist",
            "https://de.wikipedia.org/wiki/%C3%96sterreich",
        ),
        (
            "<https://ko.wikipedia.org/wiki/한국>을",
            "https://ko.wikipedia.org/wiki/%ED%95%9C%EA%B5%AD",
        ),
        (
            "[위키](https://ko.wikipedia.org/wiki/한국)를",
            "https://ko.wikipedia.org/wiki/%ED%95%9C%EA%B5%AD",
        ),
        ("http://한국.kr에서", "http://xn--3e0b707e.kr"),
        ("http://한국.kr/경로", "http://xn--3e0b707e.kr/"),
        ("https://m.쇼핑몰.co.kr/event를", "https://m.xn--352bl7khqr.co.kr/event"),
        ("https://www.예시.com/ 보기", "https://www.xn--vv4b11d.com/"),
        ("http://blog.예시.com/x에서", "http://blog.xn--vv4b11d.com/x"),
        ("https://a한글.com/event", "https://xn--a-ds6ej65h.com/event"),
        ("https://www.sk하이닉스.com에서", "https://www.xn--sk-f15ix73c7ufulx.com"),
        ("https://예시.com:8443에서", "https://xn--vv4b11d.com:8443"),
        ("https://예시.한국", "https://xn--vv4b11d.xn--3e0b707e"),
        ("https://www.예시.한국에서", "https://www.xn--vv4b11d.xn--3e0b707e"),
        ("https://쇼핑몰.한국:8443/x를", "https://xn--352bl7khqr.xn--3e0b707e:8443/x"),
        ("https://例子.测试/路", "https://xn--fsqu00a.xn--0zwm56d/"),
        ("「https://예시.com」을", "https://xn--vv4b11d.com"),
        ("https://example.com의README.md를", "https://example.com"),
        ("http://127.0.0.1에서v1.2", "http://127.0.0.1"),
        ("https://example.com，www.example.net", "https://example.com"),
        ("mailto:me@example.com으로", "mailto:me@example.com"),
    ],
)
def test_an_address_ends_before_a_particle(page: Page, text: str, address: str) -> None:
    """cases/page.md G5."""
    (html,) = page.evaluate(HTML, [text])
    assert re.findall(r'href="([^"]*)"', html) == [address]
    # Nothing of the text is lost beside the link, which shows what is percent-encoded as letters.
    plain = re.sub(r"<[^>]+>", "", html).replace("&amp;", "&")
    assert plain == re.sub(r"[<>*]|\[|\]\(.*?\)", "", unquote(text))


def test_a_scheme_with_a_particle_is_no_address(page: Page) -> None:
    """G5. Nothing of it is a link, and what stands beside it is."""
    links = [
        re.findall(r'href="([^"]*)"', html)
        for html in page.evaluate(
            HTML,
            [
                "https://로 시작합니다",
                "https://와 http://의 차이",
                "https://로 시작하는 https://example.com을",
            ],
        )
    ]
    assert links == [[], [], ["https://example.com"]]


def test_ids_are_uuids_of_version_7_in_the_order_of_time(page: Page) -> None:
    ids: list[str] = page.evaluate(
        "import('/static/ids.js').then(({uuid7}) => [1, 2, 1e12, 1e12 + 1, 2 ** 47].map(uuid7))"
    )
    assert ids == sorted(ids)
    assert all(text[14] == "7" and text[19] in "89ab" and len(text) == 36 for text in ids)
    assert ids[2].startswith("00e8d4a5-1000-7")
