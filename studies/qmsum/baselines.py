"""Where we start: zero-shot compact models and lead baselines beside the 16 released systems.

usage: baselines.py --data DIR [--runs DIR ...] [--output FOLDER]

Each run is a finished folder of `featherweight eval --task qmsum --split test` (see README.md for
the commands); what is needed of it is copied to `runs/`, and without --runs those copies are read.
Writes baselines.json, baselines.md and quality-cost.png/.svg. Gold spans exist for the 244 specific
queries only, so there are two tables: all 281, and those 244.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from rescore import rounded, spelled
from systems import CAP, SYSTEMS

from featherweight.evaluate.predictions import Reference, read_references
from featherweight.evaluate.score import METRICS, Cap, measure
from featherweight.evaluate.statistics import estimates
from featherweight.evaluate.tradeoff import System as Point
from featherweight.evaluate.tradeoff import markdown as tradeoff_table
from featherweight.evaluate.tradeoff import plot
from featherweight.retrieve import BM25Locator
from featherweight.rows import read_rows
from featherweight.tasks.qmsum import WORDS, Input, qmsum

HERE = Path(__file__).parent
KEPT = ("id", "prediction", "finish_reason", "prompt_tokens", "completion_tokens", "seconds")
MODELS = {  # run's name before "-": how the table calls it
    "smollm2": "SmolLM2-135M-Instruct, Q4_1 GGUF, 0-shot",
    "qwen": "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M GGUF, 0-shot",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args()
    for run in args.runs:
        keep(run)
    folder = args.data / "qmsum_predictions"
    references = read_references(folder / "queries.jsonl.gz")
    names = our_ids(folder / "queries.jsonl.gz")
    systems: dict[str, dict[str, str]] = {}
    for released in SYSTEMS:
        rows = read_rows(folder / f"{released.file}-test.jsonl.gz")
        systems[released.name] = {row.key("query_id"): row.text("prediction") for row in rows}
    systems |= {name: lead(args.data, kind, names) for name, kind in LEADS.items()}
    costs = {}
    for run in sorted((HERE / "runs").glob("*.manifest.json")):
        title = run.name.removesuffix(".manifest.json")
        model, _, input = title.partition("-")
        name = f"{MODELS[model]}, {input}"
        systems[name] = {names[row["id"]]: row["prediction"] for row in predictions(title)}
        costs[name] = json.loads(run.read_text())
    everything = list(references)
    specific = [name for name in references if not references[name].general]
    result = {
        "all 281 queries": table(systems, references, everything),
        "the 244 specific queries": table(systems, references, specific),
        "cost": {name: cost(found) for name, found in costs.items()},
    }
    (args.output / "baselines.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
    page = markdown(result)
    (args.output / "baselines.md").write_text(page)
    print(page)
    draw(result, args.output)


LEADS: dict[str, Input] = {
    "first 60/110 words of the meeting": "full",
    "first 60/110 words of the located windows": "located",
    "first 60 words of the gold spans": "gold",
}


def lead(data: Path, kind: Input, names: dict[str, str]) -> dict[str, str]:
    """The beginning of what a model would read, speakers' names left out."""
    found = {}
    # gold spans whole: a budget would cut long ones before their beginning is taken
    words = 10**6 if kind == "gold" else WORDS
    # the runs read what BM25 found
    locator = BM25Locator() if kind == "located" else None
    for example in qmsum(data, "test", kind, words, locator=locator).examples:
        turns = example.prompt[0]["content"].split("\n\n")[1].split("\n")
        text = " ".join(turn.partition(": ")[2] for turn in turns)
        found[names[example.id]] = Cap.parse(CAP)(text, example.meta["general"])
    return found


def our_ids(path: Path) -> dict[str, str]:
    """MEETING/s3 to test_0_s3: the released files number meetings, we name them."""
    found = {}
    for row in read_rows(path):
        query = row.key("query_id")
        found[f"{row.key('meeting_id')}/{query.rsplit('_', 1)[1]}"] = query
    return found


