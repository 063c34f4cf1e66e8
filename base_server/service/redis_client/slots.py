"""Which slot of a Redis Cluster a command belongs to."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from redis.crc import key_slot

from base_server.service.redis_client.calls import Command, word_of
from base_server.service.redis_client.errors import CacheCommandError

# fmt: off
_KEYLESS = (
    "ACL", "ASKING", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DISCARD", "ECHO", "EXEC", "INFO",
    "MULTI", "PING", "SCRIPT", "TIME",
)
_OF_ONE_NODE = (
    "DBSIZE", "FLUSHALL", "FLUSHDB", "KEYS", "RANDOMKEY", "SCAN", "UNWATCH", "WAIT", "WATCH",
)
_AFTER_A_COUNT = ("EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO")
_AFTER_A_SUBCOMMAND = ("BITOP", "MEMORY", "OBJECT", "XGROUP", "XINFO")
_AFTER_STREAMS = ("XREAD", "XREADGROUP")
# fmt: on


def slot_of(command: Command) -> int | None:
    """The slot of the command's first key; ``None`` for a command without keys: any node will do.

    All keys of a command are of one partition, so the first one decides; Redis refuses a command
    with keys of several slots. Raises :class:`CacheCommandError` for a command that concerns each
    node by itself.
    """
    special = _SPECIAL.get(str(command[0]).upper())
    if special is not None:
        return special(command)
    return _slot(command[1]) if len(command) > 1 else None


def _after_a_count(command: Command) -> int | None:
    return _slot(command[3]) if int(command[2]) else None


def _after_streams(command: Command) -> int | None:
    words = [word_of(word) for word in command[:-1]]
    # Without STREAMS it is wrong anyway, and any node may refuse it.
    return _slot(command[words.index("STREAMS") + 1]) if "STREAMS" in words else None


def _refused(command: Command) -> int | None:
    raise CacheCommandError(
        "CLUSTER", f"{command[0]} concerns each node by itself: see CacheClient.scan"
    )


_SPECIAL: dict[str, Callable[[Command], int | None]] = {
    **dict.fromkeys(_KEYLESS, lambda command: None),
    **dict.fromkeys(_OF_ONE_NODE, _refused),
    **dict.fromkeys(_AFTER_A_COUNT, _after_a_count),
    **dict.fromkeys(_AFTER_A_SUBCOMMAND, lambda command: _slot(command[2])),
    **dict.fromkeys(_AFTER_STREAMS, _after_streams),
}
"""Commands whose first key does not follow the name."""


def _slot(key: Any) -> int:
    text = key if isinstance(key, str) else bytes(key).decode(errors="surrogateescape")
    opening = text.find("{")
    closing = text.find("}", opening + 1)
    if 0 <= opening < closing - 1:
        return tag_slot(text[opening + 1 : closing])
    return int(key_slot(text.encode(errors="surrogateescape")))


@lru_cache(maxsize=8192)
def tag_slot(tag: str) -> int:
    """The slot of all keys with this hash tag."""
    return int(key_slot(tag.encode(errors="surrogateescape")))
