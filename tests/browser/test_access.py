"""For everybody: screen readers, keyboards, small screens, both themes, both languages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from base_server.template.base.errors import ErrorCode
from tests.browser.browser_harness import PASSWORD, Player, Provider, all_texts, send, words
from tests.browser.conftest import Visit

AXE = (Path(__file__).parent / "vendor/axe-core/axe.min.js").read_text(encoding="utf-8")
REPLY = """# A heading

Text with **weight**, `code`, a [link](https://example.com/).

1. one
2. two

```python
for name in names: print(f"hello {name}")  # a rather long line that has to be scrolled to be read on a phone
```

| left | right |
|---|---:|
| a | 1 |

> said before"""


def violations(page: Page) -> list[str]:
    """What axe-core finds, as ``rule: element``."""
    page.evaluate(AXE)
    found: Any = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['html'][:200]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(("theme", "width"), [("light", 390), ("dark", 1280)])
def test_axe_finds_nothing(
    player: Player, provider: Provider, visit: Visit, theme: str, width: int
) -> None:
    look = {
        "color_scheme": theme,
        "viewport": {"width": width, "height": 844},
        "reduced_motion": "reduce",
    }
    stranger = visit(**look).open()
    assert violations(stranger) == [], "the form"

    room_id = player.create_room("A long conversation", "GPT4O")
    player.create_room("Another one")
    provider.will_say({"tokens": [REPLY]}, words("stop me", hang=True))
    visitor = visit(player=player, **look)
    visitor.expected = ("503",)
    page = visitor.open("/#new")
    expect(page.get_by_role("radio")).to_have_count(2)
    assert violations(page) == [], "a new chat"

    page.goto(f"/#room={room_id}")
    send(page, "Show everything")
    expect(page.locator(".hljs-keyword").first).to_be_attached()
    send(page, "And a reply that runs")
    expect(page.get_by_text("stop me")).to_be_visible()
    send(page, "and one that waits")
    expect(page.get_by_text("Waits for the reply before it")).to_be_visible()
    page.locator("#composer").fill("and one that does not wait")
    expect(page.get_by_role("button", name="Stop the reply and send now")).to_be_visible()
    assert violations(page) == [], "a conversation"

    page.get_by_role("button", name="Stop the reply", exact=True).click()
    expect(page.locator(".outcome")).to_be_visible()
    refusal = {
        "errorCode": 1001,
        "error": {"code": "MESSAGE_NOT_SENT", "message": "no", "retryable": False},
    }
    page.route("**/api/chat/message/stream", lambda route: route.fulfill(status=503, json=refusal))
    send(page, "refused")
    expect(page.get_by_text("Not sent.")).to_be_visible()
    page.locator(".mine").first.hover()
    page.get_by_role("button", name="Delete message").first.click()
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    page.get_by_role("button", name="Rename chat").click()
    assert violations(page) == [], "a failure, an undo, a title being changed"

    page.goto("/#")
    expect(page.locator(".card")).to_have_count(2)
    assert violations(page) == [], "the list"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_keyboard_alone_is_enough(visit: Visit, provider: Provider) -> None:
    page = visit().open()
    press = page.keyboard.press

    def tab_to(name: str) -> None:
        """Press Tab until something with this accessible name has the focus."""
        focused = page.locator(":focus")
        for _ in range(40):
            press("Tab")
            # The first line is the element itself, as in: - button "Rename chat"
            if focused.count() and f'"{name}' in (focused.aria_snapshot() or "").split("\n")[0]:
                return
        raise AssertionError(f"Tab does not lead to {name!r}")

    tab_to("Account name")
    page.keyboard.type("keys-only")
    tab_to("Password")
    page.keyboard.type(PASSWORD)
    press("Enter")
    expect(page.get_by_role("heading", name="What shall we talk about?")).to_be_visible()
    # Who has just come in can write at once, and choose.
    expect(page.locator("#composer")).to_be_focused()
    tab_to("GPT-4o")
    press("ArrowDown")
    expect(page.get_by_role("radio", name="Demo")).to_be_checked()
    tab_to('Message"')
    page.keyboard.type("first line")
    press("Shift+Enter")
    page.keyboard.type("second line")
    press("Enter")
    expect(page.locator(".theirs[data-streaming='false']")).to_have_count(1)
    assert all_texts(page)[0] == "first line\nsecond line"
    # The composer keeps the focus; what was answered is read aloud once, as a whole.
    expect(page.locator("#composer")).to_be_focused()
    expect(page.locator("[aria-live='polite']")).to_contain_text("Reply: This is a **demo**")

    tab_to("Rename chat")
    press("Enter")
    expect(page.get_by_label("Title of this chat")).to_be_focused()
    page.keyboard.type("By keyboard")
    press("Enter")
    expect(page.get_by_role("heading", name="By keyboard")).to_be_visible()
    expect(page.get_by_role("button", name="Rename chat")).to_be_focused()
    press("Enter")
    expect(page.get_by_label("Title of this chat")).to_be_focused()
    press("Escape")
    expect(page.get_by_role("button", name="Rename chat")).to_be_focused()

    tab_to("Delete message")
    press("Enter")
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    press("Enter")
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator("#composer")).to_be_focused()
    tab_to("New chat")
    press("Enter")
    expect(page.get_by_role("heading", name="What shall we talk about?")).to_be_visible()
    tab_to("By keyboard")
    press("Enter")
    expect(page.locator(".message")).to_have_count(2)
    page.locator("body").focus()
    tab_to("Log out")
    press("Enter")
    expect(page.get_by_label("Password")).to_be_visible()


def test_the_skip_link_leads_past_the_list(visit: Visit, player: Player) -> None:
    page = visit(player=player).open("/#new")
    expect(page.locator("#composer")).to_be_visible()
    page.locator(".skip").focus()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#composer")).to_be_focused()


def test_the_readers_language_and_theme_are_kept(visit: Visit) -> None:
    page = visit(locale="ko-KR", color_scheme="dark").open()
    expect(page.get_by_label("계정 이름")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "ko"
    dark = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    page.get_by_role("button", name="English").click()
    page.get_by_role("button", name="Light colours").click()
    page.reload()
    expect(page.get_by_label("Account name")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor") != dark


def test_both_languages_have_every_text_and_every_error(visit: Visit) -> None:
    page = visit().open()
    texts: dict[str, dict[str, str]] = page.evaluate(
        "Promise.all(['en', 'ko'].map(async tag => [tag, (await import(`/static/i18n/${tag}.js`)).default]))"
        ".then(Object.fromEntries)"
    )
    assert texts["en"].keys() == texts["ko"].keys()
    errors = {f"error.{int(code)}" for code in ErrorCode if code}
    assert errors == {key for key in texts["en"] if key.removeprefix("error.").isdigit()}
    placeholders = {
        tag: {key: _placeholders(text) for key, text in texts[tag].items()} for tag in texts
    }
    assert placeholders["en"] == placeholders["ko"]


def _placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{\w+\}", text))
