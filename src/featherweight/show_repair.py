"""What the repairing command prints."""

from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from featherweight.repair import Repaired
from featherweight.show_compress import Tick, work_progress
from featherweight.transcript.text import printable

SHOWN = 5  # ways to choose


def repair_progress() -> AbstractContextManager[Tick | None]:
    """A bar for what is measured on val."""
    return work_progress()


def print_repaired(console: Console, found: Repaired) -> None:
    """What was measured on val, the ways to choose, and how to open the result."""
    val = found.manifest.get("val")
    if val is not None:
        _losses(console, val, found.manifest.get("chosen"))
    if "m" in found.manifest:
        console.print(Text(f"{found.manifest['parameters']:,} numbers added"))
    folder = printable(str(found.folder))
    console.print(Text(f"{folder} opens as hf:{folder}"), soft_wrap=True)


def _losses(console: Console, val: dict[str, Any], wins: list[int] | None) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("on val")
    table.add_column("nats a token", justify="right")
    table.add_column("chosen", justify="right")
    table.add_row("no prompt", f"{val['none']:.4f}", "")
    for number, loss in enumerate(val["each"]):
        best = ", the best single" if number == val["best"] else ""
        chosen = "" if wins is None else str(wins[number])
        table.add_row(f"prompt {number}{best}", f"{loss:.4f}", chosen)
    table.add_row("the best for each (oracle)", f"{val['oracle']:.4f}", "")
    console.print(table)
    ways = val.get("ways")
    if not ways:
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("chosen by", "nats a token", "wins"):
        table.add_column(column, justify="left" if column == "chosen by" else "right")
    for way in ways[:SHOWN]:
        wins_of = " ".join(map(str, way["wins"]))
        table.add_row(_way(way["selection"]), f"{way['loss']:.4f}", wins_of)
    if once := val.get("one_pass"):
        two = next(way for way in ways if way["selection"] == once["selection"])
        table.add_row("the best of the deeper layers:", "", "")
        table.add_row(f"{_way(two['selection'])}, two passes", f"{two['loss']:.4f}", "")
        table.add_row(f"{_way(once['selection'])}, one pass", f"{once['loss']:.4f}", "")
    console.print(table)


def _way(how: dict[str, Any]) -> str:
    text = f"layer {how['layer']}, {how['tokens']} tokens"
    text += "" if how["first_key"] else ", without first keys"
    return text + (", against the usual" if how["usual"] else "")
