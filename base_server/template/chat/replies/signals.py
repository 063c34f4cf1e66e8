"""What the scripts tell every process about replies, by signals (``base_server.service.redis_client.subscriber``).

A signal is a hint without content: its subscriber reads from Redis what it lacks, and one that missed a signal reads
again a little later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol

from base_server.template.chat.cache.keys import SIGNALS

Subscribe = Callable[[str, Callable[[str, str], None], Callable[[], None]], Awaitable[bool]]


class ReplySignal(StrEnum):
    """What happened to a reply; the same words stand in the scripts."""

    TEXT = "text"
    ENDED = "ended"
    READY = "ready"
    WATCHED = "watched"


class Listener(Protocol):
    """Called on the loop, must not block; ``news`` None: something may have been missed, look for yourself."""

    def __call__(self, news: ReplySignal | None) -> None: ...


class ReplySignals:
    """Who wants to hear of which reply in this process."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    async def start(self, subscribe: Subscribe) -> None:
        """Hear what the scripts tell from now on, or from when Redis is back."""
        await subscribe(SIGNALS, self._heard, self._missed)

    def heard_by(self, reply_id: str, listener: Listener) -> AbstractContextManager[None]:
        """``listener`` hears of this reply within the block."""
        return _Hearing(self._listeners, reply_id, listener)

    def tell_here(self, reply_id: str, news: ReplySignal) -> None:
        """Tell this process alone, at once."""
        for listener in tuple(self._listeners.get(reply_id, ())):
            listener(news)

    def _heard(self, _: str, text: str) -> None:
        kind, _, reply_id = text.partition(" ")
        if reply_id in self._listeners:
            self.tell_here(reply_id, ReplySignal(kind))

    def _missed(self) -> None:
        for listeners in tuple(self._listeners.values()):
            for listener in tuple(listeners):
                listener(None)


class _Hearing:
    """A block that hears of a reply."""

    __slots__ = ("_listener", "_listeners", "_reply_id")

    def __init__(
        self, listeners: dict[str, list[Listener]], reply_id: str, listener: Listener
    ) -> None:
        self._listeners = listeners
        self._reply_id = reply_id
        self._listener = listener

    def __enter__(self) -> None:
        self._listeners.setdefault(self._reply_id, []).append(self._listener)

    def __exit__(self, *exc_info: object) -> None:
        others = self._listeners[self._reply_id]
        others.remove(self._listener)
        if not others:
            del self._listeners[self._reply_id]
