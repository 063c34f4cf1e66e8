"""Script files: prelude, header, and every script of the project held against its own header."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from base_server.service.redis_client.script import (
    Script,
    ScriptError,
    ScriptFolder,
    check_header,
    load_scripts,
)

PROJECT = Path(__file__).parents[3]
FOLDERS = sorted({file.parent for file in (PROJECT / "base_server").rglob("*.lua")})

GOOD = """-- purpose: Show the form,
--   over two lines.
-- KEYS: 1 room record; 2 messages list
-- ARGV: 1 account_id; 2.. repeated (room_id, json)
-- returns: 1 always
redis.call('SET', KEYS[1], ARGV[1]) -- not KEYS[9]
for i = 2, #ARGV, 2 do redis.call('RPUSH', KEYS[2], ARGV[i + 1]) end
return 1
"""


def test_a_good_header_passes() -> None:
    check_header("good.lua", GOOD)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("-- purpose", "-- about"), 'no "-- purpose'),
        (("-- returns: 1 always\n", ""), 'no "-- returns'),
        (("; 2 messages list", ""), r"KEYS\[2\] is used"),
        (("2 messages list", "2 messages list; 3 states"), r"describes KEYS\[3\]"),
        (("2 messages list", "3 messages list"), "not numbered"),
        (("ARGV[i + 1]", "'x'"), r"describes ARGV 2\.\."),
        (("1 account_id; 2..", "2.."), "not numbered"),
        (("1 room record;", "the room;"), "is not"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_header_that_does_not_say_what_the_body_uses_is_refused(
    change: tuple[str, str], complaint: str
) -> None:
    assert change[0] in GOOD
    with pytest.raises(ScriptError, match=complaint):
        check_header("bad.lua", GOOD.replace(*change))


PRELUDE = """-- Shared. (three is mentioned here only)
local ONE, TWO =
  1, 2

-- Not three.
local function two() return TWO end

local function four()
  return two() + 2
end
local function three() return ONE + two() end
"""
HEADER = "-- purpose: x\n-- KEYS: none\n-- ARGV: none\n-- returns: 1\n"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("return 1 -- like ONE", []),
        ("return ONE", ["ONE, TWO"]),
        ("return four()", ["ONE, TWO", "two", "four"]),
        ("local three_more = two()", ["ONE, TWO", "two"]),
        ("return three()", ["ONE, TWO", "two", "three"]),
    ],
)
def test_what_a_script_uses_of_the_prelude_is_put_before_it(
    tmp_path: Path, body: str, names: list[str]
) -> None:
    (tmp_path / "_prelude.lua").write_text(PRELUDE)
    (tmp_path / "count.lua").write_text(f"{HEADER}{body}\n")
    scripts = ScriptFolder(tmp_path)
    assert list(scripts) == ["count"]
    assert scripts["count"].name == "count"
    before = scripts["count"].source.removesuffix(f"{HEADER}{body}\n")
    assert re.findall(r"^local (?:function )?([^(=]+?)(?: =|\()", before, re.MULTILINE) == names
    assert ("1, 2" in before) == ("ONE, TWO" in names)


def test_a_folder_without_scripts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="no scripts"):
        load_scripts(tmp_path)


def test_the_sha1_is_the_one_that_redis_computes() -> None:
    assert Script("one", "return 1").sha1 == "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PROJECT)))
def test_every_script_of_the_project_has_a_true_header(folder: Path) -> None:
    load_scripts(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PROJECT)))
def test_no_script_of_the_project_makes_a_global_function_or_builds_a_key(folder: Path) -> None:
    for file in folder.glob("*.lua"):
        code = re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
        assert not re.search(r"(?m)^\s*function\b", code), f"{file.name}: a global function"
        calls = re.findall(
            r"redis\.p?call\(\s*'[A-Z]+(?: [A-Z]+)?'\s*,\s*(['\"][^'\"]*['\"]\s*\.\.)", code
        )
        assert not calls, f"{file.name}: a key that is put together in the script"
