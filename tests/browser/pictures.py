"""Takes the pictures of the documents again: ``python -m tests.browser.pictures``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect

from tests.browser.browser_harness import (
    Player,
    Provider,
    Visitor,
    running_chromium,
    running_provider,
    words,
)
from tests.browser.conftest import provider_settings
from tests.server_process import ROOT, ServerProcess, running_server

IMAGES = ROOT / "docs/images"
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 760},
    "is_mobile": True,
    "has_touch": True,
    "locale": "ko-KR",
    "color_scheme": "dark",
}
ROOMS = {
    "en": ["Names for a small dragon", "Why is the sky blue?", "A week in Busan"],
    "ko": ["작은 용의 이름 짓기", "하늘은 왜 파랄까?", "부산에서 보내는 일주일"],
}
QUESTIONS = {
    "en": "What happens to my message when the server dies?",
    "ko": "서버가 죽으면 제 메시지는 어떻게 되나요?",
}
REPLIES = {
    "en": """It stays. What was acknowledged is in Redis together with the event that takes it to MySQL:

1. **At once**, one script writes the message and its event, or neither.
2. **Within seconds**, a batch takes it to its shard.
3. **After a kill**, the next process goes on where the last one stopped.

```python
await http.post("/api/chat/message/stream", json={
    "room_id": room,
    "content": text,
    "client_message_id": uuid7(),  # safe to repeat
})
```

And a reply that is being written""",
    "ko": """그대로 남아 있습니다. 보냈다는 응답을 받은 메시지는 MySQL로 옮길 이벤트와 함께 Redis에 있습니다.

1. **즉시**: 스크립트 하나가 메시지와 이벤트를 함께 씁니다.
2. **몇 초 안에**: 배치가 샤드에 저장합니다.
3. **서버가 죽은 뒤에도**: 다음 프로세스가 멈춘 곳에서 이어 갑니다.

```python
await http.post("/api/chat/message/stream",
    json={"room_id": room, "content": text})
```

쓰고 있던 답변도""",
}


def take(
    browser: Browser, server: ServerProcess, provider: Provider, name: str, language: str, look: Any
) -> None:
    """A conversation in the middle of a reply."""
    player = Player(server, {"en": "mina", "ko": "jiho"}[language])
    for title in reversed(ROOMS[language]):
        player.create_room(title)
    room_id = player.create_room(QUESTIONS[language], "GPT4O")
    visitor = Visitor(browser, server, player, reduced_motion="reduce", **look)
    page = visitor.open(f"/#room={room_id}")
    provider.will_say(words(REPLIES[language], hang=True))
    page.locator("#composer").fill(QUESTIONS[language])
    page.locator(".composer .primary").click()
    expect(page.locator(".hljs-string").first).to_be_visible()
    expect(page.locator(".prose")).to_contain_text(REPLIES[language][-8:])
    page.screenshot(path=IMAGES / f"{name}.png")
    visitor.context.close()


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_provider() as provider,
        running_server(Path(folder) / "data", **provider_settings(provider)) as server,
        running_chromium() as browser,
    ):
        take(browser, server, provider, "conversation", "en", DESK)
        take(browser, server, provider, "phone", "ko", PHONE)


if __name__ == "__main__":
    main()
