"""Rows a second from the queue to the database to SENT, beside executemany of the same rows, and
what they cost."""

from __future__ import annotations

from statistics import median

import uvloop

from benchmarks.bench import Bench, Row
from benchmarks.persistence import PEER_ROWS, measure

_LIMIT = f"executemany of {PEER_ROWS}"


def run(bench: Bench) -> None:
    found = uvloop.run(measure(messages=int(6000 * bench.seconds), rounds=bench.rounds))
    limit, per_s = (median(getattr(each, side) for each in found) for side in ("peer", "ours"))
    cpu_ms = median(each.cpu_us[0] for each in found) / 1e3
    bench.add(Row(_LIMIT, limit, "rows/s", note="one connection, a commit after each"))
    work, ratio = "persistence, queue to database to SENT", median(each.ratio for each in found)
    bench.add(
        Row(work, per_s, "rows/s", cpu_ms, _LIMIT, ratio, target=0.5, note="0.7 is the dream")
    )
