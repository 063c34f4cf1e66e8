"""Rules for a host's own commands on shared connections: how long they wait, what is refused."""

from __future__ import annotations

from base_server.service.redis_client.calls import Command, word_of
from base_server.service.redis_client.errors import CacheCommandError

_LAST_IN_SECONDS = frozenset({"BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BZPOPMIN", "BZPOPMAX"})
_FIRST_IN_SECONDS = frozenset({"BLMPOP", "BZMPOP"})
_LAST_IN_MS = frozenset({"WAIT", "WAITAOF"})
_BLOCK_IN_MS = frozenset({"XREAD", "XREADGROUP"})
_OF_A_CONNECTION = frozenset(
    {
        "AUTH",
        "HELLO",
        "MONITOR",
        "PSYNC",
        "QUIT",
        "READONLY",
        "READWRITE",
        "RESET",
        "SELECT",
        "SYNC",
    }
    | {"DISCARD", "EXEC", "MULTI", "UNWATCH", "WATCH"}
    | {"PSUBSCRIBE", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE"}
)


def refuse_changes(command: Command) -> None:
    """Raise CacheCommandError for a command that changes the connection for later calls."""
    name, first = word_of(command[0]), word_of(_argument(command, 1))
    if name in _OF_A_CONNECTION or (name == "CLIENT" and first in {"REPLY", "TRACKING"}):
        raise CacheCommandError(
            "CONNECTION",
            f"{name} is about a connection, and they are shared: use a pipeline for transactions, "
            "CacheService.subscribe for signals, a client of your own for the rest",
        )


def wait_s_of(command: Command) -> float:
    """Seconds that the server may wait before it answers ``command``; 0 if it answers at once.

    Raises :class:`CacheCommandError` for a wait without an end: it would never free its connection.
    """
    name = word_of(command[0])
    if name in _LAST_IN_SECONDS:
        wait_s = _number(command[-1])
    elif name in _FIRST_IN_SECONDS:
        wait_s = _number(_argument(command, 1))
    elif name in _LAST_IN_MS:
        wait_s = _number(command[-1]) / 1000
    elif name in _BLOCK_IN_MS:
        options = [word_of(word) for word in command]
        options = options[: options.index("STREAMS")] if "STREAMS" in options else options
        if "BLOCK" not in options:
            return 0.0
        wait_s = _number(_argument(command, options.index("BLOCK") + 1)) / 1000
    else:
        return 0.0
    if not 0 < wait_s < float("inf"):
        raise CacheCommandError("ARGUMENT", f"{name} would wait for ever: give it a time-out")
    return wait_s


def _argument(command: Command, index: int) -> object:
    return command[index] if index < len(command) else ""


def _number(word: object) -> float:
    try:
        return float(word)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0.0