def keep(run: Path) -> None:
    """Copy a finished run, as small as it can be."""
    manifest = json.loads((run / "manifest.json").read_text())
    if "metrics" not in manifest or manifest["missing"]:
        sys.exit(f"{run} is not finished")
    (HERE / "runs").mkdir(exist_ok=True)
    (HERE / "runs" / f"{run.name}.manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    lines = []
    for row in sorted(read_rows(run / "predictions.jsonl"), key=lambda row: row.key("id")):
        lines.append(json.dumps({name: row.data[name] for name in KEPT}) + "\n")
    packed = gzip.compress("".join(lines).encode(), mtime=0)
    (HERE / "runs" / f"{run.name}.jsonl.gz").write_bytes(packed)


def predictions(title: str) -> list[dict]:
    return [dict(row.data) for row in read_rows(HERE / "runs" / f"{title}.jsonl.gz")]


def table(systems, references: dict[str, Reference], ids: list[str]) -> dict:
    """Every system that answered all of `ids`: as it is and cut."""
    cap, found = Cap.parse(CAP), {}
    of = [references[name] for name in ids]
    groups = [reference.group for reference in of]
    for name, answers in systems.items():
        if not all(i in answers for i in ids):
            continue
        texts = [answers[i] for i in ids]
        cut = [cap(text, reference.general) for text, reference in zip(texts, of, strict=True)]
        both = np.hstack([measure(texts, of), measure(cut, of)])
        values = [{"mean": e.mean, "ci95": e.ci95} for e in estimates(both, groups)]
        found[name] = {
            **dict(zip(METRICS, values, strict=False)),
            "cut": dict(zip(METRICS, values[len(METRICS) :], strict=True)),
        }
    return found


def cost(manifest) -> dict:
    spent, each = manifest["cost"], manifest["cost_per_item"]
    return {
        "model": manifest["run"]["model"],
        "words": manifest["run"]["settings"]["words"],
        "seconds_per_query": each["seconds"],
        **{k: v for k, v in spent.items() if k != "n"},
    }


def markdown(result) -> str:
    lines = [
        "Percent points [95 % interval: cluster bootstrap over 35 meetings, 10,000 draws, seed 0]. "
        "Cut: to 60 words, 110 for whole meetings. Seconds a query: measured, two shared cores.",
        "",
    ]
    for title in ("all 281 queries", "the 244 specific queries"):
        lines += [f"### {title.capitalize()}", ""]
        lines += ["| system | R1 | R2 | RL | RLsum | words | R1 cut | RLsum cut | s a query |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
        ranked = sorted(result[title].items(), key=lambda item: -item[1]["rouge1"]["mean"])
        for name, found in ranked:
            spent = result["cost"].get(name)
            seconds = f"{spent['seconds_per_query']['mean']:.1f}" if spent else "not measured"
            cells = [spelled(found[m]) for m in METRICS[:4]] + [f"{found['words']['mean']:.0f}"]
            cells += [spelled(found["cut"][m]) for m in ("rouge1", "rougeLsum")]
            lines.append(f"| {name} | {' | '.join(cells)} | {seconds} |")
        lines.append("")
    return "\n".join(lines)


def draw(result, folder: Path) -> None:
    """Quality against measured seconds; whose cost nobody measured stands at the edge."""
    points = []
    large = {system.name for system in SYSTEMS if system.large}
    for name, found in result["all 281 queries"].items():
        spent = result["cost"].get(name)
        seconds = spent["seconds_per_query"] if spent else {}
        points.append(
            Point(
                name=name,
                quality=found["rougeLsum"]["mean"],
                quality_ci95=tuple(found["rougeLsum"]["ci95"]),
                cost=seconds.get("mean"),
                cost_ci95=tuple(seconds["ci95"]) if "ci95" in seconds else None,
                family="large" if name in large else "ours" if spent else "compact or lead",
            )
        )
    labels = {"quality_label": "ROUGE-Lsum, QMSum test", "cost_label": "seconds a query, two cores"}
    title = "QMSum test, 281 queries: quality against cost"
    for suffix in (".png", ".svg"):
        plot(points, folder / f"quality-cost{suffix}", title=title, **labels)
    (folder / "quality-cost.md").write_text(tradeoff_table(points, **labels))


if __name__ == "__main__":
    main()
