"""The tuned model as it is shipped, on QMSum's test split, beside its base and 16 released systems.

usage: final.py --data DIR

Reads what `run.py --test` kept in `results/`; writes final.md and final.json. Comparisons have both
answers cut to 60 words (110 for whole meetings); Holm over all of them.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "qmsum"))
from baselines import our_ids, table
from rescore import FLIPS, rounded, spelled
from systems import CAP, SYSTEMS

from featherweight.evaluate.predictions import Reference, read_references
from featherweight.evaluate.score import METRICS, Cap, measure
from featherweight.evaluate.statistics import holm, paired
from featherweight.rows import read_rows

HERE = Path(__file__).parent
OURS = {"shipped": "**SmolLM2-135M tuned, as shipped**", "untuned": "SmolLM2-135M-Instruct"}
INPUTS = ("located", "gold")
COMPARED = ("rouge1", "rougeLsum")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    folder = args.data / "qmsum_predictions"
    references = read_references(folder / "queries.jsonl.gz")
    systems = {
        system.name: {
            row.key("query_id"): row.text("prediction")
            for row in read_rows(folder / f"{system.file}-test.jsonl.gz")
        }
        for system in SYSTEMS
    }
    names = our_ids(folder / "queries.jsonl.gz")
    costs = {}
    for arm, called in OURS.items():
        for read in INPUTS:
            rows = read_rows(HERE / "results" / f"test-{arm}-{read}.jsonl.gz")
            name = f"{called}, {read}"
            systems[name] = {names[row.key("id")]: row.text("prediction") for row in rows}
            told = json.loads((HERE / "results" / f"test-{arm}-{read}.json").read_text())
            costs[name] = told["cost_per_item"]
    everything = list(references)
    specific = [name for name in references if not references[name].general]
    result = {
        "all 281 queries": table(systems, references, everything),
        "the 244 specific queries": table(systems, references, specific),
        "differences": [
            *differences(systems, references, everything, "located"),
            *differences(systems, references, specific, "gold"),
        ],
        "cost_per_item": costs,
    }
    for row, p in zip(
        result["differences"], holm([row["p"] for row in result["differences"]]), strict=True
    ):
        row["p_holm"] = float(p)
    (HERE / "final.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
    page = markdown(result)
    (HERE / "final.md").write_text(page)
    print(page)


def differences(
    systems: dict[str, dict[str, str]], references: dict[str, Reference], ids: list[str], read: str
) -> list[dict]:
    """The shipped model minus each large one and minus its base, everybody's answers cut."""
    cap, of = Cap.parse(CAP), [references[name] for name in ids]
    ours = f"{OURS['shipped']}, {read}"
    others = [system.name for system in SYSTEMS if system.large] + [f"{OURS['untuned']}, {read}"]
    columns = [METRICS.index(metric) for metric in COMPARED]

    def scores(name: str) -> np.ndarray:
        texts = [cap(systems[name][i], r.general) for i, r in zip(ids, of, strict=True)]
        return measure(texts, of)[:, columns]

    first = np.hstack([scores(ours)] * len(others))
    second = np.hstack([scores(name) for name in others])
    found = iter(paired(first, second, [reference.group for reference in of], FLIPS))
    return [
        {"read": read, "n": len(ids), "b": name, "metric": metric,
         "diff": (d := next(found)).diff, "ci95": d.ci95, "p": d.p}
        for name in others
        for metric in COMPARED
    ]  # fmt: skip


def markdown(result) -> str:
    lines = [
        "Percent points [95 % interval: cluster bootstrap over 35 meetings, 10,000 draws, seed 0]. "
        "Cut: to 60 words, 110 for whole meetings.",
        "",
    ]
    for title in ("all 281 queries", "the 244 specific queries"):
        lines += [f"### {title.capitalize()}", ""]
        lines += ["| system | R1 | R2 | RLsum | words | R1 cut | RLsum cut |", "| --- " * 7 + "|"]
        ranked = sorted(result[title].items(), key=lambda item: -item[1]["cut"]["rouge1"]["mean"])
        for name, found in ranked:
            cells = [spelled(found[m]) for m in ("rouge1", "rouge2", "rougeLsum")]
            cells += [f"{found['words']['mean']:.0f}"]
            cells += [spelled(found["cut"][m]) for m in COMPARED]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["### The shipped model minus", "", "Both cut; p: 100,000 sign flips of meetings, "
              "after Holm over the table.", ""]  # fmt: skip
    lines += ["| reads | minus | R1 | RLsum |", "| --- " * 4 + "|"]
    rows = result["differences"]
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        cells = [
            f"{d['diff']:+.2f} [{d['ci95'][0]:+.2f}, {d['ci95'][1]:+.2f}], p {d['p_holm']:.2g}"
            for d in (one, two)
        ]
        lines.append(f"| {one['read']} ({one['n']}) | {one['b']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
