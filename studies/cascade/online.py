"""Does a cascade that learns from the stream pay? Replays logs in five orders, one with a shift.

usage: online.py --data DIR --out FOLDER --log LOG [LOG ...] [--price 0.05 0.1 ...] [--cost flops]

LOG is what `featherweight cascade log` wrote, one a task (CREAK, StrategyQA, PubMedQA, BioASQ, by
generation), in the order in which the domains come in the shift: all of the first log, then all of
the second. The other four orders are shuffles of all logs together. No model runs.

For each price: the learner, and what it is compared with (see `columns` in the table). FOLDER gets
online.json, with the curves of every order, and online.md.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.cascade.closed import agreement
from featherweight.cascade.events import STUDENT
from featherweight.cascade.hindsight import Fixed, always, best_fixed, from_first
from featherweight.cascade.log import read_log
from featherweight.cascade.make import read_logs
from featherweight.cascade.online import Learner, Settings
from featherweight.cascade.replay import Replay, Stream, replay, stream
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.types import Log
from featherweight.errors import CascadeError, DataError
from featherweight.tasks import TASKS, Example, load_task

SHUFFLES = 4
FIRST = 100  # questions that a fixed threshold is chosen on, all of them asked of both
PRICES = (0.02, 0.05, 0.1, 0.2, 0.4)
OTHERS = ("mean", "sum", "min", "quantile:0.1", "quantile:0.5", "length")
Numbers = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path, nargs="+", required=True)
    parser.add_argument("--price", type=float, nargs="+", default=PRICES)
    parser.add_argument("--score", default="mean")
    parser.add_argument("--cost", choices=("flops", "seconds", "usd"), default="flops")
    args = parser.parse_args()
    found, domains = streamed(args.log, args.data, args.score, args.cost)
    result = study(found, domains, args.price, args.score)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "online.json").write_text(json.dumps(result) + "\n")
    page = markdown(result)
    (args.out / "online.md").write_text(page)
    print(page)


def streamed(logs: Sequence[Path], data: Path, score: str, cost: Any) -> tuple[Stream, list[str]]:
    """All logs as one stream, and the task of every row."""
    examples: dict[str, Example] = {}
    domains = []
    for path in logs:
        log = read_log(path)
        asked = examples_of(log, path, data)
        examples |= asked
        domains += [str(log.extra["task"])] * len(log.rows)
    joined = read_logs(logs)
    scores = [Score.parse(score)] * (len(joined.models) - 1)
    return stream(joined, examples, scores, cost), domains


def examples_of(log: Log, path: Path, data: Path) -> dict[str, Example]:
    """The questions that a log is about, by the task and the settings in its header."""
    name, settings = log.extra.get("task"), log.extra.get("settings")
    if not isinstance(name, str) or not isinstance(settings, dict):
        raise CascadeError(f"{path}: its header names no task; log it with `cascade log`.")
    if name in TASKS:
        task = load_task(name, data, split=settings.get("split"), how=settings.get("how"))
        key = "data_sha256"
    else:
        task = load_task(str(data / name), how=settings.get("how"))
        key = "sha256"
    if settings.get(key) != task.settings.get(key):
        raise DataError(f"{data}: {name} is not the data that {path} was made of; get that back.")
    return {example.id: example for example in task.examples}


def orders(domains: Sequence[str]) -> dict[str, list[int]]:
    """Four shuffles; and domain after domain, each shuffled."""
    n = len(domains)
    found = {
        f"shuffle {seed}": np.random.default_rng(seed).permutation(n).tolist()
        for seed in range(SHUFFLES)
    }
    place = {name: number for number, name in enumerate(dict.fromkeys(domains))}
    mixed = np.random.default_rng(SHUFFLES).permutation(n)
    shift = mixed[np.argsort([place[domains[row]] for row in mixed], kind="stable")]
    return {**found, "shift": shift.tolist()}


def study(
    found: Stream, domains: Sequence[str], prices: Sequence[float], score: str
) -> dict[str, Any]:
    """All numbers, as plain data."""
    small, *_, large = models = [Path(name).name for name in found.log.models]
    others = {score: found.scores, **tables(found)}
    result: dict[str, Any] = {
        "models": models,
        "metric": found.log.metric.name,
        "score": score,
        "cost": found.kind,
        "mean_cost": [float(value) for value in found.cost.mean(axis=0)],
        "quality": [100 * float(value) for value in found.quality.mean(axis=0)],
        "agreement": [100 * float(value) for value in found.agreement.mean(axis=0)],
        "n": {name: list(domains).count(name) for name in dict.fromkeys(domains)},
        "log_sha256": found.log.sha256,
        "prices": {},
    }
    for price in prices:
        best = best_fixed(found, price)
        same: dict[str, Fixed] = {
            f"always {small}": always(found, price, 0),
            f"always {large}": always(found, price, len(models) - 1),
            "each task's commonest answer, for nothing": commonest(found, domains),
            f"best fixed threshold in hindsight ({score})": best,
            "best fixed score and threshold in hindsight": best_fixed(found, price, others),
        }
        systems: dict[str, dict[str, Numbers]] = {}
        curves = {}
        for seed, (order, rows) in enumerate(orders(domains).items()):
            run = replay(found, Learner(len(models), Settings(price, seed=seed)), rows)
            systems.setdefault("learner", {})[order] = of_learner(run, best)
            name = f"threshold from the first {FIRST}"
            first = from_first(found, price, rows, FIRST)
            systems.setdefault(name, {})[order] = of_fixed(found, first, best)
            for name, one in same.items():
                systems.setdefault(name, {})[order] = of_fixed(found, one, best)
            curves[order] = run.curve(best)
        chosen = same["best fixed score and threshold in hindsight"].name
        result["prices"][str(price)] = {
            "systems": systems,
            "curves": curves,
            "best_score": chosen,
            "best_threshold": [finite(value) for value in best.thresholds],
        }
    return result


def commonest(found: Stream, domains: Sequence[str]) -> Fixed:
    """What a model of the words could know without reading them; of the truth, in hindsight."""
    targets = [example.target for example in found.examples]
    answers = {
        name: Counter(t for t, domain in zip(targets, domains, strict=True) if domain == name)
        for name in dict.fromkeys(domains)
    }
    said = [answers[domain].most_common(1)[0][0] for domain in domains]
    right = np.array([text == target for text, target in zip(said, targets, strict=True)], float)
    large = [row.stages[-1].text for row in found.log.rows]
    choices = [example.choices for example in found.examples]
    agreed = np.array([agreement(*one) for one in zip(said, large, choices, strict=True)])
    return Fixed("commonest", (), right, agreed, np.zeros(len(right)), right)


def finite(value: float) -> float | str:
    """JSON knows no infinity."""
    return value if np.isfinite(value) else str(value)


def tables(found: Stream) -> dict[str, Any]:
    """Further scores of every stage but the last; -inf where the stream's own says so."""
    result = {}
    for name in OTHERS:
        columns = []
        for stage in range(found.scores.shape[1]):
            there = np.flatnonzero(np.isfinite(found.scores[:, stage]))
            answers = [found.log.rows[row].stages[stage] for row in there]
            column = np.full(len(found.scores), -np.inf)
            column[there] = score_answers(Score.parse(name), answers)
            columns.append(column)
        result[name] = np.column_stack(columns)
    return result


