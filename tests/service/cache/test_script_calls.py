"""Calls of scripts as objects: the fields of a class against the header of its script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from base_server.service.redis_client.script import Script, ScriptError, load_scripts
from base_server.service.redis_client.script_call import ScriptCall, bind_call

ADD = """-- purpose: Show the form.
-- KEYS: record; messages; note that it was done
-- ARGV: room_id; limit int; is_new flag; texts... to be added
-- returns: {0, length}
return { 0, #texts, record, messages, note, room_id, limit, is_new }
"""


@dataclass(frozen=True)
class Limits:
    limit: int | None


class Keys:
    """Bound once; not a dataclass, so its names are given as paths."""

    record = "the record"
    messages = "the messages"


@dataclass(slots=True)
class Whole(ScriptCall[int]):
    room: Keys
    limits: Limits
    room_id: str
    is_new: bool
    texts: Sequence[str] = ()
    note: str | None = None

    @staticmethod
    def read(answer: list[Any]) -> int:
        return int(answer[1])


@dataclass(slots=True)
class Lacking(ScriptCall[int]):
    room: Keys
    limits: Limits
    room_id: str
    texts: Sequence[str] = ()
    note: str | None = None

    @staticmethod
    def read(answer: list[Any]) -> int:
        return int(answer[1])


@dataclass(slots=True)
class Unread(ScriptCall[int]):
    room: Keys


@dataclass(slots=True)
class Unknown(Whole):
    other: str = ""


PATHS = {"record": "room.record", "messages": "room.messages"}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    (tmp_path / "add.lua").write_text(ADD)
    return load_scripts(tmp_path)["add"]


@pytest.fixture
def bind(script: Script) -> Callable[[type[Any]], type[Any]]:
    return bind_call(script, PATHS)


@pytest.mark.parametrize(
    ("limit", "is_new", "texts", "note", "keys", "args"),
    [
        (7, True, ["a", "b"], "n", ["the record", "the messages", "n"], ["r", 7, "1", "a", "b"]),
        (None, False, [], None, ["the record", "the messages"], ["r", "", ""]),
        (0, False, ["0"], "", ["the record", "the messages", ""], ["r", 0, "", "0"]),
    ],
)
def test_keys_and_args_stand_in_the_order_of_the_header(
    bind: Callable[[type[Any]], type[Any]],
    limit: int | None,
    is_new: bool,
    texts: list[str],
    note: str | None,
    keys: list[str],
    args: list[object],
) -> None:
    call = bind(Whole)(Keys(), Limits(limit), "r", is_new, texts, note)
    assert call.keys() == keys
    assert call.args() == args


async def test_a_call_runs_its_script_and_reads_the_answer(
    bind: Callable[[type[Any]], type[Any]], script: Script
) -> None:
    class Cache:
        async def run_script(
            self,
            which: Script,
            keys: Sequence[str],
            args: Sequence[Any],
            *,
            repeatable: bool = True,
        ) -> Any:
            assert which is script
            assert not repeatable
            return [0, len(args)]

    call = bind(Whole)(Keys(), Limits(1), "r", True)
    assert await call.run(Cache(), repeatable=False) == 3


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (Lacking, "Lacking has no is_new of add.lua"),
        (Unknown, "add.lua has no other of Unknown"),
        (Unread, "Unread does not read what add.lua answers"),
    ],
)
def test_a_class_that_does_not_fit_its_script_is_refused(
    bind: Callable[[type[Any]], type[Any]], call: type[Any], complaint: str
) -> None:
    with pytest.raises(ScriptError, match=complaint):
        bind(call)


def test_a_name_that_no_field_has_is_refused(script: Script) -> None:
    with pytest.raises(ScriptError, match="Whole has no record"):
        bind_call(script, {"messages": "room.messages"})(Whole)
