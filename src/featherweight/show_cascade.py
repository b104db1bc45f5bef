"""What the commands of a cascade print."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from featherweight.cascade.calibration import Calibration
from featherweight.cascade.draws import Figure
from featherweight.cascade.events import STUDENT, Audit
from featherweight.cascade.judge import Judged
from featherweight.cascade.rule import DeferralRule
from featherweight.cascade.types import SPLITS, Log, Threshold
from featherweight.evaluate.statistics import Estimate
from featherweight.show_eval import FEW, NAMES, eval_progress
from featherweight.transcript.text import printable

LABELS = {
    "small": "small alone",
    "large": "large alone",
    "audc": "area",
    "audc_random": "area, passed on at random",
    "audc_oracle": "area, by an oracle",
    "s_d": "s_d",
    "auroc": "AUROC",
    "ece": "ECE",
    "quality_at": "quality there",
    "cost_at": "cost there",
}
"""s_d is 0 for random deferral and 1 for the oracle's."""


@contextmanager
def log_progress() -> Iterator[Callable[[str], Callable[[int, int], None] | None]]:
    """A bar for each stage in turn."""
    with _Bars() as bars:
        yield bars


class _Bars:
    """`eval_progress` of one stage after another."""

    def __init__(self) -> None:
        self._open: object = None

    def __enter__(self) -> "_Bars":
        return self

    def __call__(self, spec: str) -> Callable[[int, int], None] | None:
        self._close()
        self._open = eval_progress(spec)
        return self._open.__enter__()

    def _close(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)  # type: ignore[attr-defined]
            self._open = None

    def __exit__(self, *_: object) -> None:
        self._close()


