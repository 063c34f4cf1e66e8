"""Signals between processes: a short text on a channel, for whoever listens at that moment.

They are Redis' PUBLISH: at most once, kept nowhere, lost to a process that is away or just connecting again.
So a signal only makes something happen sooner that would be found out anyway. On a cluster every node
passes them on to every other, so it does not matter which one is listened to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from base_server.service.cache.keyspace import Keyspace
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.connection_pool import Pool

Handler = Callable[[str, str], None]
"""Gets the logical channel (``stop:<room_id>``) and the text. Called in the event loop: it must return at once."""

_QUIET_S = 5.0
"""After so long without a signal the connection is asked whether it lives; after twice as long it is given up."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 2.0
"""Between two attempts to connect: the first, doubled each time up to the longest."""


class Signals:
    """Listens on one connection of its own, opened by the first subscription and again whenever it is lost."""

    def __init__(
        self, make_pool: Callable[[], Pool], keyspace: Keyspace, tasks: TaskRegistry
    ) -> None:
        """``make_pool`` gives connections to any node; ``tasks`` ends the listening at the service's stop."""
        self._make_pool = make_pool
        self._keyspace = keyspace
        self._tasks = tasks
        self._handlers: dict[str, list[Handler]] = {}
        self._begun: dict[str, list[Callable[[], None]]] = {}
        self._heard: dict[str, asyncio.Event] = {}
        self._pubsub: PubSub | None = None
        self._pause_s = _PAUSE_S

    async def subscribe(
        self,
        pattern: str,
        handler: Handler,
        timeout_s: float,
        on_begun: Callable[[], None] | None = None,
    ) -> bool:
        """Call ``handler`` for every signal on a channel that matches ``pattern``, in any partition, and ``on_begun``
        whenever listening begins, also anew: signals before that may have been missed.

        Returns true once the server has the subscription; false after ``timeout_s`` without: then it is made
        as soon as the server answers.
        """
        if not self._handlers:
            self._tasks.spawn(self._keep_listening(), "cache signals")
        name = self._keyspace.pattern(pattern)
        self._handlers.setdefault(name, []).append(handler)
        if on_begun is not None:
            self._begun.setdefault(name, []).append(on_begun)
        heard = self._heard.setdefault(name, asyncio.Event())
        try:
            async with asyncio.timeout(timeout_s):
                if self._pubsub is not None:
                    await self._ask_for_the_missing(self._pubsub)
                await heard.wait()
        except (TimeoutError, RedisError, OSError):  # a lost connection: the listener fixes it
            return False
        return True

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._listen()
            except (
                Exception
            ) as error:  # whatever was said: who stops listening hears nothing ever after
                if self._pause_s == _PAUSE_S:  # the first failure since it last listened
                    Logger.warn(
                        "cache signals interrupted", reason=f"{type(error).__name__}: {error}"
                    )
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    async def _listen(self) -> None:
        pool = self._make_pool()
        pubsub = PubSub(pool)
        try:
            await self._ask_for_the_missing(pubsub)
            self._pubsub = pubsub
            asked = False
            while True:
                message = await pubsub.get_message(timeout=_QUIET_S)
                if message is None and asked:
                    raise RedisConnectionError("no sign of life")
                if message is None:
                    await pubsub.ping()
                elif message["type"] == "psubscribe":
                    self._pause_s = _PAUSE_S
                    self._heard[message["channel"]].set()
                    for begun in self._begun.get(message["channel"], ()):
                        begun()
                elif message["type"] == "pmessage":
                    self._deliver(message["pattern"], message["channel"], message["data"])
                asked = message is None
        finally:
            self._pubsub = None
            await pubsub.aclose()  # type: ignore[no-untyped-call]
            await pool.disconnect()

    async def _ask_for_the_missing(self, pubsub: PubSub) -> None:
        while missing := self._handlers.keys() - pubsub.patterns.keys():
            await pubsub.psubscribe(*missing)

    def _deliver(self, pattern: str, channel: str, text: str) -> None:
        logical = self._keyspace.logical(channel)
        for handler in self._handlers[pattern]:
            try:
                handler(logical, text)
            except Exception as error:  # the other handlers, and later signals, still count
                Logger.error("a handler of signals failed", channel=logical, error=repr(error))
