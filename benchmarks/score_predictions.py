"""Score 16 systems on QMSum's 281 test queries with all statistics, against rouge-score.

usage: score_predictions.py --data DIR [--rounds 3]

DIR holds `qmsum_predictions/`. Ours: read, join, four ROUGE types, means with cluster intervals of
all 16 systems, all 120 paired comparisons with p and Holm (10,000 draws each). Theirs: Google's
rouge-score 0.1.2 for the same texts and its own BootstrapAggregator (1,000 draws, no comparisons).
Rounds alternate; each is a process of its own. Writes score_predictions.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SELF = Path(__file__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "theirs"))
    args = parser.parse_args()
    folder = args.data / "qmsum_predictions"
    if args.side:
        print(json.dumps((ours if args.side == "ours" else theirs)(folder)))
        return
    rounds = []
    for number in range(args.rounds):
        row = {}
        for side in ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours"):
            command = [sys.executable, str(SELF), "--data", str(args.data), "--side", side]
            started = time.perf_counter()
            row[side] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            row[side]["wall_with_start"] = time.perf_counter() - started
        row["ratio_cpu"] = row["theirs"]["cpu"] / row["ours"]["cpu"]
        row["ratio_wall"] = row["theirs"]["wall"] / row["ours"]["wall"]
        rounds.append(row)
        print(
            f"round {number + 1}: ours {row['ours']['wall']:.2f} s, theirs "
            f"{row['theirs']['wall']:.1f} s, {row['ratio_wall']:.0f} times",
            flush=True,
        )
    result = {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "median_ratio_cpu": statistics.median(r["ratio_cpu"] for r in rounds),
        "median_ratio_wall": statistics.median(r["ratio_wall"] for r in rounds),
        "rounds": rounds,
    }
    SELF.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"median: {result['median_ratio_wall']:.0f} times (CPU {result['median_ratio_cpu']:.0f})")


def timed(work) -> dict:
    wall, cpu = time.perf_counter(), time.process_time()
    mean = work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "rouge1": mean}


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-test.jsonl.gz"))


def ours(folder: Path) -> dict:
    import itertools

    import numpy as np

    from featherweight.evaluate.predictions import join, read_references
    from featherweight.evaluate.score import measure
    from featherweight.evaluate.statistics import estimates, holm, paired

    def work() -> float:
        joined = join(files(folder), read_references(folder / "queries.jsonl.gz"))
        tables = [measure(texts, joined.references) for texts in joined.predictions]
        means = estimates(np.hstack(tables), joined.groups)
        first, second = zip(*itertools.combinations(tables, 2), strict=True)
        holm([d.p for d in paired(np.hstack(first), np.hstack(second), joined.groups)])
        return means[0].mean

    return timed(work)


def theirs(folder: Path) -> dict:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import BootstrapAggregator

    from featherweight.evaluate.predictions import join, read_references
    from featherweight.evaluate.rouge import ROUGE
    from featherweight.evaluate.text import sentences

    joined = join(files(folder), read_references(folder / "queries.jsonl.gz"))

    def work() -> float:
        scorer = RougeScorer(list(ROUGE), use_stemmer=True)
        first = None
        for texts in joined.predictions:
            aggregator = BootstrapAggregator()
            values = []
            for text, reference in zip(texts, joined.references, strict=True):
                target, answer = ("\n".join(sentences(t)) for t in (reference.text, text))
                scores = scorer.score(target, answer)
                aggregator.add_scores(scores)
                values.append(scores["rouge1"].fmeasure)
            aggregator.aggregate()
            first = first or 100 * sum(values) / len(values)
        return first

    return timed(work)


if __name__ == "__main__":
    main()
