"""Signals about replies, which the scripts publish to every process
(``base_server.service.redis_client.pubsub_client``).

A signal is a hint without content: its subscriber reads from Redis what it lacks, and one that
missed a signal reads again a little later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol

from base_server.template.chat.cache.keys import SIGNALS

Subscribe = Callable[[str, Callable[[str, str], None], Callable[[], None]], Awaitable[bool]]


class ReplySignal(StrEnum):
    """What happened to a reply; the scripts publish the same words."""

    TEXT = "text"
    ENDED = "ended"
    READY = "ready"
    WATCHED = "watched"


class SignalSubscriber(Protocol):
    """Called on the loop, must not block; ``signal`` None: signals may have been missed, read
    again."""

    def __call__(self, signal: ReplySignal | None) -> None: ...


class ReplySignals:
    """The subscribers of this process, by reply."""

    def __init__(self) -> None:
        self._subscribers: dict[str, list[SignalSubscriber]] = {}

    async def start(self, subscribe: Subscribe) -> None:
        """Receive what the scripts publish from now on, or from when Redis is back."""
        await subscribe(SIGNALS, self._on_message, self._on_gap)

    def subscribe(
        self, reply_id: str, subscriber: SignalSubscriber
    ) -> AbstractContextManager[None]:
        """``subscriber`` gets the signals of this reply within the block."""
        return _Subscription(self._subscribers, reply_id, subscriber)

    def notify_local(self, reply_id: str, signal: ReplySignal) -> None:
        """Notify the subscribers of this process alone, at once."""
        for subscriber in tuple(self._subscribers.get(reply_id, ())):
            subscriber(signal)

    def _on_message(self, _: str, text: str) -> None:
        kind, _, reply_id = text.partition(" ")
        if reply_id in self._subscribers:
            self.notify_local(reply_id, ReplySignal(kind))

    def _on_gap(self) -> None:
        """The connection was lost for a while."""
        for subscribers in tuple(self._subscribers.values()):
            for subscriber in tuple(subscribers):
                subscriber(None)


class _Subscription:
    """A class, not a generator: thousands of readers hold one each."""

    __slots__ = ("_reply_id", "_subscriber", "_subscribers")

    def __init__(
        self,
        subscribers: dict[str, list[SignalSubscriber]],
        reply_id: str,
        subscriber: SignalSubscriber,
    ) -> None:
        self._subscribers = subscribers
        self._reply_id = reply_id
        self._subscriber = subscriber

    def __enter__(self) -> None:
        self._subscribers.setdefault(self._reply_id, []).append(self._subscriber)

    def __exit__(self, *exc_info: object) -> None:
        others = self._subscribers[self._reply_id]
        others.remove(self._subscriber)
        if not others:
            del self._subscribers[self._reply_id]
