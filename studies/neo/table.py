"""The results of run.py as tables: means over seeds with their range, and paired differences.

usage: table.py [--results FOLDER]

Every arm of a seed sees the same examples in the same order, so differences between arms are taken
seed by seed. With three seeds an interval by Student's t has two degrees of freedom: it is wide,
and said to be.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
MEASURES = {
    "text_ce": "text, nats a token",
    "answers_ce": "answers, nats a token",
    "answers_right": "answers, tokens predicted",
    "cpu_seconds": "CPU minutes, where it was not stopped",
    "peak_rss": "peak memory, MiB",
}
SCALE = {"answers_right": 100.0, "cpu_seconds": 1 / 60, "peak_rss": 2.0**-20}
PAIRS = (("neo", "kd"), ("neo", "lora"), ("neo", "sft"), ("kd", "sft"), ("lora", "sft"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    found = results(parser.parse_args().results)
    if not found:
        raise SystemExit("no results yet; run run.py")
    print(arms(found))
    print(f"\n{differences(found)}")


def results(folder: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Arm -> seed -> what was measured."""
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        found[row["arm"]][row["seed"]] = {
            name: row[name] * SCALE.get(name, 1.0) if row.get(name) else np.nan for name in MEASURES
        }
    return found


def arms(found: dict[str, dict[int, dict[str, float]]]) -> str:
    """Mean over seeds, smallest and largest in brackets where there are several."""
    lines = ["| arm | seeds | " + " | ".join(MEASURES.values()) + " |"]
    lines.append("| --- " * (len(MEASURES) + 2) + "|")
    for arm, seeds in found.items():
        cells = []
        for name in MEASURES:
            values = [row[name] for row in seeds.values() if not np.isnan(row[name])]
            digits = 3 if name.endswith("_ce") else 1 if name != "peak_rss" else 0
            text = f"{np.mean(values):.{digits}f}" if values else ""
            if len(values) > 1:
                text += f" [{min(values):.{digits}f}, {max(values):.{digits}f}]"
            cells.append(text)
        lines.append(f"| {arm} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(found: dict[str, dict[int, dict[str, float]]]) -> str:
    """a - b over the seeds that both have."""
    lines = ["| a - b | seeds | text, nats | answers, nats |", "| --- | --- | --- | --- |"]
    for a, b in PAIRS:
        common = sorted(found.get(a, {}).keys() & found.get(b, {}).keys())
        if not common:
            continue
        cells = []
        for name in ("text_ce", "answers_ce"):
            values = np.array([found[a][seed][name] - found[b][seed][name] for seed in common])
            text = f"{values.mean():+.3f}"
            if len(values) > 1:
                half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
                text += f" [{values.mean() - half:+.3f}, {values.mean() + half:+.3f}]"
            cells.append(text)
        lines.append(f"| {a} - {b} | {len(common)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


if __name__ == "__main__":
    main()
