"""What is printed and kept: targets are met or not, part of a run changes nothing, RESULTS.md is
the run it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.bench import Row

MACHINE = {
    "cpu": "2 × some", "load_before": 0.25, "system": "Linux", "python": "3.11", "redis": "7", "mariadb": "10",
    "packages": {"aiohttp": "3"},
}  # fmt: skip
ROWS = [
    Row("a limit", 28687.3, "req/s", 0.0345),
    Row("ours", 1811.4, "req/s", 0.489, "a limit", 0.0631, 0.0706, 0.35, note="0.5 is the dream"),
    Row("first token", 1.977, "ms", target=3, bound="at most"),
]
TABLE = """\
| work | figure | CPU a request | ratio | by CPU | target | met |
|---|---|---|---|---|---|---|
| a limit | 28,687 req/s | 0.035 ms |  |  |  |  |
| ours (0.5 is the dream) | 1,811 req/s | 0.489 ms | 0.06 of a limit | 0.07 | at least 0.35 | **no** |
| first token | 1.98 ms |  |  |  | at most 3 | yes |"""


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("fast enough", 20_000, "deltas/s", target=20_000), True),
        (Row("too slow", 19_999, "deltas/s", target=20_000), False),
        (Row("small enough", 3, "ms", target=3, bound="at most"), True),
        (Row("too large", 3.1, "ms", target=3, bound="at most"), False),
        (Row("judged by its ratio", 1_000, "req/s", against="it", ratio=0.2, target=0.5), False),
        (Row("judged by its ratio", 0.1, "req/s", against="it", ratio=0.6, target=0.5), True),
        (Row("not by CPU", 1, "req/s", against="it", ratio=0.4, cpu_ratio=0.6, target=0.5), False),
        (Row("growth", 900, "req/s", against="it", ratio=1.6, target=1.5, bound="at most"), False),
        (Row("a limit", 1, "req/s"), None),
    ],
    ids=lambda value: value.work if isinstance(value, Row) else str(value),
)
def test_a_target_is_met_by_the_ratio_where_there_is_one(row: Row, met: bool | None) -> None:
    assert row.met is met


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "_FOLDER", tmp_path)
    monkeypatch.setattr(report, "machine", lambda: MACHINE)
    (tmp_path / "results").mkdir()
    (tmp_path / "RESULTS.md").write_text(
        "# Title\n<!-- begin run -->\nold\n<!-- end run -->\nour words\n"
    )
    return tmp_path


def test_a_whole_run_is_kept_and_the_words_around_it_stay(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.save(ROWS, None, whole=True)
    assert capsys.readouterr().out == TABLE + "\n"
    text = (folder / "RESULTS.md").read_text(encoding="utf-8")
    assert text.startswith("# Title\n<!-- begin run -->\n\nRun of 2")
    assert text.endswith(
        f"Load of the machine before: 0.2.\n\n{TABLE}\n\n<!-- end run -->\nour words\n"
    )
    (kept,) = (folder / "results").iterdir()
    rows = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    assert [row["met"] for row in rows] == [None, False, True]
    assert [row["figure"] for row in rows] == [28687.3, 1811.4, 1.977]


def test_a_part_of_a_run_is_printed_and_not_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "RESULTS.md").read_bytes()
    report.save(ROWS, None, whole=False)
    assert capsys.readouterr().out == TABLE + "\n"
    assert (folder / "RESULTS.md").read_bytes() == before
    assert not list((folder / "results").iterdir())


def test_the_published_table_is_that_of_the_run_it_names() -> None:
    text = (report._FOLDER / "RESULTS.md").read_text(encoding="utf-8")
    name, _, rest = text.partition("Run of ")[2].partition(" ")
    run = json.loads((report._FOLDER / "results" / f"{name}.json").read_text(encoding="utf-8"))
    rows = [
        Row(**{key: value for key, value in row.items() if key != "met"}) for row in run["rows"]
    ]
    assert report.table(rows) in rest
    assert [row.met for row in rows] == [row["met"] for row in run["rows"]]
    named = {row.work: row for row in rows if row.unit == "req/s"}
    judged = [(row, named[row.against]) for row in rows if row.against in named]
    assert len(judged) > 5
    for row, limit in judged:
        assert row.cpu_ms is not None
        assert limit.cpu_ms is not None
        assert row.ratio == pytest.approx(row.figure / limit.figure)
        assert row.cpu_ratio == pytest.approx(limit.cpu_ms / row.cpu_ms)
