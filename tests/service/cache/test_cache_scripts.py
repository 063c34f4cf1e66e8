"""Script files: prelude, header, and every script of the project held against its own header."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from base_server.service.cache.cache_service import CacheService
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script import (
    Parameter,
    Script,
    ScriptError,
    ScriptFolder,
    load_scripts,
    read_header,
)

PROJECT = Path(__file__).parents[3]
FOLDERS = sorted((PROJECT / "base_server").rglob("lua"))

GOOD = """-- purpose: Show the form,
--   over two lines.
-- KEYS: room_record; messages the list, newest last;
--   states... of the messages
-- ARGV: account_id; limit int of messages; is_new flag; texts... of each: id, json
-- returns: 1 always
redis.call('SET', room_record, account_id) -- not KEYS
for _, text in ipairs(texts) do redis.call('RPUSH', messages, text) end
return { limit and limit + 1 or -1, is_new and 1 or 0, #states, #texts }
"""


def test_a_good_header_has_names_and_types() -> None:
    header = read_header("good.lua", GOOD)
    assert [each.name for each in header.keys] == ["room_record", "messages", "states"]
    assert header.args == (
        Parameter("account_id"),
        Parameter("limit", "int", description="of messages"),
        Parameter("is_new", "flag"),
        Parameter("texts", is_rest=True, description="of each: id, json"),
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("-- purpose", "-- about"), 'no "-- purpose'),
        (("-- returns: 1 always\n", ""), 'no "-- returns'),
        (("#states", "#KEYS"), "the body says KEYS"),
        (("limit and limit + 1", "ARGV[2]"), "the body says ARGV"),
        (("room_record;", "room_record; other;"), "describes other, but"),
        (("room_record;", "room_record; messages;"), "describes messages twice"),
        (("states... of", "States of"), "are not"),
        (("-- KEYS: room_record;", "-- KEYS: all... of them; room_record;"), "go on behind all"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_header_that_does_not_say_what_the_body_uses_is_refused(
    change: tuple[str, str], complaint: str
) -> None:
    assert change[0] in GOOD
    with pytest.raises(ScriptError, match=complaint):
        read_header("bad.lua", GOOD.replace(*change))


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["a", 7, "1", "x", "y"], [8, 1, 2, 2]),
        (["a", "", ""], [-1, 0, 2, 0]),
    ],
)
async def test_a_body_has_the_names_of_its_header(
    cache: CacheService, tmp_path: Path, args: list[object], answer: list[int]
) -> None:
    (tmp_path / "good.lua").write_text(GOOD)
    client = cache.get_client()
    keys = [client.key(f"test:{name}", 1) for name in "abcd"]
    assert await client.run_script(load_scripts(tmp_path)["good"], keys, args) == answer


async def test_an_error_in_a_script_names_the_line(cache: CacheService, tmp_path: Path) -> None:
    """Redis knows only the number in a source that begins with prelude and locals."""
    (tmp_path / "_prelude.lua").write_text(PRELUDE)
    (tmp_path / "bad.lua").write_text(f"{HEADER}local n = three()\nreturn n + missing\n")
    with pytest.raises(CacheCommandError, match=r"return n \+ missing"):
        await cache.get_client().run_script(load_scripts(tmp_path)["bad"], [], [])


def test_a_name_of_the_prelude_is_no_name_of_a_header(tmp_path: Path) -> None:
    (tmp_path / "_prelude.lua").write_text(PRELUDE)
    (tmp_path / "bad.lua").write_text(HEADER.replace("KEYS: none", "KEYS: two") + "return two")
    with pytest.raises(ScriptError, match="two is a name of the prelude"):
        load_scripts(tmp_path)


def test_scripts_of_all_folders_are_one_set_by_name(tmp_path: Path) -> None:
    for folder in ("rooms", "messages"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"read_{folder}.lua").write_text(f"{HEADER}return two()\n")
    (tmp_path / "_prelude.lua").write_text(PRELUDE)
    scripts = load_scripts(tmp_path)
    assert sorted(scripts) == ["read_messages", "read_rooms"]
    assert "local function two" in scripts["read_rooms"].body
    (tmp_path / "rooms" / "read_messages.lua").write_text(f"{HEADER}return 1\n")
    with pytest.raises(ScriptError, match="another folder"):
        load_scripts(tmp_path)


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
def test_no_script_of_the_project_makes_a_global_function_or_builds_a_key(folder: Path) -> None:
    for file in folder.rglob("*.lua"):
        code = re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
        assert not re.search(r"(?m)^\s*function\b", code), f"{file.name}: a global function"
        calls = re.findall(
            r"redis\.p?call\(\s*'[A-Z]+(?: [A-Z]+)?'\s*,\s*(['\"][^'\"]*['\"]\s*\.\.)", code
        )
        assert not calls, f"{file.name}: a key that is put together in the script"
