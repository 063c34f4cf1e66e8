"""What a contest finds: figures of what wrk says and what the server's CPU took, medians without
the warm-up."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.bench import Bench
from benchmarks.load import Ask, Contender
from benchmarks.processes import Child

Said = dict[str, int]
Wrk = Callable[[Sequence[Said]], None]


class Served:
    """A server that has spent ``cpu_s`` more at each look."""

    url = "http://served"

    def __init__(self, *cpu_s: float) -> None:
        self._cpu_s = list(cpu_s)

    def cpu_s(self) -> float:
        return self._cpu_s.pop(0)


def contender(
    folder: Path, server: object, name: str = "one", asks: Sequence[Ask] = ()
) -> Contender:
    return Contender(name, cast(Child, server), asks, folder)


def said(**changes: int) -> Said:
    return {
        "requests": 500,
        "duration_us": 2_000_000,
        "refused": 0,
        "broken": 0,
        "p50_us": 1500,
        "p99_us": 9000,
    } | changes


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A line for each call of :func:`wrk_that_says`'s wrk: its arguments."""
    return tmp_path / "calls"


@pytest.fixture
def wrk_that_says(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> Wrk:
    """Puts a wrk on PATH that says one thing after the other."""

    def install(things: Sequence[Said]) -> None:
        file = tmp_path / "wrk"
        file.write_text(
            f"#!{sys.executable}\n"
            "import json, pathlib, sys\n"
            f"calls = pathlib.Path({str(calls)!r})\n"
            "before = calls.read_text().splitlines() if calls.exists() else []\n"
            "calls.write_text('\\n'.join([*before, json.dumps(sys.argv[1:])]))\n"
            f"print('Running ...\\n', json.dumps({list(things)!r}[len(before)]))\n"
        )
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


def test_figures_are_of_a_second_and_of_a_request(
    tmp_path: Path, calls: Path, wrk_that_says: Wrk
) -> None:
    wrk_that_says([said()])
    asks = [Ask("/a", "token", {"room_id": "r"}), Ask("/b", "", {})]
    measured = contender(tmp_path, Served(10.0, 10.5), "message list, 1 / 2", asks).take(2)
    assert measured.per_s == 250
    assert measured.cpu_ms == pytest.approx(1.0)
    assert (measured.p50_ms, measured.p99_ms) == (1.5, 9.0)
    arguments = json.loads(calls.read_text())
    assert {"-t1", "-c32", "-d2s", "http://served"} <= set(arguments)
    assert Path(arguments[-1]).read_text() == '/a\ttoken\t{"room_id": "r"}\n/b\t\t{}\n'


@pytest.mark.parametrize("what", ["refused", "broken"])
def test_one_failed_request_ends_the_run(what: str, tmp_path: Path, wrk_that_says: Wrk) -> None:
    wrk_that_says([said(**{what: 1})])
    with pytest.raises(SystemExit, match=f"1 requests {what}|1 {what}"):
        contender(tmp_path, Served(0, 0)).take(1)


def test_contenders_take_turns_and_medians_count_without_the_warm_up(
    tmp_path: Path, calls: Path, wrk_that_says: Wrk, capsys: pytest.CaptureFixture[str]
) -> None:
    warm_up, rounds = [1, 1], [300, 3000, 100, 1000, 200, 2900]
    wrk_that_says(
        [said(requests=n, duration_us=1_000_000, p50_us=10 * n) for n in warm_up + rounds]
    )
    one, other = (contender(tmp_path, Served(*[0.0, 0.3] * 4), name) for name in ("one", "other"))
    found = Bench(cast(Any, None), None, seconds=3, rounds=3).contest([one, other])
    assert {name: measured.per_s for name, measured in found.items()} == {"one": 200, "other": 2900}
    assert (found["one"].p50_ms, found["one"].cpu_ms) == (2.0, pytest.approx(1.5))
    asked = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [Path(arguments[-1]).stem for arguments in asked] == ["one", "other"] * 4
    assert [arguments[2] for arguments in asked] == ["-d1s"] * 2 + ["-d3s"] * 6


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
async def test_wrk_sends_each_request_with_its_own_token_and_counts_the_refused(
    tmp_path: Path,
) -> None:
    seen = set()

    async def answer(request: web.Request) -> web.Response:
        seen.add((request.path, request.headers.get("Authorization"), await request.text()))
        return web.Response(status=503 if request.path == "/refused" else 200)

    app = web.Application()
    app.router.add_post("/{path}", answer)
    async with TestServer(app) as server:
        served = Served(*[0.0] * 4)
        served.url = str(server.make_url("/"))

        async def take(*asks: Ask) -> float:
            return (await asyncio.to_thread(contender(tmp_path, served, "one", asks).take, 1)).per_s

        assert (
            await take(Ask("/a", "of a", {"n": 1}), Ask("/b", "", {"n": 2}), Ask("/c", "of c", {}))
            > 10
        )
        assert seen == {
            ("/a", "Bearer of a", '{"n": 1}'),
            ("/b", None, '{"n": 2}'),
            ("/c", "Bearer of c", "{}"),
        }
        with pytest.raises(SystemExit, match="refused"):
            await take(Ask("/a", "", {}), Ask("/refused", "", {}))
