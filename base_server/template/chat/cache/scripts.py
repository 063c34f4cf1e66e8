"""The chat's Lua scripts, their status codes, and how a class of calls is bound to one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from base_server.service.redis_client.script import load_scripts
from base_server.service.redis_client.script_call import CallClass, bind_call

SCRIPTS = load_scripts(Path(__file__).parent / "lua")
# Where the names of a header are found in what a call is made for.
_PATHS = {
    "room_record": "room.record",
    "messages": "room.messages",
    "room_json": "room.json",
    "room_state": "room.state",
    "room_load": "room.load_token",
    "waiters": "room.waiting",
    "account_record": "account.record",
    "rooms": "account.rooms",
    "order": "account.order",
    "account_load": "account.load_token",
    "open_replies": "account.open_replies",
    "generation": "partition.generation",
    "server_run": "partition.generation_run",
    "leases": "partition.leases",
    "signals": "partition.signals",
    "account_db_key": "caller.db_key",
    "slot_token": "slot.token",
}


class ScriptStatus(IntEnum):
    """First element of a script's answer; the same names stand in lua/_statuses.lua."""

    OK = 0
    NOT_LOADED = 1
    NOT_FOUND = 2
    BUSY = 3
    MISMATCH = 4
    NEEDS_DATABASE = 5
    FULL = 6
    SUPERSEDED = 7
    WAIT = 8
    REFUSED = 9
    PARTIAL = 10
    DUPLICATE = 11
    DAMAGED = 12


@dataclass(frozen=True, slots=True)
class NeedsDatabase:
    """Redis cannot tell. ``asked_at``: as of when MySQL is asked; it goes into the next call."""

    asked_at: Any = None


@dataclass(frozen=True, slots=True)
class Damaged:
    """Somebody else wrote to what the script reads."""


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """The record is not in Redis, or not whole."""


@dataclass(frozen=True, slots=True)
class NotFound:
    """The room is another account's, or deleted."""


@dataclass(frozen=True, slots=True)
class DeletedBefore:
    """Nothing is left to do."""


@dataclass(frozen=True, slots=True)
class StateRefused:
    """It is in another state than the caller allowed."""

    state: str


def script_call(name: str) -> Callable[[CallClass], CallClass]:
    """Bind a class of calls to the script of this name; see :class:`ScriptCall` for its fields.

    ``room``, ``account``, ``partition`` (their keys) and ``caller`` stand for many names."""
    return bind_call(SCRIPTS[name], _PATHS)
