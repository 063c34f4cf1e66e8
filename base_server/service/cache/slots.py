"""Which slot of a Redis Cluster a command belongs to."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from redis.crc import key_slot

from service.cache.cache_errors import CacheCommandError
from service.cache.pipeline import Command

# fmt: off
_KEYLESS = frozenset([
    "ACL", "ASKING", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DISCARD", "ECHO", "EXEC", "INFO", "MULTI", "PING",
    "SCRIPT", "TIME",
])
_OF_ONE_NODE = frozenset(["DBSIZE", "FLUSHALL", "FLUSHDB", "KEYS", "RANDOMKEY", "SCAN", "UNWATCH", "WAIT", "WATCH"])
_AFTER_A_COUNT = frozenset(["EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO"])
_AFTER_A_SUBCOMMAND = frozenset(["BITOP", "MEMORY", "OBJECT", "XGROUP", "XINFO"])
_AFTER_STREAMS = frozenset(["XREAD", "XREADGROUP"])
# fmt: on


def slot_of(command: Command) -> int | None:
    """The slot of the command's first key; ``None`` for one without keys, which any node may answer.

    All keys of a command are of one partition (:mod:`service.cache.partition`), so the first one decides; Redis
    refuses a command whose keys are not. Raises :class:`CacheCommandError` for what each node has to be asked.
    """
    name = str(command[0]).upper()
    if name in _OF_ONE_NODE:
        raise CacheCommandError("CLUSTER", f"{name} concerns each node by itself: see CacheClient.scan")
    if name in _KEYLESS or len(command) == 1:
        return None
    if name in _AFTER_A_COUNT:
        return _slot(command[3]) if int(command[2]) else None
    if name in _AFTER_A_SUBCOMMAND:
        return _slot(command[2])
    if name in _AFTER_STREAMS:
        words = [str(word).upper() for word in command]
        return _slot(command[words.index("STREAMS") + 1])
    return _slot(command[1])


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
