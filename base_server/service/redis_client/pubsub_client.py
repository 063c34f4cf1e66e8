"""Pub/sub: a short text on a channel, for the processes that listen at that moment.

PUBLISH delivers at most once and keeps nothing: a message is lost to a process that is away or
about to reconnect. So it may only make something happen sooner that would be found out anyway. On a
cluster every node passes messages on to all others, so any node will do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.connection import RedisConnection

Handler = Callable[[str, str], None]
"""Gets the channel and the text. Called in the event loop: it must return at once."""

_QUIET_S = 5.0
"""After so long without a message the connection gets a PING; after twice as long it is closed."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 2.0
"""Between two attempts to connect: the first, doubled each time up to the longest."""


class PubSubClient:
    """Listens on one connection of its own, opened by the first subscription and whenever lost."""

    def __init__(
        self, connect: Callable[[], Awaitable[RedisConnection]], tasks: TaskRegistry
    ) -> None:
        """``connect`` gives a connection to any node; a stop cancels ``tasks``."""
        self._connect = connect
        self._tasks = tasks
        self._handlers: dict[str, list[Handler]] = {}
        self._on_begin: dict[str, list[Callable[[], None]]] = {}
        self._active: dict[str, asyncio.Event] = {}
        self._connection: RedisConnection | None = None
        self._pause_s = _PAUSE_S

    async def subscribe(
        self,
        pattern: str,
        handler: Handler,
        timeout_s: float,
        on_begin: Callable[[], None] | None = None,
    ) -> bool:
        """Call ``handler`` for every message on a channel that matches the glob ``pattern``, and
        ``on_begin`` whenever listening begins (again): earlier messages may have been missed.

        Returns true once the server has the subscription; false after ``timeout_s`` without it:
        then it is made as soon as the server answers.
        """
        if not self._handlers:
            self._tasks.spawn(self._keep_listening(), "cache signals")
        is_new = pattern not in self._handlers
        self._handlers.setdefault(pattern, []).append(handler)
        if on_begin is not None:
            self._on_begin.setdefault(pattern, []).append(on_begin)
        active = self._active.setdefault(pattern, asyncio.Event())
        # Without a connection the next one subscribes to all patterns.
        if is_new and self._connection is not None:
            self._connection.write("PSUBSCRIBE", pattern)
        try:
            async with asyncio.timeout(timeout_s):
                await active.wait()
        except TimeoutError:
            return False
        return True

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # any: a listener that ends would miss everything after
                if self._pause_s == _PAUSE_S:  # the first failure since it last listened
                    Logger.warn(
                        "cache signals interrupted", reason=f"{type(error).__name__}: {error}"
                    )
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    async def _listen(self) -> None:
        connection = await self._connect()
        messages: asyncio.Queue[Any] = asyncio.Queue()
        try:
            connection.listen(messages.put_nowait)
            # From here on `subscribe` sends new patterns itself: none is sent twice or missed.
            self._connection = connection
            connection.write("PSUBSCRIBE", *self._handlers)
            was_pinged = False
            while True:
                try:
                    async with asyncio.timeout(_QUIET_S):
                        message = await messages.get()
                except TimeoutError:
                    if was_pinged:
                        raise RedisConnectionError("no sign of life") from None
                    connection.write("PING")
                    was_pinged = True
                else:
                    was_pinged = False
                    self._on_message(message)
        finally:
            self._connection = None
            connection.close()

    def _on_message(self, message: Any) -> None:
        """RESP2: ["psubscribe", pattern, n], ["pmessage", pattern, channel, text], ["pong", ""]."""
        if isinstance(message, RedisError | UnicodeDecodeError):
            raise message
        kind, pattern, *rest = message
        if kind == "psubscribe":
            self._pause_s = _PAUSE_S
            self._active[pattern].set()
            for on_begin in self._on_begin.get(pattern, ()):
                on_begin()
        elif kind == "pmessage":
            self._deliver(pattern, *rest)

    def _deliver(self, pattern: str, channel: str, text: str) -> None:
        for handler in self._handlers[pattern]:
            try:
                handler(channel, text)
            except Exception as error:  # the other handlers, and later messages, still count
                Logger.error("a handler of signals failed", channel=channel, error=repr(error))
