"""The chat's Lua scripts, and the one translator of their answers into typed errors."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from base_server.service.redis_client.script import load_scripts

SCRIPTS = load_scripts(Path(__file__).parent / "lua")


class Answer(IntEnum):
    """First element of a script's answer; the same names stand in lua/_prelude.lua."""

    OK = 0
    COLD = 1
    NOT_FOUND = 2
    BUSY = 3
    MISMATCH = 4
    UNSURE = 5
    FULL = 6
    LOST = 7
    WAIT = 8
    REFUSED = 9
    PARTIAL = 10
    REPEAT = 11
    DAMAGED = 12
