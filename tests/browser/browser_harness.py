"""A server, an AI provider and Chromium, and visitors who notice when the page errs or fetches from
elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    expect,
    sync_playwright,
)

from tests.backends_redis import missing_backend
from tests.server_process import ROOT, ServerProcess
from tests.waiting import PATIENCE_S

# Root needs --no-sandbox; the rest keeps Chromium from talking to its maker.
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
PASSWORD = "correct horse"


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Debian's Chromium. While it runs, no asyncio loop can run in this thread (playwright's own
    does)."""
    executable = shutil.which("chromium")
    if executable is None:
        missing_backend("chromium is not on PATH")
    expect.set_options(timeout=1000 * PATIENCE_S)
    with sync_playwright() as playwright:
        browser = _launch(playwright, str(executable))
        try:
            yield browser
        finally:
            browser.close()


def _launch(playwright: Playwright, executable: str) -> Browser:
    return playwright.chromium.launch(executable_path=executable, headless=True, args=_FLAGS)


class Provider:
    """The stub provider (tests/openai_stub.py) as a process: it echoes, unless it was told what to
    say."""

    def __init__(self, process: subprocess.Popen[str], base_url: str) -> None:
        self._process = process
        self.base_url = base_url

    def will_say(self, *replies: dict[str, Any]) -> None:
        """Fields of the stub's ``Reply``, one reply a question."""
        post(self.base_url.removesuffix("/v1") + "/_script", replies)

    @property
    def questions(self) -> list[str]:
        """What it was asked, oldest first."""
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + "/_calls") as answer:
            calls = json.load(answer)["calls"]
        return [str(call["body"]["messages"][-1]["content"]) for call in calls]


@contextmanager
def running_provider() -> Iterator[Provider]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.openai_stub"],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Provider(process, process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def words(text: str, delay_s: float = 0.0, *, hang: bool = False) -> dict[str, Any]:
    """A reply of the provider that says ``text`` word by word; ``hang``: and then nothing, until it
    is stopped."""
    first, *rest = text.split(" ")
    return {"tokens": [first, *(f" {word}" for word in rest)], "delay_s": delay_s, "hang": hang}


def post(url: str, body: Any) -> dict[str, Any]:
    """The JSON of the answer; raises ``HTTPError`` for a failure."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        found = json.load(answer)
    assert isinstance(found, dict)
    return found


class Player:
    """An account, and what its owner does without a browser."""

    def __init__(self, server: ServerProcess, account_id: str | None = None) -> None:
        self._server = server
        self.account_id = account_id or f"player-{uuid.uuid4().hex[:12]}"
        self.post("/api/account/signup", account_id=self.account_id, password=PASSWORD)
        login = self.post("/api/account/login", account_id=self.account_id, password=PASSWORD)
        self.token = str(login["accessToken"])

    def post(self, path: str, **fields: Any) -> dict[str, Any]:
        if hasattr(self, "token"):
            fields["accessToken"] = self.token
        return post(self._server.base_url + path, fields)

    def create_room(self, title: str, persona: str = "DEMO") -> str:
        room = self.post("/api/chat/room/create", ai_persona=persona, title=title)["room"]
        return str(room["room_id"])

    def messages(self, room_id: str) -> list[str]:
        """The newest 100, oldest first."""
        listed = self.post("/api/chat/messages", room_id=room_id, limit=100)
        return [str(message["content"]) for message in listed["messages"]]

    @property
    def session(self) -> str:
        """What the page keeps of a login."""
        return json.dumps(
            {"token": self.token, "accountId": self.account_id, "name": self.account_id}
        )


class Visitor:
    """A browser profile. :meth:`check` fails if any of its pages erred, or asked another server for
    anything."""

    def __init__(
        self, browser: Browser, server: ServerProcess, player: Player | None = None, **options: Any
    ) -> None:
        self._server = server
        kept = [{"name": "chat.session", "value": player.session}] if player else []
        defaults = {
            "locale": "en-US",
            "base_url": server.base_url,
            "storage_state": {
                "cookies": [],
                "origins": [{"origin": server.base_url, "localStorage": kept}],
            },
        }
        self.context: BrowserContext = browser.new_context(**defaults | options)
        self.context.set_default_timeout(1000 * PATIENCE_S)
        self.errors: list[str] = []
        self.expected: tuple[str, ...] = ()
        """Parts of console errors that the test provokes, such as the status of a refused
        request."""
        self.requests: list[Request] = []
        self.context.on("console", self._on_console)
        self.context.on("weberror", lambda error: self.errors.append(f"uncaught: {error.error}"))
        self.context.on("request", self._on_request)

    def open(self, address: str = "/") -> Page:
        page = self.context.new_page()
        page.goto(address)
        page.wait_for_selector("main")
        return page

    def requests_to(self, path: str) -> list[dict[str, Any]]:
        """The bodies of what was posted to ``path``."""
        return [
            request.post_data_json
            for request in self.requests
            if request.url == self._server.base_url + path
        ]

    def check(self) -> None:
        foreign = [
            request.url
            for request in self.requests
            if not request.url.startswith(self._server.base_url)
        ]
        assert not foreign, foreign
        assert not self.errors, self.errors

    def _on_request(self, request: Request) -> None:
        self.requests.append(request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(
            part in message.text for part in self.expected
        ):
            self.errors.append(f"{message.type}: {message.text}")


def send(page: Page, text: str) -> None:
    """Write and press Enter, as a person does."""
    composer = page.locator("#composer")
    composer.fill(text)
    composer.press("Enter")


def all_texts(page: Page) -> list[str]:
    """What the open chat shows, oldest first: bubbles as they are, replies as their text."""
    return [text.strip() for text in page.locator(".bubble, .prose").all_inner_texts()]