def print_log(console: Console, log: Log, path: Path) -> None:
    """Each stage's mean quality and cost, and where rows went."""
    name = NAMES.get(log.metric.name, log.metric.name)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("stage", name, "seconds", "FLOPs", "US dollars", "failed"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, model in enumerate(log.models):
        answers = [row.stages[stage] for row in log.rows]
        judged = [a.quality for a in answers if a.quality is not None]
        known = [a for a in answers if a.error is None]
        table.add_row(
            printable(model),
            f"{sum(judged) / len(judged):.2f}" if judged else "",
            _mean([a.seconds for a in known], "{:.3g}"),
            _mean([a.flops for a in known], "{:.3g}"),
            _mean([a.usd for a in known], "${:.3g}"),
            str(len(answers) - len(known)) if len(known) < len(answers) else "",
        )
    console.print(table)
    counts = [f"{len(part.rows)} {split}" for split in SPLITS if (part := log.part(split)).rows]
    groups = len(set(log.groups()))
    console.print(
        Text(f"n = {len(log.rows)} questions in {groups} groups: {', '.join(counts)}", style="dim")
    )
    console.print(Text(f"wrote {path}", style="dim"), soft_wrap=True)


def _mean(values: list[float | None] | list[float], form: str) -> str:
    if not values or any(value is None for value in values):
        return ""
    return form.format(sum(value for value in values if value is not None) / len(values))


def print_calibration(
    console: Console, rule: DeferralRule, calibration: Calibration, folder: Path
) -> None:
    """What is promised, at which thresholds, and what they did on the rows used."""
    promise, done = calibration.promise, calibration.realised
    metric = rule.metric.name
    console.print(Text(_promised(promise, metric), style="bold"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for number, stage in enumerate(rule.stages[:-1]):
        threshold = calibration.thresholds[number]
        name = str(stage.score) if not hasattr(stage.score, "predict") else "learned score"
        table.add_row(
            Text(printable(stage.model), style="dim"),
            f"trusted where {name} is {_trusted(threshold)}",
            f"passes on {_percent(done.deferral[number])}",
        )
        if promise["groups"] != promise["n"]:
            table.add_row(
                "", "", f"          {_percent(done.deferral_of_groups[number])} over groups"
            )
    table.add_row(Text("quality", style="dim"), _interval(done.quality), f"mean {metric}")
    table.add_row(Text("  first stage alone", style="dim"), _interval(done.quality_first), "")
    table.add_row(Text("  last stage alone", style="dim"), _interval(done.quality_last), "")
    table.add_row(
        Text("worse than the last", style="dim"), _interval(done.drop_of_groups), "over groups"
    )
    if promise["groups"] != promise["n"]:
        table.add_row("", _interval(done.drop), "over questions")
    console.print(table)
    note = f"on the {promise['n']} questions in {promise['groups']} groups that it was set on"
    if promise["groups"] < FEW:
        note += "; intervals too narrow over so few groups"
    console.print(Text(note, style="dim"))
    if not done.deferral[0].mean:
        console.print(Text("the first stage answers all of them: no other was asked", style="dim"))
    reached = [1.0, *(share.mean for share in done.deferral)]
    for number, stage in enumerate(rule.stages[:-1]):
        if 0 < reached[number] <= reached[number + 1]:
            note = f"{printable(stage.model)} answers none of them: it costs and gave nothing here"
            console.print(Text(note, style="dim"))
    for model in promise.get("left_out", ()):
        note = f"{printable(model)} is left out: it would answer nothing at this target"
        console.print(Text(note, style="dim"))
    if promise.get("ties") == "id":
        note = "the log has no prompt_sha256, so a cascade breaks ties of its questions otherwise"
        console.print(Text(note, style="dim"))
    console.print(Text(f"use it with --model cascade:{folder}", style="dim"), soft_wrap=True)


def _trusted(threshold: Threshold) -> str:
    """From where on; scores that are whole numbers or steps often lie exactly there."""
    value = f"{threshold.value:.5g}"
    if not threshold.tie:
        return f"{value} or more"
    return f"above {value}, and of those at it {1 - threshold.tie:.0%}"


def _promised(promise: dict[str, object], metric: str) -> str:
    if promise["kind"] == "quality":
        sure = f"{1 - float(promise['delta']):.10g}"  # type: ignore[arg-type]
        return (
            f"at most {promise['epsilon']:g} {metric} worse than the last stage on average over "
            f"groups, each counted alike, with {sure} confidence"
        )
    if promise["kind"] == "budget":
        shares = " and ".join(f"{share:.1%}" for share in promise["budget"])  # type: ignore[attr-defined]
        return f"at most {shares} of a new group's questions are passed on, on average over groups"
    mean = Estimate(promise["mean"], promise["ci95"])  # type: ignore[arg-type]
    return (
        f"a mean of {_interval(mean, '{:.4g}')} {promise['cost']} a question here; "
        "nothing is promised about others"
    )


def print_curves(console: Console, judged: Judged) -> None:
    """What there is to win, then a line for each score."""
    some = next(iter(judged.figures.values()))
    shared = [key for key in ("small", "large", "audc_random", "audc_oracle") if key in some]
    bounds = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for key in shared:
        bounds.add_row(Text(LABELS[key], style="dim"), _interval(_estimate(some[key])))
    console.print(bounds)
    hidden = {"audc"} if "s_d" in some else set()  # the same, not scaled; in JSON
    there = {key for figures in judged.figures.values() for key in figures}
    columns = [key for key in LABELS if key in there - {*shared} - hidden]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("score", *(LABELS[key] for key in columns)):
        table.add_column(title)
    if judged.against:
        table.add_column(f"{'s_d' if 's_d' in some else 'area'} less the first's")
    for name, figures in judged.figures.items():
        cells = [
            _interval(_estimate(figures[k]), _form(k)) if k in figures else "" for k in columns
        ]
        if judged.against:
            one = judged.against.get(name)
            cells.append("" if one is None else _interval(one, "{:+.2f}"))
        table.add_row(printable(name), *cells)
    console.print(table)
    note = f"n = {judged.n} questions in {judged.groups} groups, {judged.metric}; 95 % intervals"
    if judged.groups < FEW:
        note += ", too narrow over so few groups"
    console.print(Text(note, style="dim"))


def _estimate(one: Figure) -> Estimate:
    return Estimate(one.value, one.ci95)


def faults(rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Of each stage that failed and was passed over: how often, and what it said last."""
    found: dict[int, list[str]] = {}
    for row in rows:
        for attempt in row["attempts"] if row["error"] is None else ():
            if attempt["outcome"] == "failed":
                found.setdefault(attempt["stage"], []).append(str(attempt["error"]))
    return {
        stage: f"{len(said)} times of {len(rows)} questions ({said[-1]})"
        for stage, said in sorted(found.items())
    }


def run_json(rows: Sequence[Mapping[str, Any]], audit: Audit | None = None) -> dict[str, Any]:
    """How many each stage answered, and the tokens of every attempt, also of those not shown.

    `saved_tokens` were not written by the `stopped` attempts: at most so many, since an answer may
    have ended before its limit. `audit` is that of a learner.
    """
    checked = {} if audit is None else {"audit": {"n": audit.n, "agreement": audit.mean}}
    attempts = [attempt for row in rows for attempt in row["attempts"]]
    answered = [row["model"] for row in rows if row["error"] is None]
    return {
        "n": len(rows),
        "failed": len(rows) - len(answered),
        "answered": {model: answered.count(model) for model in dict.fromkeys(answered)},
        "failed_attempts": {
            model: sum(a["outcome"] == "failed" and a["model"] == model for a in attempts)
            for model in dict.fromkeys(a["model"] for a in attempts)
        },
        **{
            key: sum(attempt[key] for attempt in attempts)
            for key in ("prompt_tokens", "completion_tokens", "seconds")
        },
        "stopped": sum(attempt["saved_tokens"] > 0 for attempt in attempts),
        "saved_tokens": sum(attempt["saved_tokens"] for attempt in attempts),
        **checked,
    }


def print_run(
    console: Console,
    rows: Sequence[Mapping[str, Any]],
    models: Sequence[str],
    path: Path,
    audit: Audit | None = None,
) -> None:
    """A line for each stage: asked, answered, what it took; what a learner's `audit` estimates."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    columns = ("stage", "asked", "answered", "failed", "tokens read", "written", "seconds")
    for column in columns:
        table.add_column(column, justify="left" if column == "stage" else "right")
    attempts = [attempt for row in rows for attempt in row["attempts"]]
    stages = dict(enumerate(models))
    if any(attempt["stage"] == STUDENT for attempt in attempts):
        stages = {STUDENT: "the words alone", **stages}  # learned online
    for stage, model in stages.items():
        own = [attempt for attempt in attempts if attempt["stage"] == stage]
        answered = sum(a["outcome"] == "answered" for a in own)
        failed = sum(a["outcome"] == "failed" for a in own)
        sums = {
            key: sum(a[key] for a in own)
            for key in ("prompt_tokens", "completion_tokens", "seconds")
        }
        table.add_row(
            printable(model),
            str(len(own)),
            str(answered),
            str(failed) if failed else "",
            f"{sums['prompt_tokens']:,}",
            f"{sums['completion_tokens']:,}",
            f"{sums['seconds']:.1f}",
        )
    console.print(table)
    told = run_json(rows)
    if told["stopped"]:
        note = f"{told['stopped']} attempts were stopped early, which saved at most "
        console.print(Text(f"{note}{told['saved_tokens']:,} tokens"))
    if audit is not None:
        known = "not known yet" if audit.mean is None else f"about {audit.mean:.0%}"
        note = f"kept answers that agree with the last stage: {known} (it was asked of {audit.n})"
        console.print(Text(note))
    console.print(Text(f"wrote {len(rows)} answers to {path}", style="dim"), soft_wrap=True)


def _form(key: str) -> str:
    return (
        "{:.2f}" if key in ("s_d", "auroc", "ece") else "{:.4g}" if key == "cost_at" else "{:.2f}"
    )


def _interval(one: Estimate, form: str = "{:.2f}") -> str:
    low, high = one.ci95
    return f"{form.format(one.mean)} [{form.format(low)}, {form.format(high)}]"


def _percent(one: Estimate) -> str:
    low, high = one.ci95
    return f"{one.mean:.1%} [{low:.1%}, {high:.1%}]"
