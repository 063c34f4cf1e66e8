"""What is asked of Redis: a caller's commands with the future of their answers, and what goes out together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from hiredis import pack_command
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.redis_client.redis_errors import CacheCommandError

Command = Sequence[Any]
Settle = Callable[["Call", list[Any] | ServiceUnavailable], None]

_MOST_COMMANDS = 256
_MOST_BYTES = 256 * 1024
"""A batch that has so much takes no more; what comes then is another batch, on another connection."""

REFUSED = (RedisError, UnicodeDecodeError)
"""What stands in place of an answer."""

OF_THE_CONNECTION = (BusyLoadingError, AuthenticationError, ReadOnlyError, MasterDownError)
"""Refusals after which only a new connection, greeted anew, can be right: after a failover behind one address the old
ones stay with the server that is a replica now."""


def word_of(value: object) -> str:
    """A word of a command in capitals; redis-py gives some as bytes."""
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).upper()


class Effect(Enum):
    """What it means that a call was sent and its answer was lost."""

    READ = "changes nothing: repeated once, never an unknown outcome"
    REPEATABLE = "carries its own ids, a repeat answers as the first did: repeated once"
    ONCE = "must not be repeated: the outcome is unknown"


class Lost(ServiceUnavailable):
    """Sent, and then the connection broke before the answer was there."""


class Unanswered(ServiceUnavailable):
    """Sent, and no answer in time, or before the service stopped."""


class Call:
    """The commands of one caller, next to each other on the wire, and the future of their answers.

    ``settle(call, outcome)`` is told the outcome each time that it was sent: the answers; :class:`Lost` or
    :class:`Unanswered` when it went out; a plain :class:`ServiceUnavailable` when not. In place of the answer of
    a command that Redis refused stands redis-py's error; in place of bytes that are no text a
    ``UnicodeDecodeError``. ``wait_s``: how long the server itself may wait (BLOCK).
    Raises :class:`CacheCommandError` for arguments that cannot be sent.
    """

    __slots__ = (
        "answers",
        "begun_s",
        "commands",
        "effect",
        "packed",
        "repeated",
        "settle",
        "wait_s",
    )

    def __init__(
        self, commands: Sequence[Command], effect: Effect, settle: Settle, wait_s: float = 0.0
    ) -> None:
        self.commands = commands
        self.effect = effect
        self.settle = settle
        self.wait_s = wait_s
        self.repeated = False
        try:
            self.packed = b"".join([pack_command(tuple(command)) for command in commands])
        except (TypeError, UnicodeEncodeError) as error:
            raise CacheCommandError("ARGUMENT", str(error)) from error
        self.begun_s = time.monotonic()
        self.answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    @property
    def atomic(self) -> bool:
        """Its commands are executed together or not at all."""
        return bool(self.commands[0][0] == "MULTI")

    def finish(self, outcome: list[Any] | Exception) -> None:
        """Tell the caller, if it is still there."""
        if self.answers.done():
            return
        if isinstance(outcome, Exception):
            self.answers.set_exception(outcome)
        else:
            self.answers.set_result(outcome)


class Batch:
    """Calls that go out together, those not yet answered. ``sound``: the connection may be used again after them."""

    __slots__ = ("_heard", "calls", "commands", "size", "sound")

    def __init__(self) -> None:
        self.calls: deque[Call] = deque()
        self.commands = 0
        self.size = 0
        self.sound = True
        self._heard: list[Any] = []

    def takes(self, call: Call) -> bool:
        return (
            self.commands + len(call.commands) <= _MOST_COMMANDS
            and self.size + len(call.packed) <= _MOST_BYTES
        )

    def add(self, call: Call) -> None:
        self.calls.append(call)
        self.commands += len(call.commands)
        self.size += len(call.packed)

    def hear(self, answer: Any) -> None:
        """The next answer on the connection. Raises redis-py's ConnectionError if that is what it says."""
        if isinstance(answer, RedisError):
            if isinstance(answer, OF_THE_CONNECTION):
                self.sound = False
            elif isinstance(answer, RedisConnectionError):
                raise answer
        heard = self._heard
        heard.append(answer)
        if len(heard) == len(self.calls[0].commands):
            self._heard = []
            call = self.calls.popleft()
            call.settle(call, heard)
