"""The study's results as a table.

usage: table.py [--model smollm2-135m]
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BEFORE = "as it was: itself a dequantised 4-bit file"
COLUMNS = (
    # step, task, metric, title
    ("perplexity", "wikitext2-tokens", "token_perplexity", "WikiText-2"),
    ("perplexity", "qmsum-val", "word_perplexity", "QMSum val, a word"),
    ("questions", "qmsum", "rouge1", "questions, R1"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    folder = RESULTS / parser.parse_args().model
    names = {path.name.rsplit(".", 2)[0] for path in folder.glob("*.json")}
    titles = [title for *_, title in COLUMNS]
    print(
        f"| recipe | mode | layers MB | error | plain error | {' | '.join(titles)} | nine tasks |"
    )
    print("| --- " * (len(titles) + 6) + "|")
    for name in sorted(names, key=lambda one: (one != "none", one)):
        title = BEFORE if name == "none" else name.removesuffix(" shared")
        print(f"| {' | '.join([title, *cells(folder, name)])} |")


def cells(folder: Path, name: str) -> list[str]:
    found = ["", "", "", ""]
    path = folder / f"{name}.manifest.json"
    if path.exists():
        manifest = json.loads(path.read_text())
        found[0] = manifest["mode"] or "cut"
        layers = manifest["layers"]
        if "error_rtn, error" in layers:
            found[1] = f"{manifest['bytes'] / 1e6:.1f}"
            pairs = layers["error_rtn, error"]
            plain, error = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
            found[2], found[3] = f"{error:.4f}", f"{plain:.4f}"
    for step, task, metric, _ in COLUMNS:
        found.append(estimate(folder / f"{name}.{step}.json", task, metric))
    tasks = folder / f"{name}.tasks.json"
    if tasks.exists():
        found.append(nine(json.loads(tasks.read_text())))
    else:
        found.append("")
    return found


def nine(by_task: dict[str, Any]) -> str:
    """The mean of the tasks' accuracies, and of independent tasks 1.96 standard errors."""
    values = [next(iter(one["metrics"].values())) for one in by_task.values()]
    mean = sum(one["mean"] for one in values) / len(values)
    halves = [(one["ci95"][1] - one["ci95"][0]) / 2 for one in values]
    return f"{mean:.2f} ± {math.hypot(*halves) / len(values):.2f}"


def estimate(path: Path, task: str, metric: str) -> str:
    if not path.exists():
        return ""
    one = json.loads(path.read_text())[task]["metrics"][metric]
    low, high = one["ci95"]
    return f"{one['mean']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
