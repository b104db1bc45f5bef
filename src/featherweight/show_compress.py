"""What the compressing commands print."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from featherweight.compress import Pruned
from featherweight.transcript.text import printable


def print_pruned(console: Console, found: Pruned) -> None:
    """Each layer's influence and whether it stayed, then what became of the size."""
    for stack, influence in found.influence.items():
        kept = found.kept[stack]
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        table.add_column(f"{stack} layer", justify="right")
        table.add_column("influence", justify="right")
        table.add_column("")
        for layer, value in enumerate(influence):
            table.add_row(str(layer), f"{value:.4f}", "" if layer in kept else "dropped")
        console.print(table)
        listed = ", ".join(map(str, kept))
        console.print(Text(f"{stack}: {len(kept)} of {len(influence)} layers kept: {listed}"))
    if found.width:
        before, after = found.width
        console.print(Text(f"MLP neurons of a layer: {before:,} → {after:,}"))
    before, after = found.parameters
    console.print(Text(f"parameters: {before:,} → {after:,} ({after / before:.0%})"))
    folder = printable(str(found.folder))
    console.print(Text(f"{folder} opens as hf:{folder}; train it before you use it"))
