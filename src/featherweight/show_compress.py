"""What the compressing command prints."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from featherweight.compress import Made
from featherweight.transcript.text import printable

Tick = Callable[[str, int, int], None]


@contextmanager
def work_progress() -> Iterator[Tick | None]:
    """A bar for each thing that is done, on standard error, in a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    bar = Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bars: dict[str, Any] = {}

    def update(what: str, done: int, of: int) -> None:
        bar.start()  # not before: another bar may be there until then
        if what not in bars:
            bars[what] = bar.add_task(what, total=of)
        bar.update(bars[what], completed=done, total=of)

    try:
        yield update
    finally:
        bar.stop()


def print_made(console: Console, made: Sequence[Made]) -> None:
    """A row a recipe: layers changed, size, error beside the plain way's; then how to open it."""
    packed = [one for one in made if "widths" not in one.manifest]
    if packed:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        table.add_column("recipe", overflow="fold")
        columns = ("layers", "layers MB", "model MB", "was", "error", "without calibration")
        for column in columns:
            table.add_column(column, justify="right")
        for one in packed:
            table.add_row(one.manifest["recipe"], *_cells(one.manifest))
        console.print(table)
        console.print(
            Text(
                "error: mean over layers of the outputs' relative squared change, each on its own; "
                f"mode: {packed[0].manifest['mode']}",
                style="dim",
            )
        )
        for one in packed:
            _damped(console, one.manifest)
    for one in made:
        if "widths" in one.manifest:
            _cut(console, one.manifest)
    for one in made:
        folder = printable(str(one.folder))
        console.print(Text(f"{folder} opens as hf:{folder}"), soft_wrap=True)


def _cells(manifest: dict[str, Any]) -> list[str]:
    layers = manifest["layers"]
    cells = [
        f"{manifest['changed']} of {manifest['of']}",
        f"{manifest['bytes'] / 1e6:,.1f}",
        f"{manifest['bytes_model'] / 1e6:,.1f}",
        f"{manifest['bytes_dense'] / 1e6:,.1f}",
    ]
    for name in ("error", "error_rtn"):
        known = [layer[name] for layer in layers if layer[name] is not None]
        cells.append(f"{sum(known) / len(known):.4f}" if known else "not measured")
    return cells


def _damped(console: Console, manifest: dict[str, Any]) -> None:
    """Layers whose statistics took more damping than the usual one."""
    raised = [one for one in manifest["layers"] if (one["damping"] or 0) > 0.01]
    if raised:
        worst = max(raised, key=lambda one: float(one["damping"]))
        console.print(
            Text(
                f"{manifest['recipe']}: {len(raised)} layers needed more damping than 1 %, most "
                f"{worst['name']} ({worst['damping']:.0%}); more calibration text helps."
            )
        )


def _cut(console: Console, manifest: dict[str, Any]) -> None:
    """What went: layers by their influence, widths, parameters."""
    console.print(Text(manifest["recipe"], style="bold"))
    for stack, layers in manifest["layers"].items():
        gone = [
            f"{layer} ({influence:.4f})"
            for layer, influence in enumerate(layers["influence"])
            if layer not in layers["kept"]
        ]
        listed = f"; gone, by influence: {', '.join(gone)}" if gone else ""
        console.print(Text(f"{stack}: {len(layers['kept'])} of {layers['of']} layers kept{listed}"))
    names = {"ffn": "neurons of an MLP", "kv": "key-value groups of an attention"}
    for what, sizes in manifest["widths"].items():
        console.print(Text(f"{names[what]}: {sizes['before']:,} → {sizes['after']:,}"))
    before, after = manifest["parameters"]["before"], manifest["parameters"]["after"]
    console.print(
        Text(
            f"parameters: {before:,} → {after:,} ({after / before:.0%}); train it before you use it"
        )
    )
