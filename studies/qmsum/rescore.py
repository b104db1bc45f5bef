"""The scorer is right: 12 released systems score to their published digits; then compare all 16.

usage: rescore.py --data DIR [--output FOLDER]

DIR holds `qmsum_predictions/` (see systems.py). Writes rescored.json and rescored.md: means with
intervals over meetings, the same with answers cut to 60 words (110 for whole meetings), the 37
whole-meeting queries, and every compact system against every large one, Holm over each table.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from systems import CAP, SYSTEMS

from featherweight.evaluate.predictions import join, read_references
from featherweight.evaluate.score import METRICS, Cap, measure
from featherweight.evaluate.statistics import estimates, holm, paired

ROUGE = METRICS[:4]
RELEASED, CUT = "as released", "cut to 60/110 words"
FLIPS = 100_000  # p of one of 220 comparisons, times 220, must still be able to be small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    folder = args.data / "qmsum_predictions"
    references = read_references(folder / "queries.jsonl.gz")
    joined = join([folder / f"{s.file}-test.jsonl.gz" for s in SYSTEMS], references)
    cap = Cap.parse(CAP)
    tables = {
        RELEASED: [measure(texts, joined.references) for texts in joined.predictions],
        CUT: [
            measure(
                [cap(t, r.general) for t, r in zip(texts, joined.references, strict=True)],
                joined.references,
            )
            for texts in joined.predictions
        ],
    }
    general = np.array([r.general for r in joined.references])
    groups = np.array(joined.groups)
    result = {
        "n": len(groups),
        "groups": len(set(groups)),
        "seed": 0,
        "tables": {
            title: {
                which: means(table, groups, rows)
                for which, rows in (("all", np.ones_like(general)), ("whole meeting", general))
            }
            for title, table in tables.items()
        },
        "comparisons": {
            title: {
                "all": comparisons(tables[a], tables[b], groups, np.ones_like(general)),
                "whole meeting": comparisons(tables[a], tables[b], groups, general),
            }
            for title, a, b in (
                ("as released", RELEASED, RELEASED),
                ("both cut", CUT, CUT),
                ("large cut", RELEASED, CUT),
            )
        },
        "published": published(tables[RELEASED]),
    }
    (args.output / "rescored.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
    page = markdown(result)
    (args.output / "rescored.md").write_text(page)
    print(page)
    if wrong := [row for row in result["published"] if not row["equal"]]:
        sys.exit(f"not equal to what was published: {wrong}")


def means(tables, groups, rows) -> dict:
    """System to metric to mean and interval, over the items `rows`."""
    stacked = np.concatenate([table[rows] for table in tables], axis=1)
    found = iter(estimates(stacked, groups[rows]))
    return {
        s.name: {m: {"mean": (e := next(found)).mean, "ci95": e.ci95} for m in METRICS}
        for s in SYSTEMS
    }


def comparisons(compact, large, groups, rows) -> list[dict]:
    """Every compact system minus every large one; Holm over all of them and the four ROUGEs."""
    pairs = [
        (i, j)
        for i, a in enumerate(SYSTEMS)
        for j, b in enumerate(SYSTEMS)
        if b.large and not a.large
    ]
    first = np.hstack([compact[i][rows, : len(ROUGE)] for i, _ in pairs])
    second = np.hstack([large[j][rows, : len(ROUGE)] for _, j in pairs])
    differences = iter(paired(first, second, groups[rows], FLIPS))
    found = []
    for i, j in pairs:
        names = {"a": SYSTEMS[i].name, "b": SYSTEMS[j].name}
        for metric in ROUGE:
            d = next(differences)
            found.append({**names, "metric": metric, "diff": d.diff, "ci95": d.ci95, "p": d.p})
    for row, p in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = float(p)
    return found


def published(tables) -> list[dict]:
    """Our figures beside the published ones, and whether every printed digit is equal."""
    found = []
    for system, table in zip(SYSTEMS, tables, strict=True):
        ours = [round(float(v), 2) for v in table.mean(axis=0)[:4]]
        equal = all(p is None or p == o for p, o in zip(system.published, ours, strict=True))
        found.append(
            {"system": system.name, "published": system.published, "ours": ours, "equal": equal}
        )
    return found


def markdown(result) -> str:
    lines = [
        f"n {result['n']} queries of {result['groups']} meetings; percent points; intervals: "
        "cluster bootstrap over meetings, 10,000 draws (differences: 100,000); p: 100,000 sign "
        "flips of meetings; seed 0.",
        "",
    ]
    for title, by_rows in result["tables"].items():
        for which, systems in by_rows.items():
            lines += [f"### {title.capitalize()}, {which if which != 'all' else 'all queries'}", ""]
            lines += [
                "| system | R1 | R2 | RL | RLsum | words |",
                "| --- | --- | --- | --- | --- | --- |",
            ]
            for name, metrics in sorted(systems.items(), key=lambda s: -s[1]["rouge1"]["mean"]):
                cells = [spelled(metrics[m]) for m in ROUGE]
                lines.append(f"| {name} | {' | '.join(cells)} | {metrics['words']['mean']:.0f} |")
            lines.append("")
    lines += [
        "### Compact minus large, ROUGE-1",
        "",
        "p is adjusted (Holm) over the 220 comparisons of a column: 11 x 5 pairs, four ROUGEs. "
        "Cut: both to 60 words, 110 for whole meetings. Large cut: the compact one as released.",
        "",
        "| compact | large | all, as released | all, cut | all, large cut "
        "| whole, as released | whole, cut |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = result["comparisons"]
    columns = [
        found["as released"]["all"],
        found["both cut"]["all"],
        found["large cut"]["all"],
        found["as released"]["whole meeting"],
        found["both cut"]["whole meeting"],
    ]
    for row in zip(*columns, strict=True):
        if row[0]["metric"] == "rouge1":
            cells = " | ".join(map(cell, row))
            lines.append(f"| {row[0]['a']} | {row[0]['b']} | {cells} |")
    return "\n".join(lines) + "\n"


def rounded(value):
    """Six digits after the point are enough to repeat a table."""
    if isinstance(value, dict):
        return {name: rounded(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return round(value, 6) if isinstance(value, float) else value


def spelled(metric) -> str:
    low, high = metric["ci95"]
    return f"{metric['mean']:.2f} [{low:.2f}, {high:.2f}]"


def cell(row) -> str:
    low, high = row["ci95"]
    return f"{row['diff']:+.2f} [{low:+.2f}, {high:+.2f}] p {row['p_holm']:.3f}"


if __name__ == "__main__":
    main()
