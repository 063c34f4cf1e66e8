"""``plot.py RESULTS.json PLOT.svg``: how near every judged figure comes to its target."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt


def main(results: str, plot: str) -> None:
    numbers = json.loads(Path(results).read_text(encoding="utf-8"))
    rows = [row for row in numbers["rows"] if row["target"] is not None]
    mpl.rcParams.update({"svg.hashsalt": "results", "font.size": 9, "font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(figsize=(9, 0.36 * len(rows) + 1.2), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        judged = row["figure"] if row["ratio"] is None else row["ratio"]
        # Longer is better, whichever way the target looks.
        reached = judged / row["target"] if row["bound"] == "at least" else row["target"] / judged
        axes.barh(place, reached, color="#3b7a57" if row["met"] else "#b5533c", height=0.66)
        axes.annotate(
            f"{reached:.2f}", (reached, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.axvline(1, color="black", linewidth=1)
    names = [
        f"{row['work']} / {row['against']}" if row["against"] else row["work"]
        for row in reversed(rows)
    ]
    axes.set_yticks(range(len(rows)), names)
    axes.set_xscale("log")
    axes.set_xlabel("times the target (log scale; at 1 it is met)")
    axes.set_title(f"make bench, {numbers['date']}, {numbers['cpu']}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(plot, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
