"""What the compressing commands print."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from featherweight.compress import Pruned
from featherweight.transcript.text import printable

BAR = 30  # characters of the longest bar


def print_pruned(console: Console, found: Pruned) -> None:
    """Each layer's influence and whether it stayed, then what became of the size."""
    for stack, influence in found.influence.items():
        kept = set(found.kept[stack])
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        table.add_column(f"{stack} layer", justify="right")
        table.add_column("influence", justify="right")
        table.add_column("")
        table.add_column("")
        for layer, value in enumerate(influence):
            bar = "▪" * round(BAR * value / (max(influence) or 1))
            word = "" if layer in kept else "dropped"
            table.add_row(str(layer), f"{value:.4f}", Text(bar, style="dim"), word)
        console.print(table)
        console.print(Text(f"{stack}: {len(kept)} of {len(influence)} layers kept"))
    if found.width:
        before, after = found.width
        console.print(Text(f"MLP neurons: {before:,} → {after:,} in each layer"))
    before, after = found.parameters
    console.print(Text(f"parameters: {before:,} → {after:,} ({after / before:.0%})"))
    console.print(Text(f"{printable(str(found.folder))}: open it with hf:{found.folder}"))
