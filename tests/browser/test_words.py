"""Words stay whole: in tables, buttons and titles, on a desk and on a phone; and each reply says
whose it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.browser_harness import Player, Provider
from tests.browser.conftest import Visit

DESK: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
}

REPLY = """| Product name | Unit price | Description of the product | Available |
|---|--:|---|:-:|
| Wireless headphones | 12,500 | Noise-cancelling, with 30 hours of battery | yes |
| Internationalisation handbook | 1,234,567 | `code_of_the_article` and **strong** words | no |
| 무선 헤드폰(블랙) | 125,000원 | 소음을 줄여 주는 헤드폰입니다 | 예 |

A paragraph with https://example.com/a/very/long/address/{long} and a word {long}.

1. {long}
2. `{long}`

> {long}

```
{long} {long}
```
""".replace("{long}", "Donaudampfschifffahrt" * 8)

# Words of which one part stands in another line than the rest.
BROKEN = """selector => {
    const broken = [];
    for (const box of document.querySelectorAll(selector)) {
        const texts = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
        for (let node; (node = texts.nextNode());) {
            for (const { index, 0: word } of node.data.matchAll(/[^\\s-]+/g)) {
                const range = document.createRange();
                range.setStart(node, index);
                range.setEnd(node, index + word.length);
                const tops = [...range.getClientRects()].filter(one => one.width).map(one => Math.round(one.top));
                if (new Set(tops).size > 1) broken.push(word);
            }
        }
    }
    return broken;
}"""
SCROLLS = """() => [document.scrollingElement, document.getElementById("messages")]
    .filter(box => box && box.scrollWidth > box.clientWidth).map(box => box.id || box.localName)"""


def assert_nothing_scrolls_sideways(page: Page) -> None:
    assert page.evaluate(SCROLLS) == []


@pytest.mark.parametrize("look", [DESK, PHONE], ids=["1440", "390"])
@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
def test_no_cell_of_a_table_is_broken_inside_a_word(
    player: Player, provider: Provider, visit: Visit, look: dict[str, Any], locale: str
) -> None:
    """cases/page.md G2. What is too wide scrolls by itself and can have the focus; long words
    elsewhere still break."""
    room_id = player.create_room("Words", "GPT4O")
    provider.will_say({"tokens": [REPLY]})
    player.post("/api/chat/message/send", room_id=room_id, content="Donaudampfschifffahrt" * 8)
    page = visit(player=player, locale=locale, **look).open(f"/#room={room_id}")
    expect(page.locator(".table td")).to_have_count(12)
    assert page.evaluate(BROKEN, ".table :is(th, td)") == []
    assert_nothing_scrolls_sideways(page)
    column = page.locator(".theirs .prose").bounding_box()
    assert column is not None
    for box in page.locator(".block > *, .bubble").all():
        found = box.bounding_box()
        assert found is not None
        assert found["x"] + found["width"] <= column["x"] + column["width"] + 1
    table = page.locator(".table")
    if look is PHONE:
        assert table.evaluate("box => box.scrollWidth > box.clientWidth")
        table.focus()
        expect(table).to_be_focused()
        assert table.evaluate("box => { box.scrollLeft = 40; return box.scrollLeft; }") > 0


@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
def test_no_button_and_no_title_is_broken_inside_a_word(
    player: Player, visit: Visit, locale: str
) -> None:
    """G2. At 390 and at 320 pixels: the new chat, an open chat and the form of its title."""
    room_id = player.create_room("아주 긴 제목을 가진 채팅방 " * 5)
    player.post("/api/chat/message/send", room_id=room_id, content="안녕하세요")
    page = visit(player=player, **PHONE | {"locale": locale}).open("/#new")
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        page.goto("/#new")
        expect(page.locator(".suggestions button")).to_have_count(3)
        assert page.evaluate(BROKEN, "h1, h2, button, label, legend, .notice p, .hint") == []
        assert_nothing_scrolls_sideways(page)
        page.goto(f"/#room={room_id}")
        expect(page.locator(".message")).to_have_count(2)
        page.locator("#rename").click()
        expect(page.locator("#title")).to_be_visible()
        assert page.evaluate(BROKEN, "button, .author, .prose") == []
        assert_nothing_scrolls_sideways(page)
        page.keyboard.press("Escape")


def test_korean_words_are_whole_on_an_english_page(player: Player, visit: Visit) -> None:
    """G2. What others wrote: a persona's card and name, a message that is not sent yet, a server's
    reason."""
    words = "이야기보따리를풀어놓는 " * 12
    room_id = player.create_room("Words", "DEMO")
    player.post("/api/chat/message/send", room_id=room_id, content="Hello")
    visitor = visit(player=player, **PHONE)
    visitor.expected = ("400", "503")

    def in_korean(route: Route) -> None:
        persona = {
            "ai_persona": "DEMO",
            "title": words,
            "description": words,
            "model": "m",
            "default": True,
        }
        route.fulfill(json={"errorCode": 0, "sequence": 0, "personas": [persona]})

    def refuse(status: int, code: int) -> Callable[[Route], None]:
        error = {"code": "X", "message": words, "retryable": False}
        return lambda route: route.fulfill(status=status, json={"errorCode": code, "error": error})

    visitor.context.route("**/api/chat/personas", in_korean)
    visitor.context.route("**/api/chat/room/update", refuse(400, 99999))
    visitor.context.route("**/api/chat/message/stream", refuse(503, 1001))
    page = visitor.open("/#new")
    expect(page.locator(".persona-text")).to_have_text(words.strip())
    assert page.evaluate(BROKEN, ".persona") == []
    page.goto(f"/#room={room_id}")
    expect(page.locator(".author")).to_have_text(words.strip())
    page.locator("#composer").fill(words)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".unsent")).to_be_visible()
    page.locator("#rename").press("Enter")
    page.locator("#title").fill("Other")
    page.locator("#title").press("Enter")
    expect(page.locator(".toast")).to_contain_text(words.strip())
    assert page.evaluate(BROKEN, ".author, .bubble, .toast") == []


@pytest.mark.parametrize(("locale", "fallback"), [("en-US", "Assistant"), ("ko-KR", "어시스턴트")])
def test_each_reply_and_each_chat_says_with_whom(
    player: Player, visit: Visit, locale: str, fallback: str
) -> None:
    """cases/page.md G3. The room's persona, a reply's own, and one that is not configured any
    more."""
    borin = player.create_room("Swords", "GPT4O")
    player.create_room("Old friend", "DEMO")
    for persona in ("DEMO", "GPT4O"):
        player.post("/api/chat/message/send", room_id=borin, content="Hello", ai_persona=persona)

    def only_borin(route: Route) -> None:
        persona = {
            "ai_persona": "GPT4O",
            "title": "Borin the smith",
            "description": "",
            "model": "m",
            "default": True,
        }
        route.fulfill(json={"errorCode": 0, "sequence": 0, "personas": [persona]})

    visitor = visit(player=player, locale=locale)
    visitor.context.route("**/api/chat/personas", only_borin)
    page = visitor.open(f"/#room={borin}")
    expect(page.locator(".author")).to_have_text(["DEMO", "Borin the smith"])
    expect(page.locator(".room-top .tag")).to_have_text("Borin the smith")
    cards = page.locator(".card")
    expect(cards.filter(has_text="Swords").locator(".card-persona")).to_have_text("Borin the smith")
    expect(cards.filter(has_text="Old friend").locator(".card-persona")).to_have_text("DEMO")
    assert fallback not in page.locator("main").inner_text()
    cards.filter(has_text="Old friend").click()
    expect(page.locator(".room-top .tag")).to_have_text("DEMO")


def test_a_persona_in_another_case_is_the_same(player: Player, visit: Visit) -> None:
    """G3. The server takes its id in any case; a host may have written another than the list
    has."""
    room_id = player.create_room("Swords", "DEMO")
    player.post("/api/chat/message/send", room_id=room_id, content="Hello")

    def only_borin(route: Route) -> None:
        persona = {
            "ai_persona": "Demo",
            "title": "Borin the smith",
            "description": "",
            "model": "m",
            "default": True,
        }
        route.fulfill(json={"errorCode": 0, "sequence": 0, "personas": [persona]})

    visitor = visit(player=player)
    visitor.context.route("**/api/chat/personas", only_borin)
    page = visitor.open(f"/#room={room_id}")
    for place in (".author", ".room-top .tag", ".card-persona"):
        expect(page.locator(place)).to_have_text("Borin the smith")
