"""The table of the study: what IDP, its controls and its rivals score, on the same test questions.

usage: analyse.py --data DIR [--recipes R ...] [--seeds 0 1 2] [--json FILE]

Every row comes from log-probabilities that `run.py` left in results/ for each single prompt: IDP
takes those of the prompt that it chooses from the question (its output is that prompt's own,
exactly), a random choice the mean over prompts of what each scores, the mean of log-probabilities
averages them before it picks, the oracle takes the best. Accuracy is the mean over nine tasks, raw
log-likelihood; a question's score is averaged over seeds first. Intervals: bootstrap over questions
within tasks (not over seeds), 95 %. Differences to IDP are of the same questions.

First it prints the smallest effect that so many questions can show.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import run
from numpy.typing import NDArray

from featherweight.tasks import load_task
from featherweight.tasks.choice import SETS

RESAMPLES = 10_000
UNCOMPRESSED = "uncompressed (itself a dequantised 4-bit file)"
LATENCY = Path(__file__).parents[2] / "benchmarks" / "results" / f"idp_latency_{run.M}.json"
INPUT = "256 tokens"
Scores = dict[str, NDArray[np.float64]]
"""By task, a number for every question: [n], or log-probabilities [m, n] of lists."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", choices=run.RECIPES, default=run.RECIPES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    answers = {task: gold(args.data, task) for task in SETS}
    found: dict[str, object] = {}
    for recipe in args.recipes:
        rows = table(args.seeds, recipe, answers)
        found[recipe] = report(recipe, rows, added(recipe, args.seeds[0]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def gold(data: Path, task: str) -> list[int]:
    """Which choice is right, in the task's order."""
    examples = load_task(task, data, split="test").examples
    return [example.choices.index(example.target or "") for example in examples]


def table(seeds: list[int], recipe: str, answers: dict[str, list[int]]) -> dict[str, Scores]:
    """Each row's score of every question, averaged over seeds."""

    def one(name: str, where: str = recipe) -> Scores:
        return right(run.read(where, name)["logprobs"], answers)

    rows = {UNCOMPRESSED: one(run.UNCOMPRESSED, ""), "compressed": one("none")}
    untrained = [right(each, answers) for each in run.read(recipe, "untrained")["logprobs"]]
    rows["untrained, oracle"] = best(untrained)
    rows["untrained, random"] = mean(untrained)
    by_seed: dict[str, list[Scores]] = {}
    for seed in seeds:
        bank = run.read(recipe, f"idp-{seed}")
        scores = [right(each, answers) for each in bank["logprobs"]]
        chosen = {
            task: np.array([scores[k][task][i] for i, k in enumerate(bank["won"][task])])
            for task in SETS
        }
        for name, values in (
            ("best single", scores[bank["val"]["best"]]),
            ("IDP", chosen),
            ("random choice", mean(scores)),
            ("mean of log-probabilities", right(averaged(bank["logprobs"]), answers)),
            ("oracle of m", best(scores)),
        ):
            by_seed.setdefault(name, []).append(values)
        for method in ("lora", "neo"):
            for rank in run.ranks(recipe, method):
                name = f"{method}, rank {rank}"
                by_seed.setdefault(name, []).append(one(f"{method}-{rank}-{seed}"))
    return rows | {name: mean(values) for name, values in by_seed.items()}


def added(recipe: str, seed: int) -> dict[str, int]:
    """Numbers that a row adds to the compressed model."""
    every = int(run.read(recipe, f"idp-{seed}")["parameters"])
    found = {"compressed": 0, "best single": every // run.M}
    for name in ("IDP", "random choice", "mean of log-probabilities", "oracle of m"):
        found[name] = every
    found |= {"untrained, oracle": every, "untrained, random": every}
    for method in ("lora", "neo"):
        for rank in run.ranks(recipe, method):
            parameters = run.read(recipe, f"{method}-{rank}-{seed}")["parameters"]
            found[f"{method}, rank {rank}"] = parameters
    return found


def latency(row: str) -> str:
    """A row's prefill of `INPUT` as a ratio to that behind one prompt, as benchmarked."""
    times = {
        one["impl"]: one for one in json.loads(LATENCY.read_text()) if one.get("case") == INPUT
    }
    impl = {
        UNCOMPRESSED: "none",
        "compressed": "none",
        "best single": "single",
        "IDP": "idp layer 0",
        "random choice": "single",
        "untrained, random": "single",
        "mean of log-probabilities": "batched",
    }
    name = "lora" if row.startswith(("lora", "neo")) else impl.get(row)
    return f"{times[name]['ratio_to_single']:.2f}" if name in times else ""


def right(found: dict[str, list[list[float]]], answers: dict[str, list[int]]) -> Scores:
    """1.0 where the likeliest choice is the right one."""
    return {
        task: np.array(
            [float(np.argmax(row) == gold) for row, gold in zip(rows, answers[task], strict=True)]
        )
        for task, rows in found.items()
    }


def averaged(each: list[dict[str, list[list[float]]]]) -> dict[str, list[list[float]]]:
    """The mean of log-probabilities over prompts."""
    found = {}
    for task in SETS:
        alike = zip(*(one[task] for one in each), strict=True)
        found[task] = [np.mean(rows, axis=0).tolist() for rows in alike]
    return found


def mean(several: list[Scores]) -> Scores:
    return {task: np.mean([one[task] for one in several], axis=0) for task in SETS}


def best(several: list[Scores]) -> Scores:
    return {task: np.max([one[task] for one in several], axis=0) for task in SETS}


def draws(rows: dict[str, Scores]) -> dict[str, NDArray[np.float64]]:
    """The mean over tasks of every row in each resample of questions: [RESAMPLES]."""
    generator = np.random.default_rng(0)
    sums = {name: np.zeros(RESAMPLES) for name in rows}
    for task in SETS:
        size = len(rows["compressed"][task])
        for block in np.array_split(np.arange(RESAMPLES), 50):
            weights = generator.multinomial(size, np.full(size, 1 / size), len(block)) / size
            for name, scores in rows.items():
                sums[name][block] += 100 * weights @ scores[task] / len(SETS)
    return sums


def report(recipe: str, rows: dict[str, Scores], numbers: dict[str, int]) -> dict[str, object]:
    drawn = draws(rows)
    against = drawn["IDP"] - drawn["best single"]
    print(f"\n{recipe}: the smallest difference to the best single prompt that this can show is "
          f"{2.8 * against.std():.2f} points (80 % power)")  # fmt: skip
    print(f"\n| row | parameters added | prefill of {INPUT}, ratio to one prompt's | accuracy | "
          "IDP minus it |\n| --- | --- | --- | --- | --- |")  # fmt: skip
    found = {}
    for name, scores in rows.items():
        accuracy = float(np.mean([100 * scores[task].mean() for task in SETS]))
        low, high = np.percentile(drawn[name], [2.5, 97.5])
        off = drawn["IDP"] - drawn[name]
        gap = float(np.mean([100 * (rows["IDP"][t] - scores[t]).mean() for t in SETS]))
        gap_low, gap_high = np.percentile(off, [2.5, 97.5])
        more = f"{numbers[name]:,}" if name in numbers else ""
        print(f"| {name} | {more} | {latency(name)} | {accuracy:.2f} [{low:.2f}, {high:.2f}] | "
              f"{gap:+.2f} [{gap_low:+.2f}, {gap_high:+.2f}] |")  # fmt: skip
        found[name] = {
            "parameters": numbers.get(name),
            "accuracy": accuracy,
            "ci95": [low, high],
            "idp_minus": gap,
            "idp_minus_ci95": [gap_low, gap_high],
        }
    return found


if __name__ == "__main__":
    main()
