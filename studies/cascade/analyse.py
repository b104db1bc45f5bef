"""The tables of the study, from the answers that run.py left; nothing here trains or generates.

usage: analyse.py --data DIR --work FOLDER [--json FILE] [--plot FOLDER]

Decided before any result was seen:

- Quality is accuracy (choices) and ROUGE-1 (QMSum), both 0 to 100. The mix is all logged test
  questions together; each task is shown apart.
- The first figure is s_d on the mix, deferring by the mean log-probability. The 0.1-quantile and
  the learned rule (fitted on val answers) are shown beside it, and baselines (`baselines.py`):
  deferring the longest prompts, the longest answers, and by another router's rule.
- A task counts only where the large model is at least 5 points better than the small one tuned
  with xent (seed 0) on val; others are logged and reported, not part of the mix.
- Arms are compared seed by seed on the same questions. An interval is over questions (meetings of
  QMSum whole) and over seeds at once: each draw resamples both.
- Cost at fixed quality: the FLOPs of a question, as a share of asking the large model alone, at
  which the cascade reaches the large model's quality less one point (`BELOW`), by the mean.
- A mask's kept share is what the trainings logged: means over each quarter of the steps.
- The smallest effect that the design could detect comes first: 2.8 standard errors of the
  difference between two arms that differ in nothing but the seed.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mix
import numpy as np
import orjson
from baselines import BASELINES, by_baseline, usable
from figure import draw
from run import ARMS, WHOLE

from featherweight.cascade.curve import Curve, curve
from featherweight.cascade.curve_cost import cost_at_quality
from featherweight.cascade.curve_plot import plot
from featherweight.cascade.make import chosen, scored
from featherweight.cascade.types import Answer, Log, Metric, Row
from featherweight.errors import CascadeError

SCORES = ("mean", "quantile:0.1", "linear")
BELOW = 1.0  # points under the large model's quality at which costs are compared
MARGIN = 5.0  # points by which the large model must be better for a task to count
CONTRASTS = (
    ("cat-xent", "xent"),
    ("cat-dist", "distillation"),
    ("cat-xent", "random"),
    ("cat-xent", "small-only"),
    ("cat-xent", "large-only"),
    ("gatekeeper", "xent"),
    ("distillation", "xent"),
)
DRAWN = ("xent", "cat-xent", "cat-dist")  # more bands hide each other
METRIC = Metric("quality", 0.0, 100.0)
TASKS = mix.STUDIED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    groups = grouped(args.data)
    runs = whole_runs(args.work / "answers")
    names = [name for name in runs if name not in WHOLE]
    if not names:
        raise SystemExit("no answers yet; run run.py")
    logs = {name: log_of(args.work, name, groups) for name in names}
    kept = counted(logs[names[0] if "xent-0" not in logs else "xent-0"])
    print(f"tasks of the mix: {', '.join(kept)}\n")
    baselines, why = usable(list(logs.values()))
    if why:
        print(why, file=sys.stderr)
    found = {
        (name, score, task): judged(logs[name], score, task, kept)
        for name in names
        for score in (*SCORES, *baselines)
        for task in ("mix", *TASKS)
    }
    print(detectable(found, names), end="\n\n")
    print(arms_table(found, names, (*SCORES, *baselines)), end="\n\n")
    differences = contrasts(found, names)
    print(contrasts_table(differences), end="\n\n")
    print(costs_table(logs, kept), end="\n\n")
    print(kept_table(args.work, names), end="\n\n")
    rows = as_json(found) + differences
    if "other" in runs:
        across = log_of(args.work, "large", groups, "other")
        one = {score: judged(across, score, "mix", TASKS) for score in (*SCORES, *baselines)}
        print(across_table(across, one))
        rows += as_json({("large -> other", score, "all"): each for score, each in one.items()})
    if args.json:
        args.json.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    if args.plot:
        args.plot.mkdir(parents=True, exist_ok=True)
        shown = {f"{name}-0": found.get((f"{name}-0", "mean", "mix")) for name in DRAWN}
        plot({k: v for k, v in shown.items() if v}, args.plot / "curves.png")
        draw(rows, ARMS, args.plot / "s_d.png")


def whole_runs(folder: Path) -> list[str]:
    """The runs that answered every task of both splits; one that is under way is left out."""
    wanted = {f"{task}.{split}" for task in TASKS for split in mix.LOGGED}
    found: dict[str, set[str]] = {}
    for path in folder.glob("*.jsonl"):
        name, _, what = path.name.removesuffix(".jsonl").partition(".")
        found.setdefault(name, set()).add(what)
    return sorted(name for name, there in found.items() if wanted <= there)


def grouped(data: Path) -> dict[str, str]:
    """Question -> group: QMSum's meeting; a choice question is its own."""
    found = {}
    for split in mix.LOGGED:
        for examples in mix.logged(data, split, mix.STUDIED).values():
            found |= {e.id: e.group or e.id for e in examples}
    return found


