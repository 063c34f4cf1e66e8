"""Cuts what a client sends to Redis or MySQL into commands, and names them as a person would.

``accept_send`` for the EVAL or EVALSHA of that script, ``fp_chat_message_batch_save`` for ``CALL``
of that procedure.
"""

from __future__ import annotations

import hashlib
import re
from asyncio import IncompleteReadError, StreamReader
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from base_server.service.redis_client.precondition import with_precondition
from base_server.service.redis_client.script import load_scripts

_SOURCES = Path(__file__).parents[2] / "base_server"
_SCRIPT_NAMES = {
    variant.sha1: script.name
    for folder in sorted(_SOURCES.rglob("lua"))
    for script in load_scripts(folder).values()
    for variant in (script, with_precondition(script))
}
_CALL = re.compile(rb"CALL `?(\w+)")
_QUERY = 3


@dataclass(frozen=True)
class Command:
    """``name`` is '' for what is no command (MySQL's login); ``raw`` goes to the server as it
    is."""

    name: str
    raw: bytes = field(repr=False)


Splitter = Callable[[StreamReader], AsyncIterator[Command]]


async def redis_commands(reader: StreamReader) -> AsyncIterator[Command]:
    """The commands of a RESP client, until it closes."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n")
            raw, words = [head], []
            for _ in range(int(head[1:])):
                size = await reader.readuntil(b"\r\n")
                word = await reader.readexactly(int(size[1:]) + 2)
                raw += [size, word]
                words.append(word[:-2])
            yield Command(_redis_name(words), b"".join(raw))
    except (IncompleteReadError, ConnectionError):
        return


async def mysql_commands(reader: StreamReader) -> AsyncIterator[Command]:
    """The packets of a MySQL client, until it closes; a command is one that begins a
    conversation."""
    try:
        while True:
            head = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(head[:3], "little"))
            yield Command(_mysql_name(body) if head[3] == 0 else "", head + body)
    except (IncompleteReadError, ConnectionError):
        return


def _redis_name(words: list[bytes]) -> str:
    name = words[0].decode().upper()
    if name == "EVALSHA":
        return _SCRIPT_NAMES.get(words[1].decode(), name)
    if name == "EVAL":
        return _SCRIPT_NAMES.get(hashlib.sha1(words[1], usedforsecurity=False).hexdigest(), name)
    return name


def _mysql_name(body: bytes) -> str:
    if body[0] != _QUERY:
        return f"COM_{body[0]}"
    if (call := _CALL.match(body, 1)) is not None:
        return call[1].decode()
    return body[1:30].decode(errors="replace")
