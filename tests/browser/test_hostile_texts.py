"""Names, titles, messages and replies are other people's text: nothing in them runs, nothing in
them is fetched."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.browser_harness import Player, Provider, all_texts, send
from tests.browser.conftest import Visit

# Each would set `hit`, or ask evil.example for something, if it got through.
PAYLOADS = [
    "<script>hit=1</script>",
    "<img src=x onerror=hit=1>",
    "<img src=//evil.example/pixel>",
    "<svg onload=hit=1><use href=//evil.example/u></svg>",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "<a href=javascript:hit=1>click</a>",
    "<style>@import '//evil.example/style.css';</style>",
    "<link rel=stylesheet href=//evil.example/style.css>",
    "<form action=//evil.example/form><button>go</button></form>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=hit=1>",
    "<noscript><p title='</noscript><img src=x onerror=hit=1>'>",
    "<template><script>hit=1</script></template>",
    "<button class=copy-code onclick=hit=1>Copy</button>",
    "\"><img src=x onerror=hit=1>",
    "'-hit=1-'",
    "${hit=1} {{hit=1}} <%= hit=1 %>",
    "[click](javascript:hit=1)",
    "[click](JaVaScRiPt&#58;hit=1)",
    "[click](java\tscript:hit=1)",
    "[click](data:text/html,<script>hit=1</script>)",
    "![pixel](https://evil.example/pixel.png)",
    "![pixel](https://evil.example/a.png \"x\" onerror=hit=1)",
    "[![pixel](https://evil.example/pixel.png)](javascript:hit=1)",
    "![ref][r]\n\n[r]: https://evil.example/ref.png",
    "<https://evil.example/auto>",
    "```\"><img src=x onerror=hit=1>\n</code></pre><script>hit=1</script>\n```",
    "```html\n<img src=x onerror=hit=1>\n```",
    "|<img src=x onerror=hit=1>|b|\n|:-:|-|\n|<script>hit=1</script>|[x](javascript:hit=1)|",
    "# <img src=x onerror=hit=1>\n> <svg/onload=hit=1>\n- <script>hit=1</script>",
    "&lt;img src=x onerror=hit=1&gt;",
    "[a](https://evil.example/\"onmouseover=\"hit=1)",
    "\u202eevil\u2066<script>hit=1</script>",
]  # fmt: skip
ALLOWED_LINKS = (
    "https://evil.example/auto",
    "https://evil.example/pixel.png",
    "https://evil.example/ref.png",
)


@pytest.fixture
def page(visit: Visit, player: Player) -> Page:
    return visit(player=player).open("/#new")


def assert_harmless(page: Page) -> None:
    """Nothing has run. (That nothing was fetched from elsewhere is checked of every visitor.)"""
    assert page.evaluate("typeof hit") == "undefined"
    assert (
        page.locator(
            "main :is(script, img, iframe, form, style, link, object, svg:not(.icon)):not(form.composer, .brand img)"
        ).count()
        == 0
    )
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
        ".filter(name => name.startsWith('on'))"
    )
    assert page.evaluate(handlers) == []
    for link in page.locator(".prose a[href]").all():
        assert str(link.get_attribute("href")).startswith(("http://", "https://", "mailto:"))
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
        assert link.get_attribute("target") == "_blank"


def test_replies_and_messages(page: Page, player: Player, provider: Provider) -> None:
    """Each payload is asked, and the provider says it too."""
    room_id = player.create_room("Payloads", "GPT4O")
    provider.will_say(*({"tokens": [payload]} for payload in PAYLOADS))
    for payload in PAYLOADS:
        player.post("/api/chat/message/send", room_id=room_id, content=payload)
    page.goto(f"/#room={room_id}")
    expect(page.locator(".message")).to_have_count(50)
    page.locator("#messages").evaluate("box => { box.scrollTop = 0 }")
    expect(page.locator(".message")).to_have_count(2 * len(PAYLOADS))
    assert_harmless(page)
    # A question is shown as it was written, letter for letter.
    assert page.locator(".bubble").evaluate_all("all => all.map(e => e.textContent)") == PAYLOADS
    # Images have become links; nobody has followed them.
    hrefs = {link.get_attribute("href") for link in page.locator(".prose a").all()}
    assert hrefs >= set(ALLOWED_LINKS)


def test_a_reply_while_it_grows(page: Page, provider: Provider) -> None:
    """Cut at every letter, markup is half open most of the time."""
    provider.will_say(
        {
            "tokens": list(
                "a <img src=x onerror=hit=1> ![b](https://evil.example/c.png) `<script>`"
            ),
            "delay_s": 0.01,
        }
    )
    page.get_by_role("radio", name="GPT-4o").check()
    send(page, "go")
    expect(page.locator(".theirs[data-streaming='false']")).to_have_count(1)
    assert_harmless(page)
    assert "<img src=x onerror=hit=1>" in all_texts(page)[1]


def test_names_and_titles(visit: Visit, player: Player) -> None:
    for payload in PAYLOADS:
        player.create_room(payload.replace("\n", " ").replace("\t", " ")[:200])
    room_id = player.create_room("<img src=x onerror=hit=1>")
    page = visit(player=player).open(f"/#room={room_id}")
    expect(page.get_by_role("heading", name="<img src=x onerror=hit=1>")).to_be_visible()
    assert page.title().startswith("<img src=x onerror=hit=1> · ")
    # The session in the browser's store is text too.
    page.evaluate("""() => {
        const session = JSON.parse(localStorage["chat.session"]);
        session.name = "<img src=x onerror=hit=1>";
        localStorage["chat.session"] = JSON.stringify(session);
    }""")
    page.reload()
    expect(page.locator(".account-name")).to_have_text("<img src=x onerror=hit=1>")
    expect(page.locator(".card")).to_have_count(30)
    assert_harmless(page)


@pytest.mark.parametrize(
    "address", ["#room=<img src=x onerror=hit=1>", "#room=../../x", "?<script>hit=1</script>#new"]
)
def test_addresses(page: Page, address: str) -> None:
    page.goto(f"/{address}")
    page.reload()
    expect(page.get_by_role("heading", name="What shall we talk about?")).to_be_visible()
    assert_harmless(page)


def test_the_policy_holds_even_if_the_page_did_not(visit: Visit, player: Player) -> None:
    """What a hole in the page would let an attacker try is refused by the browser."""
    visitor = visit(player=player)
    visitor.expected = ("Content Security Policy", "Content Security policy", "requires 'Trusted")
    page = visitor.open("/#new")
    tries: dict[str, str] = {
        "inline script": "document.head.append(Object.assign(document.createElement('script'), {text: 'hit=1'}))",
        "raw HTML": "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=hit=1>')",
        "a policy of its own": "trustedTypes.createPolicy('evil', {createHTML: text => text})",
        "eval": "setTimeout('hit=1', 0)",
    }
    for name, attempt in tries.items():
        outcome: Any = page.evaluate(
            f"() => {{ try {{ {attempt}; return 'done' }} catch (error) {{ return error.name }} }}"
        )
        assert outcome == "TypeError" or name == "eval", (name, outcome)
    blocked = page.evaluate(
        "fetch('https://evil.example/').then(() => 'went out', error => error.name)"
    )
    assert blocked == "TypeError"
    page.wait_for_timeout(50)
    assert_harmless(page)
