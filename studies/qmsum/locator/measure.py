"""How much of the gold span a budget of words catches, on val: locators side by side.

usage: measure.py --data DIR [--locators SPEC ...] [--json FILE]

SPEC is bm25, fitted or a directory, with `@SIZE,STRIDE` for other windows than its own. Recall and
precision are in words, averaged over the 237 specific questions; intervals are 95 % cluster
bootstrap over the 35 meetings, differences are paired, to the first SPEC. Prints Markdown.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from spans import Meeting, load

from featherweight.evaluate.statistics import estimates, paired
from featherweight.retrieve import Locator, open_locator

BUDGETS = (500, 900, 1000, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--locators", nargs="+", default=["bm25", "fitted"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    meetings = load(args.data, "val")
    groups = [meeting.name for meeting in meetings for _ in meeting.questions]
    print(f"n = {len(groups)} questions, {len(meetings)} meetings\n")
    print("| locator, windows | " + " | ".join(f"{b} words" for b in BUDGETS) + " |")
    print("| --- " * (len(BUDGETS) + 1) + "|")
    base, found = None, {}
    for spec in args.locators:
        name, _, windows = spec.partition("@")
        locator = open_locator(name)
        size, stride = map(int, windows.split(",")) if windows else (locator.window, locator.stride)
        table = caught(meetings, locator, size, stride)  # [questions, budgets, 2]
        base = table if base is None else base
        label = f"{Path(name).name}, {size} by {stride}"
        found[label] = row(table, base, groups)
        print(f"| {label} | " + " | ".join(cell(part) for part in found[label].values()) + " |")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def caught(meetings: list[Meeting], locator: Locator, size: int, stride: int) -> np.ndarray:
    found = []
    for meeting in meetings:
        spans, texts = meeting.windows(size, stride)
        for query, gold in meeting.questions:
            scores = locator.scores(query, texts)
            found.append([meeting.caught(spans, scores, gold, budget) for budget in BUDGETS])
    return np.array(found)


def row(table: np.ndarray, base: np.ndarray, groups: list[str]) -> dict:
    found = {}
    for at, budget in enumerate(BUDGETS):
        recall, precision = estimates(table[:, at], groups)
        more = paired(table[:, at, 0], base[:, at, 0], groups)[0]
        found[budget] = {
            "recall": recall.mean,
            "recall ci95": recall.ci95,
            "precision": precision.mean,
            "precision ci95": precision.ci95,
            "more recall than the first": more.diff,
            "more ci95": more.ci95,
            "p": more.p,
        }
    return found


def cell(part: dict) -> str:
    low, high = part["recall ci95"]
    text = f"**{part['recall']:.3f}** [{low:.3f}, {high:.3f}], precision {part['precision']:.3f}"
    if part["more recall than the first"]:
        low, high = part["more ci95"]
        text += f"; {part['more recall than the first']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return text


if __name__ == "__main__":
    main()
