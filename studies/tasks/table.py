"""The nine tasks and perplexity of every model that was run, in one table.

usage: table.py [--runs NAME=FOLDER ...]

FOLDER is what run.py wrote. What is needed of it is copied to results/NAME (manifests, and for each
question what was picked), and the table is made of all that is there: table.md.
"""

import argparse
import gzip
import json
from pathlib import Path

from featherweight.evaluate.statistics import Estimate
from featherweight.rows import read_rows
from featherweight.tasks.choice import SETS

HERE = Path(__file__).parent
KEPT = ("id", "picked", "scores", "logprobs", "logprob", "tokens", "words", "bytes")
TEXTS = {
    "wikitext2": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "wikitext2-tokens": ("token_perplexity",),
}
NAMES = {
    "smollm2": "SmolLM2-135M-Instruct, dequantised Q4_1",
    "qwen": "Qwen2.5-Coder-0.5B-Instruct, dequantised Q4_K_M",
}
CHANCE = {"arc": 25.0, "obqa": 25.0, "ecqa": 20.0, "riddle": 20.0, "pubmedqa": 33.3}  # others 50
SAME_ANSWER = {"bioasq": 66.7, "pubmedqa": 55.2, "creak": 52.3, "strategyqa": 51.2}
"""Accuracy of always giving the test split's most frequent answer, where answers are named."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", nargs="*", default=[], metavar="NAME=FOLDER")
    for run in parser.parse_args().runs:
        name, _, folder = run.partition("=")
        for manifest in sorted(Path(folder).glob("*/manifest.json")):
            keep(HERE / "results" / name, manifest)
    page = markdown(sorted(path for path in (HERE / "results").iterdir() if path.is_dir()))
    (HERE / "table.md").write_text(page)
    print(page)


def keep(target: Path, manifest: Path) -> None:
    data = json.loads(manifest.read_text())
    if "metrics" not in data or data["missing"]:
        print(f"{manifest.parent}: not finished, left out")
        return
    target.mkdir(parents=True, exist_ok=True)
    task = manifest.parent.name
    (target / f"{task}.json").write_text(json.dumps(data, indent=1) + "\n")
    rows = sorted(read_rows(manifest.parent / "predictions.jsonl"), key=lambda row: row.key("id"))
    lines = [json.dumps({k: row.data[k] for k in KEPT if k in row.data}) + "\n" for row in rows]
    (target / f"{task}.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def markdown(models: list[Path]) -> str:
    names = [NAMES.get(model.name, model.name) for model in models]
    lines = ["Accuracy in percent by log-likelihood: raw / for each character [95 % interval].", ""]
    lines += [
        f"| task | n | chance | one answer always | {' | '.join(names)} |",
        f"| --- | --- | --- | --- |{' --- |' * len(names)}",
    ]
    for task in SETS:
        found = [load(model / f"{task}.json") for model in models]
        size = next((f["n"] for f in found if f), "")
        cells = [accuracy(f) for f in found]
        known = f"{CHANCE.get(task, 50.0):.0f} | {SAME_ANSWER.get(task, '')}"
        lines.append(f"| {task} | {size} | {known} | {' | '.join(cells)} |")
    lines += ["", f"| perplexity | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for task, metrics in TEXTS.items():
        for metric in metrics:
            cells = [spelled(load(model / f"{task}.json"), metric) for model in models]
            lines.append(f"| {metric.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def load(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def accuracy(found: dict) -> str:
    if not found:
        return "not run"
    return f"{spelled(found, 'accuracy', 1)} / {spelled(found, 'accuracy_norm', 1)}"


def spelled(found: dict, metric: str, digits: int = 2) -> str:
    if not found:
        return "not run"
    one = Estimate(found["metrics"][metric]["mean"], tuple(found["metrics"][metric]["ci95"]))
    low, high = one.ci95
    return f"{one.mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    main()
