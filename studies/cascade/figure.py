"""s_d of every arm and seed, and of what is compared the differences, as one picture.

usage: figure.py results.json s_d.png
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

POINT, MEAN, LINE = "#0072b2", "#d55e00", "#999999"


def draw(rows: list[dict[str, Any]], arms: Iterable[str], path: Path) -> None:
    """Deferring by the mean on the mix; a picture [PNG, SVG by the suffix] goes to `path`."""
    mine = [row for row in rows if row["score"] == "mean" and row["task"] == "mix"]
    alone = {arm: [r["s_d"][0] for r in mine if arm == arm_of(r)] for arm in arms}
    alone = {arm: values for arm, values in alone.items() if values}
    gaps = [row for row in mine if "less" in row]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 0.45 * max(len(alone), len(gaps)) + 1.2), layout="constrained"
    )
    for at, values in enumerate(alone.values()):
        left.plot(values, [at] * len(values), "o", color=POINT, alpha=0.7)
        left.plot(sum(values) / len(values), at, "|", color=MEAN, markersize=18, markeredgewidth=3)
    left.set_yticks(range(len(alone)), list(alone))
    left.set_xlabel("s_d: 0 random, 1 oracle (a dot a seed, their mean)")
    for at, row in enumerate(gaps):
        value, low, high = row["s_d"]
        right.plot([low, high], [at, at], color=POINT, linewidth=2)
        right.plot(value, at, "o", color=MEAN)
    names = [f"{' less '.join(row['less'])} ({row['seeds']})" for row in gaps]
    right.set_yticks(range(len(gaps)), names)
    right.set_xlabel("difference in s_d, 95 % (seeds in brackets)")
    for axes in (left, right):
        axes.axvline(0, color=LINE, linewidth=1, zorder=0)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e5e5e5", zorder=0)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)
    plt.close(figure)


def arm_of(row: dict[str, Any]) -> str | None:
    return row["run"].rpartition("-")[0] if "run" in row else None


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text())
    order = dict.fromkeys(arm for row in found if (arm := arm_of(row)))
    draw(found, order, Path(sys.argv[2]))
