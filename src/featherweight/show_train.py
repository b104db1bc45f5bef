"""What a training shows: what was decided, a bar, a line for each evaluation, the result."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from featherweight.transcript.text import printable

if TYPE_CHECKING:
    from featherweight.distill.train import Trained

SHOWN = ("loss", "ce", "kd", "kept", "right", "rouge1", "rougeLsum", "words")
FORMS = {"loss": "{:.4f}", "ce": "{:.4f}", "kd": "{:.4f}", "words": "{:.0f}"}


class TrainView:
    """Hears `tell` of a training. Everything on the way goes to standard error."""

    def __init__(self, console: Console) -> None:
        self._out = console
        self._err = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> "TrainView":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        """No bar any more: another thing will be shown in its place."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, kind: str, facts: Mapping[str, Any]) -> None:
        if kind == "plan":
            self._plan(facts)
        elif kind == "prompt":
            self._stop()
            self._err.print(f"prompt {facts['number']}, one of {facts['of']}", style="bold")
        elif kind == "resumed":
            self._err.print(f"going on after step {facts['step']}", style="dim")
        elif kind == "step" and self._bar is not None:
            self._bar.update(self._task, completed=facts["step"])
            if facts["step"] == facts["steps"]:
                self._stop()
        elif kind == "log":
            self._logged(facts)
        elif kind == "eval":
            self._line("val", {k.removeprefix("eval_"): v for k, v in facts.items()}, "bold")
        elif kind == "text":
            self._text(facts)

    def _plan(self, facts: Mapping[str, Any]) -> None:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for name, value, why in facts["rows"]:
            table.add_row(Text(name, style="dim"), printable(value), Text(why, style="dim"))
        self._err.print(table)
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._err,
                transient=True,
            )
            self._task = self._bar.add_task("training", total=facts["steps"])
            self._bar.start()

    def _logged(self, facts: Mapping[str, Any]) -> None:
        if "loss" not in facts:  # the trainer's own summary at the end
            return
        if self._bar is None:
            self._line("train", facts, "")
        else:
            self._bar.update(self._task, description=f"loss {facts['loss']:.4f}")

    def _line(self, what: str, facts: Mapping[str, Any], style: str) -> None:
        # what says nothing is left out: no teacher, no mask
        dull = {"kd": 0.0, "kept": 1.0}
        cells = [
            f"{name} {FORMS.get(name, '{:.2f}').format(facts[name])}"
            for name in SHOWN
            if name in facts and facts[name] != dull.get(name)
        ]
        minutes = facts["seconds"] / 60
        line = f"step {facts['step']:>6}  {minutes:6.1f} min  {what:<5}  {'  '.join(cells)}"
        self._err.print(Text(line, style=style), soft_wrap=True)

    def _text(self, facts: Mapping[str, Any]) -> None:
        for name in ("answer", "reference"):
            text = " ".join(printable(facts[name] or "").split())
            self._err.print(Text.assemble((f"  {name:<9} ", "dim"), text[:400]), soft_wrap=True)

    def done(self, trained: "Trained") -> None:
        """The result, and what to do with it."""
        result = trained.result
        best = ""
        if result["best_metric"] is not None:
            best = f", best after {result['best_step']} ({result['best_metric']:.4f})"
        self._out.print(
            f"{printable(str(trained.folder))}: {result['steps']} steps{best}, "
            f"{result['seconds'] / 60:.1f} minutes, {result['peak_rss'] / 2**20:,.0f} MiB",
        )
        self._out.print(
            f"use it with --model hf:{printable(str(trained.folder))}", style="dim", soft_wrap=True
        )
