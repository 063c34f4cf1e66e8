"""The page as people use it: talk, reload, use two tabs, lose the server, delete."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.backends_redis import free_port
from tests.browser.browser_harness import PASSWORD, Player, Provider, all_texts, send, words
from tests.browser.conftest import Visit, provider_settings
from tests.server_process import ServerProcess, running_server


@pytest.fixture
def own_server(tmp_path: Path, provider: Provider) -> Iterator[ServerProcess]:
    """A server that comes back on its port after a kill."""
    changes = {
        "BASE_SERVER__NETCONFIG__PORT": str(free_port()),
        # A reply whose process is dead ends after this.
        "BASE_SERVER__CHATCONFIG__REPLY_LEASE_S": "2",
        "BASE_SERVER__CHATCONFIG__SWEEP_INTERVAL_S": "0.5",
        **provider_settings(provider),
    }
    with running_server(tmp_path / "data", **changes) as running:
        yield running


def sign_up(page: Page, account_id: str) -> None:
    page.get_by_label("Account name").fill(account_id)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    expect(page.get_by_role("heading", name="What shall we talk about?")).to_be_visible()


def replies(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".theirs .prose").all_inner_texts()]


def wait_until_answered(page: Page, count: int) -> None:
    expect(page.locator(".theirs[data-streaming='false']")).to_have_count(count)
    expect(page.locator(".unsent")).to_have_count(0)


def test_a_visit_that_convinces(
    own_server: ServerProcess, provider: Provider, visit: Visit
) -> None:
    visitor = visit(server=own_server)
    # While the server is dead, and starting; and a tab that asks for a room which another tab has
    # deleted.
    visitor.expected = (
        "net::ERR_CONNECTION",
        "net::ERR_INCOMPLETE_CHUNKED_ENCODING",
        "503",
        "404 (Not Found)",
    )
    first = visitor.open()

    # A stranger chats without a key.
    sign_up(first, "stranger")
    first.get_by_role("radio", name="Demo").check()
    expect(first.get_by_text("You are talking to the demo")).to_be_visible()
    send(first, "안녕하세요 👋")
    wait_until_answered(first, 1)
    assert "이 채팅 서버의 데모입니다" in replies(first)[0]

    # A reload in the middle of a reply reads on.
    first.get_by_role("link", name="New chat").first.click()
    first.get_by_role("radio", name="GPT-4o").check()
    long = " ".join(f"word{number}" for number in range(60))
    provider.will_say(words(long, 0.05))
    send(first, "Say many words")
    expect(first.locator(".theirs .prose")).to_contain_text("word3")
    first.reload()
    expect(first.locator(".theirs[data-streaming='true'] .prose")).to_contain_text("word5")
    wait_until_answered(first, 1)
    assert replies(first) == [long]
    assert visitor.requests_to("/api/chat/message/resume")

    # A second tab shows the same reply as it grows, and stops it.
    provider.will_say(words("begun but never ended", hang=True))
    send(first, "Never stop")
    expect(first.locator(".theirs").nth(1)).to_contain_text("never ended")
    second = visitor.open(first.url)
    expect(second.locator(".theirs[data-streaming='true'] .prose")).to_have_text(
        "begun but never ended"
    )
    second.get_by_role("button", name="Stop the reply").click()
    for page in (first, second):
        expect(page.locator(".outcome")).to_contain_text("Stopped. What was said so far is kept.")
        assert replies(page)[1] == "begun but never ended"

    # Two messages one right after the other keep their order, and the second waits for its turn.
    provider.will_say(words("answer to one", 0.3), words("answer to two"))
    send(first, "one")
    send(first, "two")
    expect(first.get_by_text("Waits for the reply before it")).to_be_visible()
    wait_until_answered(first, 4)
    expected = ["Say many words", long, "Never stop", "begun but never ended"]
    expected += ["one", "answer to one", "two", "answer to two"]
    assert all_texts(first) == expected
    expect(second.locator(".message")).to_have_count(8)
    assert all_texts(second) == expected

    # The server is killed in the middle of a reply; what is written meanwhile is sent when it is
    # back.
    provider.will_say(words("half of it", hang=True))
    send(first, "Break off")
    expect(first.locator(".theirs").nth(4)).to_contain_text("half of it")
    own_server.kill()
    expect(first.get_by_text("No connection to the server.")).to_be_visible()
    send(first, "Written while the server was away")
    expect(first.get_by_text("Waiting for the connection.")).to_be_visible()
    own_server.start()
    expect(first.get_by_text("No connection to the server.")).to_be_hidden()
    expected += [
        "Break off",
        "half of it",
        "Written while the server was away",
        "stub: Written while the server was away",
    ]
    wait_until_answered(first, 6)
    assert all_texts(first) == expected
    first.reload()
    expect(first.locator(".message")).to_have_count(12)
    assert all_texts(first) == expected
    assert provider.questions.count("Written while the server was away") == 1

    # Delete, undo, delete.
    question = first.locator(".mine", has_text="Never stop")
    question.hover()
    question.get_by_role("button", name="Delete message").click()
    expect(question).to_be_hidden()
    first.get_by_role("button", name="Undo").click()
    expect(question).to_be_visible()
    assert not visitor.requests_to("/api/chat/message/delete")
    question.hover()
    question.get_by_role("button", name="Delete message").click()
    # Who leaves at once has deleted too.
    first.reload()
    expect(first.locator(".message")).to_have_count(11)
    expect(second.locator(".message")).to_have_count(11)
    first.get_by_role("button", name="Delete chat").click()
    expect(first.locator(".card")).to_have_count(1)
    first.get_by_role("button", name="Undo").click()
    expect(first.locator(".card")).to_have_count(2)
    first.go_back()
    first.get_by_role("button", name="Delete chat").click()
    expect(second.locator(".card")).to_have_count(1)
    # The other tab, which had it open, has left it.
    expect(second.get_by_role("heading", name="What shall we talk about?")).to_be_visible()
    first.reload()
    expect(first.locator(".card")).to_have_count(1)


def test_a_message_that_fails_is_sent_again_as_the_same(player: Player, visit: Visit) -> None:
    room_id = player.create_room("Bad luck")
    visitor = visit(player=player)
    visitor.expected = ("503", "net::ERR_FAILED")
    page = visitor.open(f"/#room={room_id}")
    expect(page.get_by_text("Nothing here yet.")).to_be_visible()

    # The first attempt is lost on its way back; the page does not know that it got through.
    lost: list[str] = []

    def lose_answer(route: Route) -> None:
        if not lost:
            lost.append(route.fetch().text())
            route.abort()
        else:
            route.continue_()

    page.route("**/api/chat/message/stream", lose_answer)
    send(page, "Only once, please")
    wait_until_answered(page, 1)
    first, second, *_ = visitor.requests_to("/api/chat/message/stream")
    assert "message.accepted" in lost[0]
    assert first["client_message_id"] == second["client_message_id"]
    assert uuid.UUID(first["client_message_id"]).version == 7
    assert player.messages(room_id).count("Only once, please") == 1

    # Refused again and again, it says so and waits for its writer.
    refusal = {
        "errorCode": 1001,
        "error": {"code": "MESSAGE_NOT_SENT", "message": "no", "retryable": True},
    }
    page.unroute("**/api/chat/message/stream")
    page.route("**/api/chat/message/stream", lambda route: route.fulfill(status=503, json=refusal))
    send(page, "Not now")
    expect(page.get_by_text("Not sent. The message could not be stored")).to_be_visible()
    # It outlives a reload, which tries it once more by itself.
    page.unroute("**/api/chat/message/stream")
    page.reload()
    wait_until_answered(page, 2)
    ids = {
        request["client_message_id"] for request in visitor.requests_to("/api/chat/message/stream")
    }
    assert len(ids) == 2
    assert player.messages(room_id).count("Not now") == 1

    page.route("**/api/chat/message/stream", lambda route: route.fulfill(status=503, json=refusal))
    send(page, "Never mind")
    page.get_by_role("button", name="Discard").click()
    expect(page.locator(".unsent")).to_have_count(0)


def test_a_message_that_does_not_wait_stops_the_reply(
    player: Player, provider: Provider, visit: Visit
) -> None:
    room_id = player.create_room("No time", "GPT4O")
    visitor = visit(player=player)
    page = visitor.open(f"/#room={room_id}")
    at_once = page.get_by_role("button", name="Stop the reply and send now")
    provider.will_say(words("goes on and on", hang=True), words("so does this", hang=True))
    send(page, "Tell me all")
    expect(page.locator(".theirs .prose")).to_have_text("goes on and on")
    expect(at_once).to_be_hidden()
    page.locator("#composer").fill("Never mind")
    at_once.click()
    expect(page.locator(".theirs .prose").nth(1)).to_have_text("so does this")
    expect(page.get_by_text("Ctrl+Enter stops it and sends now")).to_be_visible()
    page.locator("#composer").fill("The short of it")
    page.locator("#composer").press("Control+Enter")
    wait_until_answered(page, 3)
    expect(page.locator(".outcome")).to_have_text(["Stopped. What was said so far is kept."] * 2)
    # Where nothing is to be stopped it is an ordinary send.
    page.locator("#composer").fill("Thanks")
    page.locator("#composer").press("Control+Enter")
    wait_until_answered(page, 4)
    asked = ["Tell me all", "Never mind", "The short of it", "Thanks"]
    said = ["goes on and on", "so does this", "stub: The short of it", "stub: Thanks"]
    assert all_texts(page) == [text for pair in zip(asked, said, strict=True) for text in pair]
    sent = visitor.requests_to("/api/chat/message/stream")
    assert [body["on_busy"] for body in sent] == ["queue", "interrupt", "interrupt", "interrupt"]


def test_what_is_written_is_kept_until_it_is_sent(player: Player, visit: Visit) -> None:
    room_id = player.create_room("Draft")
    page = visit(player=player).open(f"/#room={room_id}")
    page.get_by_label("Message", exact=True).fill("half a thou")
    page.get_by_role("link", name="New chat").first.click()
    expect(page.get_by_label("Message", exact=True)).to_have_value("")
    page.reload()
    page.get_by_role("link", name="Draft").click()
    expect(page.get_by_label("Message", exact=True)).to_have_value("half a thou")


def test_older_messages_come_while_scrolling_and_the_place_is_kept(
    player: Player, visit: Visit
) -> None:
    room_id = player.create_room("Long")
    for number in range(60):
        player.post("/api/chat/message/send", room_id=room_id, content=f"question {number}")
    page = visit(player=player).open(f"/#room={room_id}")
    expect(page.locator(".message")).to_have_count(50)
    # It opens at its end.
    expect(page.locator(".message").last).to_be_in_viewport()
    box = page.locator("#messages")
    # Scrolled and measured in one step: older messages come at once.
    text, before = box.evaluate("""box => {
        box.scrollTop = 60;
        const oldest = box.querySelector(".message");
        return [oldest.innerText.split("\\n").at(1), oldest.getBoundingClientRect().y];
    }""")
    expect(page.locator(".message")).to_have_count(100)
    after = page.locator(".message", has_text=text).first.bounding_box()
    assert after is not None
    assert abs(before - after["y"]) < 2
    box.evaluate("box => { box.scrollTop = 0 }")
    expect(page.locator(".message")).to_have_count(120)
    expect(page.get_by_text("This is where the conversation began.")).to_be_attached()
    assert [text for text in all_texts(page) if text.startswith("question")] == [
        f"question {n}" for n in range(60)
    ]
    box.evaluate("box => { box.scrollTop = 0 }")
    # What others write does not pull the reader away; what is written here does.
    player.post("/api/chat/message/send", room_id=room_id, content="from elsewhere")
    wait_until_answered(page, 61)
    expect(page.get_by_text("question 0", exact=True)).to_be_in_viewport()
    send(page, "from here")
    wait_until_answered(page, 62)
    expect(page.locator(".message").last).to_be_in_viewport()


def test_another_browser_learns_of_what_happens(
    player: Player, provider: Provider, visit: Visit
) -> None:
    room_id = player.create_room("Two browsers", "GPT4O")
    here = visit(player=player).open(f"/#room={room_id}")
    there = visit(player=player).open(f"/#room={room_id}")
    for page in (here, there):
        expect(page.get_by_text("Nothing here yet.")).to_be_visible()
    provider.will_say(words("heard everywhere", hang=True))
    send(here, "Hello, other browser")
    # It sees the question and the reply as it grows, by its poll; here nothing was said of it.
    expect(there.locator(".theirs[data-streaming='true'] .prose")).to_have_text("heard everywhere")
    there.get_by_role("button", name="Stop the reply").click()
    expect(here.locator(".outcome")).to_contain_text("Stopped")
    here.get_by_role("button", name="Rename chat").click()
    here.get_by_label("Title of this chat").fill("A better title")
    here.keyboard.press("Enter")
    expect(there.get_by_role("heading", name="A better title")).to_be_visible()


def test_logging_out_ends_it_in_all_tabs(player: Player, visit: Visit) -> None:
    visitor = visit()
    first = visitor.open()
    first.get_by_role("button", name="Log in").first.click()
    first.get_by_label("Account name").fill(player.account_id)
    first.get_by_label("Password").fill(PASSWORD)
    first.keyboard.press("Enter")
    second = visitor.open()
    expect(second.get_by_label("Message", exact=True)).to_be_visible()
    second.get_by_role("button", name="Log out").click()
    for page in (first, second):
        expect(page.get_by_label("Password")).to_be_visible()


def test_a_session_that_ended_says_so_and_loses_nothing(player: Player, visit: Visit) -> None:
    room_id = player.create_room("Ended")
    visitor = visit()
    visitor.expected = ("401",)
    page = visitor.open(f"/#room={room_id}")
    page.evaluate("session => { localStorage['chat.session'] = session }", player.session)
    page.reload()
    expect(page.get_by_text("Nothing here yet.")).to_be_visible()
    player.post("/api/account/logout")
    send(page, "Written after the end")
    expect(page.get_by_text("Your session has ended.")).to_be_visible()
    page.get_by_label("Account name").fill(player.account_id)
    page.get_by_label("Password").fill(PASSWORD)
    page.locator("form button.primary").click()
    wait_until_answered(page, 1)
    assert all_texts(page)[0] == "Written after the end"


# The first stream breaks in the middle of an event, as when a phone leaves the network.
BREAK_FIRST_STREAM = """
    const send = fetch;
    let isBroken = false;
    window.fetch = async (...request) => {
        const answer = await send(...request);
        if (isBroken || !request[0].endsWith("/stream")) return answer;
        isBroken = true;
        const reader = answer.body.getReader();
        let rest = 2_000;
        const body = new ReadableStream({
            async pull(controller) {
                const { value } = await reader.read();
                controller.enqueue(value.slice(0, rest));
                rest -= value.length;
                if (rest > 0) return;
                await reader.cancel();
                controller.error(new Error("the network is gone"));
            },
        });
        return new Response(body, { headers: answer.headers });
    };
