"""What the evaluation commands print: every figure with its interval, and n always."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from featherweight.evaluate.cost import described
from featherweight.evaluate.judge import JudgeSummary
from featherweight.evaluate.score import Comparison, Scores
from featherweight.evaluate.statistics import Estimate, Seeds
from featherweight.evaluate.tradeoff import pareto
from featherweight.tasks.report import Report
from featherweight.tasks.systems import Systems
from featherweight.transcript.text import printable

NAMES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "words": "words",
    "accuracy": "accuracy %",
    "accuracy_norm": "accuracy %, per character",
    "unparsed": "no choice named %",
    "word_perplexity": "word perplexity",
    "byte_perplexity": "byte perplexity",
    "bits_per_byte": "bits per byte",
    "token_perplexity": "token perplexity",
    "length_followed": "length as asked %",
    "lengths_in_order": "short < medium < long %",
    "compression": "compression",
    "bertscore": "BERTScore F1",
    "faithfulness": "faithfulness",
}
"""What people read for each metric's name."""

FEW = 15
"""Below so many groups a percentile interval covers far less than it says."""


def print_scores(console: Console, scores: Scores, name: str, cap: str | None) -> None:
    """A line for each metric."""
    notes = _notes(scores.n, scores.groups, scores.missing, cap)
    if scores.empty:
        notes.append(f"{scores.empty} empty, scored 0")
    if scores.runs > 1:
        notes.append(f"{scores.runs} runs (seeds); the interval holds both, groups and seeds")
    notes += [f"{NAMES[metric]} over {n} of them" for metric, n in scores.measured.items()]
    console.print(Text(printable(name), style="bold"))
    table = _estimates(scores.metrics, scores.groups)
    for metric, reason in scores.not_measured.items():
        table.add_row(NAMES[metric], "not measured", Text(reason, style="dim"))
    console.print(table)
    _print_notes(console, notes, scores.groups)
    for note in scores.notes:
        console.print(Text(note, style="dim"))


def print_report(console: Console, report: Report, title: str) -> None:
    """A run's figures, then its cost."""
    found = report.results
    console.print(Text(title, style="bold"))
    console.print(_estimates(found.metrics, found.groups))
    notes = _notes(found.n, found.groups, found.missing)
    if found.empty:
        notes.append(f"{found.empty} empty, scored 0")
    if found.cut_off:
        notes.append(f"{found.cut_off} cut off at the limit of tokens")
    _print_notes(console, notes, found.groups)
    console.print()
    table = Table.grid(padding=(0, 2))
    for label, value in described(report.cost).items():
        table.add_row(Text(label, style="dim"), Text(value))
    console.print(table)


def print_comparison(console: Console, found: Comparison, a: str, b: str, cap: str | None) -> None:
    """A line for each metric, A - B."""
    console.print(Text(f"A {printable(a)}\nB {printable(b)}", style="bold"))
    table = _table("", "A", "B", "A - B", "95% CI", "p", "p (Holm)")
    for name, one in found.metrics.items():
        table.add_row(
            NAMES.get(name, name),
            f"{one.a:.2f}",
            f"{one.b:.2f}",
            f"{one.diff:+.2f}",
            _bounds(one.ci95, "{:+.2f}") if found.groups > 1 else "one group: unknown",
            _p(one.p),
            _p(found.p_holm[name]),
        )
    console.print(table)
    notes = _notes(found.n, found.groups, found.missing, cap)
    for label, empty in zip("AB", found.empty, strict=True):
        if empty:
            notes.append(f"{empty} of {label} empty, scored 0")
    notes.append("p: sign-flip test over groups")
    _print_notes(console, notes, found.groups)
    if found.judged is not None:
        console.print()
        _print_judge(console, found.judged)


def _print_judge(console: Console, judged: JudgeSummary) -> None:
    """What the judge said, and beside it how far to trust it."""
    rows = {
        "judge prefers A (ties half)": _share(judged.win_share),
        "  A, tie, B": f"{judged.wins_a}, {judged.ties}, {judged.wins_b} of {judged.items}",
        "  p": "not measured" if judged.p is None else _p(judged.p),
        "  not judged": f"{judged.unjudged} ({judged.unparsed} replies unclear, "
        f"{judged.failed} failed)",
        "  both orders agree": _percent(judged.consistency),
        "  first place wins": _percent(judged.first_place),
        "  longer answer wins": f"{_share(judged.longer)} of {judged.longer_items} decided",
    }
    table = Table.grid(padding=(0, 2))
    for label, value in rows.items():
        table.add_row(Text(label), Text(value))
    console.print(table)
    if 2 * judged.judged < judged.items:
        console.print(Text("Most pairs were not judged: this model is no judge.", style="bold"))


def _share(one: Estimate | None) -> str:
    if one is None:
        return "not measured"
    return f"{100 * one.mean:.1f} % [{100 * one.ci95[0]:.1f}, {100 * one.ci95[1]:.1f}]"


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def print_tradeoff(console: Console, found: Systems, quality_label: str, cost_label: str) -> None:
    """A line for each system, best quality first; what no other beats on both is marked."""
    front = pareto(found.systems)
    table = _table("", quality_label, "95% CI", cost_label, "95% CI", "not beaten")
    for one in sorted(found.systems, key=lambda one: -one.quality):
        cost = ("not measured", "")
        if one.cost is not None:
            cost = (f"{one.cost:.3g}", _bounds(one.cost_ci95, "{:.3g}"))
        quality = (f"{one.quality:.2f}", _bounds(one.quality_ci95, "{:.2f}"))
        table.add_row(Text(printable(one.name)), *quality, *cost, "yes" if one in front else "")
    console.print(table)
    notes = _notes(found.n, found.groups, 0)
    for one, missing in zip(found.systems, found.missing, strict=True):
        if missing:
            notes.append(f"{printable(one.name)}: {missing} MISSING, left out")
    _print_notes(console, notes, found.groups)


def _bounds(ci95: tuple[float, float] | None, form: str) -> str:
    return "unknown" if ci95 is None else f"[{form.format(ci95[0])}, {form.format(ci95[1])}]"


@contextmanager
def eval_progress(name: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with the time left on standard error, in a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(name, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


def _estimates(
    metrics: Mapping[str, Estimate] | Mapping[str, Estimate | Seeds], groups: int
) -> Table:
    seeds = any(isinstance(one, Seeds) for one in metrics.values())
    table = _table("", "mean", "95% CI", *(["SD of seeds"] if seeds else []))
    for name, one in metrics.items():
        bounds = _bounds(one.ci95, "{:.2f}") if groups > 1 else "one group: unknown"
        cells = [NAMES.get(name, name), f"{one.mean:.2f}", bounds]
        table.add_row(*cells, *([f"{one.sd:.2f}"] if isinstance(one, Seeds) else []))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        if number:
            table.add_column(column, justify="right", no_wrap=True)
        else:  # names give way, numbers never
            table.add_column(column, overflow="fold")
    return table


def _notes(n: int, groups: int, missing: int, cap: str | None = None) -> list[str]:
    notes = [f"n {n}", f"{groups} group{'s' if groups != 1 else ''}"]
    if missing:
        notes.append(f"{missing} MISSING, left out")
    if cap:
        notes.append(f"cut to {cap} words")
    return notes


def _print_notes(console: Console, notes: list[str], groups: int) -> None:
    console.print(Text(" · ".join(notes), style="dim"))
    if 1 < groups < FEW:
        console.print(Text("So few groups that the intervals are too narrow.", style="dim"))


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"
