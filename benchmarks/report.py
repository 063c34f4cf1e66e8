"""Results for people (RESULTS.md, a plot) and for programs (results/*.json)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.bench import Row
from tests.backends_mariadb import find_program
from tests.backends_redis import find_server

_FOLDER = Path(__file__).parent
_PACKAGES = ("aiohttp", "uvloop", "redis", "hiredis", "aiomysql", "pydantic", "langchain-core")


def save(rows: Sequence[Row], peers_python: Path | None, *, whole: bool) -> None:
    """Print the table. A whole run is kept: its numbers in results/, its table and plot as
    RESULTS.md."""
    print(table(rows))
    name = time.strftime("%Y-%m-%d-%H%M")
    numbers = {"date": name, **machine(), "rows": [asdict(row) | {"met": row.met} for row in rows]}
    if not whole:
        return
    file = _FOLDER / "results" / f"{name}.json"
    file.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if peers_python is not None:
        plot = [
            str(peers_python),
            str(_FOLDER / "peers" / "plot.py"),
            str(file),
            str(_FOLDER / "results.svg"),
        ]
        subprocess.run(plot, check=True)
    write_results(numbers, rows)


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| work | figure | CPU a request | ratio | by CPU | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cpu = "" if row.cpu_ms is None else f"{row.cpu_ms:.3f} ms"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} of {row.against}"
        by_cpu = "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}"
        target = "" if row.target is None else f"{row.bound} {row.target:g}"
        met = {None: "", True: "yes", False: "**no**"}[row.met]
        note = f" ({row.note})" if row.note else ""
        lines.append(
            f"| {row.work}{note} | {_shown(row.figure)} {row.unit} | {cpu} | {ratio} | {by_cpu} | {target} | {met} |"
        )
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """Where and with what it was measured."""
    redis = subprocess.run(
        [find_server("redis"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    mariadb = subprocess.run(
        [find_program("mariadbd", "mysqld"), "--version"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cpu": f"{os.cpu_count()} × {cpus[0] if cpus else platform.machine()}",
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "redis": redis.split("v=")[1].split()[0],
        "mariadb": mariadb.split("Ver ")[1].split()[0],
        "packages": {name: version(name) for name in _PACKAGES},
    }


def write_results(numbers: dict[str, object], rows: Sequence[Row]) -> None:
    """RESULTS.md: the run in front of its words, which people write between the marks ``words``."""
    file = _FOLDER / "RESULTS.md"
    text = file.read_text(encoding="utf-8")
    packages = ", ".join(f"{name} {number}" for name, number in numbers["packages"].items())  # type: ignore[attr-defined]
    run = (
        f"Run of {numbers['date']} on {numbers['cpu']} ({numbers['system']}); Python {numbers['python']},"
        f" Redis {numbers['redis']} with its append-only file, MariaDB {numbers['mariadb']} with a flush at every"
        f" commit; {packages}. Load of the machine before: {numbers['load_before']:.1f}.\n\n{table(rows)}\n"
    )
    begin, end = "<!-- begin run -->\n", "<!-- end run -->"
    head, rest = text.split(begin)
    file.write_text(head + begin + "\n" + run + "\n" + end + rest.split(end)[1], encoding="utf-8")


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"
