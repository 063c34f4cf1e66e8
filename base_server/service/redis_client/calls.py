"""A caller's commands with the future of their replies, and the batch that they are sent in."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable
from base_server.service.redis_client.errors import CONNECTION_IS_USELESS, CacheCommandError

Command = Sequence[Any]
OnOutcome = Callable[["RedisCall", list[Any] | ServiceUnavailable], None]

_MOST_COMMANDS = 256
_MOST_BYTES = 256 * 1024
"""A batch of this size takes no more calls; the next ones go out on another connection."""


def word_of(value: object) -> str:
    """A word of a command in capitals; redis-py passes some as bytes."""
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).upper()


class Effect(Enum):
    """Whether a call may be sent again when its connection was lost with the call in flight."""

    READ = "changes nothing: repeated once, never an unknown outcome"
    REPEATABLE = "carries its own ids, a repeat has no second effect: repeated once"
    ONCE = "must not be repeated: the outcome is unknown"


class ResponseTimeout(OutcomeUnknown):
    """The call was sent, and no reply came in time, or before the service stopped."""


class RedisCall:
    """The commands of one caller, sent next to each other, and the future of their replies.

    ``on_outcome(call, outcome)`` is called once for each time that the call was sent, or could not
    be. The outcome is the list of replies; ConnectionLostInFlight or :class:`ResponseTimeout` when
    the call went out; a plain :class:`ServiceUnavailable` when it did not. In place of the reply
    of a command that Redis refused stands redis-py's exception; in place of bytes that are not
    UTF-8 a ``UnicodeDecodeError``. ``wait_s``: how long the server itself may wait (BLOCK).
    Raises :class:`CacheCommandError` for arguments that cannot be sent.
    """

    __slots__ = (
        "commands",
        "effect",
        "on_outcome",
        "packed",
        "repeated",
        "replies",
        "started_s",
        "wait_s",
    )

    def __init__(
        self,
        commands: Sequence[Command],
        effect: Effect,
        on_outcome: OnOutcome,
        wait_s: float = 0.0,
    ) -> None:
        self.commands = commands
        self.effect = effect
        self.on_outcome = on_outcome
        self.wait_s = wait_s
        self.repeated = False
        try:
            self.packed = b"".join([pack_command(tuple(command)) for command in commands])
        except (TypeError, UnicodeEncodeError) as error:
            raise CacheCommandError("ARGUMENT", str(error)) from error
        self.started_s = time.monotonic()
        self.replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    @property
    def atomic(self) -> bool:
        """Its commands are executed together or not at all."""
        return bool(self.commands[0][0] == "MULTI")

    def complete(self, outcome: list[Any] | Exception) -> None:
        """Give the caller its outcome, unless it was cancelled meanwhile."""
        if self.replies.done():
            return
        if isinstance(outcome, Exception):
            self.replies.set_exception(outcome)
        else:
            self.replies.set_result(outcome)


class Batch:
    """Calls that are sent in one write; a call leaves it with its last reply.

    ``reusable``: the connection may be used again after this batch.
    """

    __slots__ = ("_replies", "calls", "commands", "reusable", "size")

    def __init__(self) -> None:
        self.calls: deque[RedisCall] = deque()
        self.commands = 0
        self.size = 0
        self.reusable = True
        self._replies: list[Any] = []

    def has_room_for(self, call: RedisCall) -> bool:
        return (
            self.commands + len(call.commands) <= _MOST_COMMANDS
            and self.size + len(call.packed) <= _MOST_BYTES
        )

    def add(self, call: RedisCall) -> None:
        self.calls.append(call)
        self.commands += len(call.commands)
        self.size += len(call.packed)

    def on_reply(self, reply: Any) -> None:
        """The next reply on the connection. Raises a reply that says the connection is over."""
        if isinstance(reply, RedisError):
            if isinstance(reply, CONNECTION_IS_USELESS):
                self.reusable = False
            elif isinstance(reply, RedisConnectionError):
                raise reply
        replies = self._replies
        replies.append(reply)
        # Redis replies in the order of the commands, so the first call is the one being answered.
        if len(replies) == len(self.calls[0].commands):
            self._replies = []
            call = self.calls.popleft()
            call.on_outcome(call, replies)
