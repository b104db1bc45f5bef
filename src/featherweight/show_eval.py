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
from featherweight.evaluate.score import Comparison, Scores
from featherweight.evaluate.statistics import Estimate, Seeds
from featherweight.tasks.report import Report
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
    "compression": "compression (source words / words)",
}
"""What people read for each metric's name."""


def print_scores(console: Console, scores: Scores, name: str, cap: str | None) -> None:
    """A line for each metric."""
    notes = _notes(scores.n, scores.groups, scores.missing, cap)
    if scores.empty:
        notes.append(f"{scores.empty} empty, scored 0")
    if scores.runs > 1:
        notes.append(f"{scores.runs} runs (seeds); the interval holds both, groups and seeds")
    console.print(Text(printable(name), style="bold"))
    console.print(_estimates(scores.metrics))
    console.print(Text(" · ".join(notes), style="dim"))


def print_report(console: Console, report: Report, title: str) -> None:
    """A run's figures, then its cost."""
    found = report.results
    console.print(Text(title, style="bold"))
    console.print(_estimates(found.metrics))
    console.print(Text(" · ".join(_notes(found.n, found.groups, found.missing)), style="dim"))
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
            f"[{one.ci95[0]:+.2f}, {one.ci95[1]:+.2f}]",
            _p(one.p),
            _p(found.p_holm[name]),
        )
    console.print(table)
    notes = _notes(found.n, found.groups, found.missing, cap)
    for label, empty in zip("AB", found.empty, strict=True):
        if empty:
            notes.append(f"{empty} of {label} empty, scored 0")
    notes.append("p: sign-flip test over groups")
    console.print(Text(" · ".join(notes), style="dim"))


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


def _estimates(metrics: Mapping[str, Estimate] | Mapping[str, Estimate | Seeds]) -> Table:
    seeds = any(isinstance(one, Seeds) for one in metrics.values())
    table = _table("", "mean", "95% CI", *(["SD of seeds"] if seeds else []))
    for name, one in metrics.items():
        low, high = one.ci95
        cells = [NAMES.get(name, name), f"{one.mean:.2f}", f"[{low:.2f}, {high:.2f}]"]
        table.add_row(*cells, *([f"{one.sd:.2f}"] if isinstance(one, Seeds) else []))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _notes(n: int, groups: int, missing: int, cap: str | None = None) -> list[str]:
    notes = [f"n {n}", f"{groups} groups"]
    if missing:
        notes.append(f"{missing} MISSING, left out")
    if cap:
        notes.append(f"cut to {cap} words")
    return notes


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"
