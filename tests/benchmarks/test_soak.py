"""The soak's verdict: what is left of players, and what grows, is called so; what comes and goes is
not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from benchmarks import soak
from benchmarks.soak import Watch
from tests.server_process import running_server

REST = {
    "server, MiB": 90.0, "descriptors": 30.0, "tasks": 7.0, "open streams": 0.0, "open replies": 0.0,
    "events waiting": 0.0, "Redis, MiB": 2.0,
}  # fmt: skip
BUSY = REST | {
    "server, MiB": 130.0,
    "descriptors": 310.0,
    "tasks": 330.0,
    "open replies": 30.0,
    "events waiting": 80.0,
}


def verdict(
    after: dict[str, float], last: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """The lines below the table; the run had a busy first half and ends with ``last``, then
    ``after``."""
    flat = soak._tell(REST, [BUSY] * 20 + [last] * 20, after, Counter({"0": 1}))
    told = capsys.readouterr().out.splitlines()
    assert flat == (told[-1] == "flat" and not told[-2].startswith("left over"))
    return [line for line in told if line.startswith(("left", "grown"))]


def test_a_busy_server_that_comes_to_rest_is_flat(capsys: pytest.CaptureFixture[str]) -> None:
    rest = REST | {"server, MiB": 130.0, "descriptors": 50.0, "Redis, MiB": 4.0}
    busier = BUSY | {"tasks": 390.0, "descriptors": 365.0, "server, MiB": 140.0}
    assert verdict(rest, busier, capsys) == []


@pytest.mark.parametrize(
    ("what", "many"),
    [("tasks", 20), ("descriptors", 300), ("open streams", 1), ("open replies", 1)],
)
def test_what_stays_when_players_are_gone_is_left_over(
    what: str, many: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verdict(REST | {what: many}, BUSY, capsys) == [f"left over: {what}"]


@pytest.mark.parametrize(
    ("what", "many"),
    [("tasks", 400), ("descriptors", 400), ("server, MiB", 150), ("Redis, MiB", 5)],
)
def test_what_is_more_at_the_end_has_grown(
    what: str, many: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verdict(REST, BUSY | {what: many}, capsys) == [f"grown: {what}"]


async def test_a_look_finds_every_number(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", workers=1, is_fresh=True) as server:
        socket = next(path for path in server.data_dir.rglob("*") if path.is_socket())
        async with aiohttp.ClientSession() as http:
            look = await Watch(server, http, socket).look()
            async with http.get(server.base_url + "/metrics") as answer:
                text = await answer.text()
    assert all(f"# TYPE {name} gauge" in text for name in soak._LOOKS)
    assert min(look["tasks"], look["descriptors"], look["server, MiB"], look["Redis, MiB"]) > 0