def of_learner(run: Replay, best: Fixed) -> Numbers:
    regret = run.regret(best)
    half = len(regret) // 2
    return {
        "quality": 100 * float(run.quality.mean()),
        "agreement": 100 * float(run.agreement.mean()),
        "cost": 100 * float(run.cost.mean()) / run.stream.unit,
        "asked_last": 100 * float(run.asked[:, -1].mean()),
        "student": 100 * float((run.level == STUDENT).mean()),
        "explored": 100 * float(run.explored.mean()),
        "regret": float(regret[-1]),
        "regret_per_100": 100 * float(regret[-1]) / len(regret),
        "regret_per_100_second_half": 100 * float(regret[-1] - regret[half - 1])
        / (len(regret) - half),
        "unjudged": float(run.unjudged),
    }  # fmt: skip


def of_fixed(found: Stream, one: Fixed, best: Fixed) -> Numbers:
    """The same in every order, unless the order chose it."""
    regret = float(best.value.sum() - one.value.sum())
    return {
        "quality": 100 * float(one.quality.mean()),
        "agreement": 100 * float(one.agreement.mean()),
        "cost": 100 * float(one.cost.mean()) / found.unit,
        "regret": regret,
        "regret_per_100": 100 * regret / len(one.value),
    }


COLUMNS: dict[str, Callable[[str], str]] = {
    "quality": lambda metric: metric,
    "cost": lambda _: "cost, % of always large",
    "asked_last": lambda _: "large asked, %",
    "student": lambda _: "words answer, %",
    "regret_per_100": lambda _: "regret per 100 requests",
    "regret_per_100_second_half": lambda _: "second half",
}


def markdown(result: dict[str, Any]) -> str:
    """A table for each price: mean and standard deviation of four shuffles | the shift."""
    small, *_, large = result["models"]
    many = ", ".join(f"{name} {n}" for name, n in result["n"].items())
    lines = [
        "# Online learning over a stream",
        "",
        f"{small}, then {large}, on {sum(result['n'].values())} questions ({many}); cost is "
        f"{result['cost']}. Alone they have {result['quality'][0]:.1f} and "
        f"{result['quality'][-1]:.1f} {result['metric']}, agree on {result['agreement'][0]:.1f} %, "
        f"and an answer of the first costs {result['mean_cost'][0] / result['mean_cost'][-1]:.1%} "
        "of one of the last.",
        "",
        "Each cell: mean ± standard deviation over four shuffles of all questions | the order with "
        "the domain shift (one task after the other, as listed). Regret is in right answers, "
        "against the best fixed threshold in hindsight, which knows the whole stream and every "
        "quality; below 0 is better than it. The learner knows only what the large model said "
        "where it was asked. The warm-up is included.",
    ]
    for price, part in result["prices"].items():
        lines += [
            "",
            f"## Price {price}: an answer of the large model is worth {100 * float(price):g} "
            "right answers of 100",
            "",
            "| | " + " | ".join(name(result["metric"]) for name in COLUMNS.values()) + " |",
            "| --- |" + " --- |" * len(COLUMNS),
        ]
        for name, by_order in part["systems"].items():
            shown = f"{name}: {part['best_score']}" if "score and" in name else name
            cells = [cell(by_order, column) for column in COLUMNS]
            lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(by_order: dict[str, Numbers], column: str) -> str:
    if column not in by_order["shift"]:
        return ""
    *shuffles, shift = (numbers[column] for numbers in by_order.values())
    spread = float(np.std(shuffles, ddof=1))
    if spread < 1e-9 and abs(shift - shuffles[0]) < 1e-9:
        return f"{shift:.1f}"
    return f"{np.mean(shuffles):.1f} ± {spread:.1f} | {shift:.1f}".replace("|", "\\|")


if __name__ == "__main__":
    main()
