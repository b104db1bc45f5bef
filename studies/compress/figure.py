"""The results as a plot: perplexity and nine tasks of every recipe, beside the model as it was.

usage: figure.py [--model smollm2-135m]
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from table import RESULTS, nine

TEXTS = (
    ("wikitext2-tokens", "token_perplexity", "WikiText-2, a token", "o"),
    ("qmsum-val", "word_perplexity", "QMSum val, a word", "s"),
)
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    model = parser.parse_args().model
    folder = RESULTS / model
    read = {
        path.name.removesuffix(".perplexity.json"): json.loads(path.read_text())
        for path in folder.glob("*.perplexity.json")
    }
    worst_last = sorted(
        read, key=lambda name: read[name][TEXTS[0][0]]["metrics"][TEXTS[0][1]]["mean"]
    )
    rows = range(len(worst_last))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 1.2 + 0.32 * len(worst_last)), sharey=True
    )
    for (task, metric, label, marker), colour in zip(
        TEXTS, ("tab:blue", "tab:orange"), strict=True
    ):
        means = [read[name][task]["metrics"][metric]["mean"] for name in worst_last]
        left.scatter(means, rows, label=label, marker=marker, color=colour, s=28)
        left.axvline(read["none"][task]["metrics"][metric]["mean"], color=colour, linewidth=0.8,
                     linestyle=":")  # fmt: skip
    left.set_xscale("log")
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.xaxis.set_major_formatter("{x:,.0f}")
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_xlabel("perplexity (dotted: as it was)")
    left.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    labels = ["as it was (4-bit file)" if name == "none" else name for name in worst_last]
    left.set_yticks(rows, labels, fontsize=9)
    left.invert_yaxis()
    for row, name in zip(rows, worst_last, strict=True):
        path = folder / f"{name}.tasks.json"
        if path.exists():
            mean, half = map(float, nine(json.loads(path.read_text())).split(" ± "))
            right.errorbar(mean, row, xerr=half, fmt="o", color="tab:green", markersize=5)
            if name == "none":
                right.axvline(mean, color="tab:green", linewidth=0.8, linestyle=":")
    right.set_xlabel("nine tasks, accuracy, 95 %")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    for suffix in (".png", ".svg"):
        figure.savefig(HERE / f"{model}{suffix}", dpi=150)


if __name__ == "__main__":
    main()