def log_of(work: Path, name: str, groups: dict[str, str], second: str = "large") -> Log:
    """Small and large answers to the logged questions; val is for fitting, test for judging."""
    rows = []
    for task in TASKS:
        for split, kind in (("val", "fit"), ("test", "test")):
            small, large = (answers(work, one, task, split) for one in (name, second))
            for id in small:
                rows.append(Row(id, groups[id], kind, (small[id], large[id])))  # type: ignore[arg-type]
    return Log(METRIC, (name, second), tuple(rows))


def answers(work: Path, name: str, task: str, split: str) -> dict[str, Answer]:
    path = work / "answers" / f"{name}.{task}.{split}.jsonl"
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return {id: Answer(**{k: tuplify(v) for k, v in one.items()}) for id, one in rows}


def tuplify(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def of_task(log: Log, tasks: tuple[str, ...]) -> Log:
    rows = tuple(row for row in log.rows if task_of(row.id) in tasks)
    return Log(log.metric, log.models, rows)


def task_of(id: str) -> str:
    name = id.split("/")[0]
    return name if name in mix.STUDIED else "qmsum"


def counted(log: Log) -> tuple[str, ...]:
    """Tasks in which the large model is better by `MARGIN` on val."""
    found = []
    for task in TASKS:
        quality = of_task(log, (task,)).part("fit").quality()
        small, large = np.nanmean(quality, axis=0)
        print(f"{task}: small {small:.1f}, large {large:.1f} on val (n = {len(quality)})")
        if large - small >= MARGIN:
            found.append(task)
    return tuple(found)


def judged(log: Log, score: str, task: str, kept: tuple[str, ...]) -> Curve | None:
    part = of_task(log, kept if task == "mix" else (task,))
    if not part.rows:
        return None
    try:
        if score in BASELINES:
            return curve(by_baseline(score, part), ["flops"])
        return curve(scored(part.part("test"), chosen(part, [score])), ["flops"])
    except CascadeError as error:  # a score that is constant, a task without differences
        print(f"{'/'.join(log.models)}, {task}, {score}: {error}", file=sys.stderr)
        return None


Found = dict[tuple[str, str, str], Curve | None]


def seeds_of(names: list[str], arm: str) -> list[str]:
    return [name for name in names if name.rpartition("-")[0] == arm]


def drawn(found: Found, names: list[str], score: str, task: str, arm: str) -> np.ndarray:
    """s_d of each seed in each draw: [seeds, draws]."""
    curves = [found[name, score, task] for name in seeds_of(names, arm)]
    return np.stack([one.s_d.draws for one in curves if one is not None])


def gap(found: Found, names: list[str], score: str, task: str, a: str, b: str) -> tuple[float, ...]:
    """Mean difference in s_d over seeds, its interval over questions and seeds."""
    common = [
        n.rpartition("-")[2] for n in seeds_of(names, a) if f"{b}-{n.rpartition('-')[2]}" in names
    ]
    pairs = [(found[f"{a}-{s}", score, task], found[f"{b}-{s}", score, task]) for s in common]
    value = float(np.mean([x.s_d.value - y.s_d.value for x, y in pairs if x and y]))
    draws = np.stack([x.s_d.draws - y.s_d.draws for x, y in pairs if x and y])
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, len(draws), (draws.shape[1], len(draws)))
    each = draws[seeds.T, np.arange(draws.shape[1])].mean(axis=0)
    low, high = np.nanpercentile(each, [2.5, 97.5])
    return value, float(low), float(high), float(len(common))


def detectable(found: Found, names: list[str]) -> str:
    same = seeds_of(names, "xent")
    if len(same) < 2:
        return "smallest detectable effect: needs two seeds of xent"
    draws = drawn(found, names, "mean", "mix", "xent")
    error = np.nanstd(draws[0] - draws[1]) / np.sqrt(len(same))
    return (
        f"smallest detectable difference in s_d (80 % power, {len(same)} seeds): {2.8 * error:.3f}"
    )