"""


def test_a_stream_that_breaks_is_taken_up_where_it_broke(
    player: Player, provider: Provider, visit: Visit
) -> None:
    room_id = player.create_room("Tunnel", "GPT4O")
    visitor = visit(player=player)
    visitor.context.add_init_script(BREAK_FIRST_STREAM)
    page = visitor.open(f"/#room={room_id}")
    long = " ".join(f"word{number}" for number in range(60))
    provider.will_say(words(long, 0.15))  # still under way when the page is back
    # The next connection waits: what is shown for a moment only, expect() may not see.
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/api/chat/message/resume", hold, times=1)
    send(page, "Tell me in a tunnel")
    expect(page.get_by_text("No connection to the server.")).to_be_visible()
    while not held:
        page.wait_for_timeout(50)
    held[0].continue_()
    expect(page.get_by_text("No connection to the server.")).to_be_hidden()
    wait_until_answered(page, 1)
    assert replies(page) == [long]
    (resumed,) = visitor.requests_to("/api/chat/message/resume")
    assert 0 < int(resumed["last_event_id"]) < len(long)


HIDE = """isHidden => {
    Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_tab_that_nobody_looks_at_holds_no_stream(
    player: Player, provider: Provider, visit: Visit
) -> None:
    """Browsers allow six connections to a server, for all tabs together."""
    room_id = player.create_room("Hidden", "GPT4O")
    visitor = visit(player=player)
    page = visitor.open(f"/#room={room_id}")
    provider.will_say(words("said so far", hang=True))
    send(page, "Long, please")
    expect(page.locator(".theirs .prose")).to_have_text("said so far")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/stream")):
        page.evaluate(HIDE, True)
    (message,) = player.post("/api/chat/messages", room_id=room_id, limit=1)["messages"]
    assert message["is_streaming"]
    with page.expect_request("**/api/chat/message/resume"):
        page.evaluate(HIDE, False)
    player.post("/api/chat/message/stop", room_id=room_id, message_id=message["message_id"])
    expect(page.locator(".outcome")).to_contain_text("Stopped")
    assert replies(page) == ["said so far"]


def test_a_clock_set_back_does_not_hide_what_comes(player: Player, visit: Visit) -> None:
    """cases/page.md G1. Which answer overtook which is no matter of the device's clock."""
    room_id = player.create_room("Clock")
    page = visit(player=player).open(f"/#room={room_id}")
    expect(page.get_by_text("Nothing here yet.")).to_be_visible()
    page.evaluate("() => { const now = Date.now; Date.now = () => now() - 3_600_000; }")
    player.post("/api/chat/message/send", room_id=room_id, content="Hello")
    page.evaluate("async () => (await import('/static/conversation.js')).refreshThread()")
    expect(page.locator(".message")).to_have_count(2)
