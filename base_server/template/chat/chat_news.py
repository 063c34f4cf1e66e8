"""What the scripts tell every process about replies, by signals (``service.cache.signals``).

News are hints without content: whoever hears one looks into Redis from where it stands, and whoever misses one looks
again by itself a little later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Protocol

from template.chat.chat_keys import NEWS

Subscribe = Callable[[str, Callable[[str, str], None], Callable[[], None]], Awaitable[bool]]


class News(StrEnum):
    """What happened to a reply; the same words stand in the scripts."""

    TEXT = "text"
    ENDED = "ended"
    READY = "ready"
    WATCHED = "watched"


class Listener(Protocol):
    """Called on the loop, must not block; ``news`` None: something may have been missed, look for yourself."""

    def __call__(self, news: News | None) -> None: ...


class ReplyNews:
    """Who wants to hear of which reply in this process."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    async def start(self, subscribe: Subscribe) -> None:
        """Hear what the scripts tell from now on, or from when Redis is back."""
        await subscribe(NEWS, self._heard, self._missed)

    @contextmanager
    def heard_by(self, reply_id: str, listener: Listener) -> Iterator[None]:
        """``listener`` hears of this reply."""
        self._listeners.setdefault(reply_id, []).append(listener)
        try:
            yield
        finally:
            listeners = self._listeners[reply_id]
            listeners.remove(listener)
            if not listeners:
                del self._listeners[reply_id]

    def tell_here(self, reply_id: str, news: News) -> None:
        """Tell this process alone, at once."""
        for listener in tuple(self._listeners.get(reply_id, ())):
            listener(news)

    def _heard(self, _: str, text: str) -> None:
        kind, _, reply_id = text.partition(" ")
        if reply_id in self._listeners:
            self.tell_here(reply_id, News(kind))

    def _missed(self) -> None:
        for listeners in tuple(self._listeners.values()):
            for listener in tuple(listeners):
                listener(None)