def arms_table(found: Found, names: list[str], scores: Sequence[str]) -> str:
    lines = ["| arm | seeds | small alone | " + " | ".join(f"s_d, {s}" for s in scores) + " |"]
    lines.append("| --- " * (3 + len(scores)) + "|")
    for arm in ARMS:
        mine = seeds_of(names, arm)
        if not mine:
            continue
        first = [found[name, "mean", "mix"] for name in mine]
        cells = [f"{np.mean([one.small.value for one in first if one]):.2f}"]
        for score in scores:
            values = [one.s_d.value for name in mine if (one := found[name, score, "mix"])]
            spread = (
                f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]" if values else ""
            )
            cells.append(spread)
        lines.append(f"| {arm} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def contrasts(found: Found, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for a, b in CONTRASTS:
        for task, score in rows_of(found, names, a, b):
            value, low, high, seeds = gap(found, names, score, task, a, b)
            row = {"less": [a, b], "score": score, "task": task, "seeds": int(seeds)}
            rows.append(row | {"s_d": [value, low, high]})
    return rows


def contrasts_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| a - b | task | score | s_d | 95 % | seeds |", "| --- " * 6 + "|"]
    for row in rows:
        (a, b), (value, low, high) = row["less"], row["s_d"]
        cell = f"{value:+.3f} | [{low:+.3f}, {high:+.3f}] | {row['seeds']}"
        lines.append(f"| {a} - {b} | {row['task']} | {row['score']} | {cell} |")
    return "\n".join(lines)


def rows_of(found: Found, names: list[str], a: str, b: str) -> Iterator[tuple[str, str]]:
    common = [s for s in seeds_of(names, a) if f"{b}-{s.rpartition('-')[2]}" in names]
    if not common:
        return
    for score in SCORES:
        yield "mix", score
    for task in TASKS:
        if found[common[0], "mean", task] is not None:
            yield task, "mean"


def cost_of(log: Log, kept: tuple[str, ...]) -> tuple[float, float, float] | None:
    """FLOPs at the large model's quality less `BELOW`, as a share of its own; `None` if never."""
    part = of_task(log, kept)
    of = scored(part.part("test"), chosen(part, ["mean"]))
    flops = [float(row.stages[1].flops or np.nan) for row in of.log.rows]
    target = float(np.nanmean(of.log.quality()[:, 1])) - BELOW
    try:
        found = cost_at_quality(of, "flops", target)
    except CascadeError:
        return None
    alone = float(np.mean(flops))
    return (found.value / alone, *(edge / alone for edge in found.ci95))  # type: ignore[return-value]


def costs_table(logs: dict[str, Log], kept: tuple[str, ...]) -> str:
    head = f"FLOPs / large alone, at its quality - {BELOW:g}: value [95 %], a seed each"
    lines = [f"| arm | {head} |", "| --- | --- |"]
    for arm in ARMS:
        cells = []
        for name in seeds_of(list(logs), arm):
            found = cost_of(logs[name], kept)
            cells.append("never" if found is None else "{:.2f} [{:.2f}, {:.2f}]".format(*found))
        if cells:
            lines.append(f"| {arm} | {'; '.join(cells)} |")
    return "\n".join(lines)


def kept_table(work: Path, names: list[str]) -> str:
    """The share of tokens that a mask left, over the time of a training."""
    lines = ["| arm | kept in each quarter of the steps, % (mean over seeds) |", "| --- | --- |"]
    for arm in ARMS:
        every = []
        for name in seeds_of(names, arm):
            log = (work / "arms" / name / "log.jsonl").read_bytes().splitlines()
            rows = [row for line in log if "kept" in (row := orjson.loads(line))]
            shares = [row["kept"] for row in rows if "eval_loss" not in row]
            every.append([float(np.mean(part)) for part in np.array_split(shares, 4)])
        if every:
            cells = " ".join(f"{100 * share:.1f}" for share in np.mean(every, axis=0))
            lines.append(f"| {arm} | {cells} |")
    return "\n".join(lines)


def across_table(log: Log, found: dict[str, Curve | None]) -> str:
    """The tuned SmolLM2 in front of the other tokenizer's model, on all tasks."""
    lines = ["| across tokenizers, all tasks | small | large | s_d | 95 % |", "| --- " * 5 + "|"]
    for score, one in found.items():
        if one is not None:
            low, high = one.s_d.ci95
            figures = f"{one.small.value:.2f} | {one.large.value:.2f} | {one.s_d.value:.3f}"
            lines.append(f"| {score} | {figures} | [{low:.3f}, {high:.3f}] |")
    cost = cost_of(log, TASKS)
    told = "never" if cost is None else "{:.2f} [{:.2f}, {:.2f}]".format(*cost)
    return "\n".join([*lines, "", f"FLOPs / large alone, at its quality - {BELOW:g}: {told}"])


def as_json(found: Found) -> list[dict[str, Any]]:
    rows = []
    for (name, score, task), one in found.items():
        if one is None:
            continue
        figures = {key: getattr(one, key) for key in ("small", "large", "audc", "s_d")}
        told = {key: [value.value, *value.ci95] for key, value in figures.items()}
        rows.append({"run": name, "score": score, "task": task, **told})
    return rows


if __name__ == "__main__":
    main()
