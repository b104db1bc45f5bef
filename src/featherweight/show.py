"""What the commands print besides summaries: transcripts, models, checks, progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from featherweight.doctor import Check
from featherweight.engines import embedded
from featherweight.errors import EngineError
from featherweight.summarize.render import about, clock
from featherweight.transcript.types import Transcript


def print_transcript(console: Console, transcript: Transcript) -> None:
    """A line for each turn: number, time where stated, speaker where stated, text."""
    console.print(Text(f"{transcript.source} · {transcript.format} · {about(transcript)}"))
    console.print()
    timed = any(turn.start is not None for turn in transcript.turns)
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim", no_wrap=True)
    if timed:
        table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(style="cyan", max_width=24)
    table.add_column()
    for number, turn in enumerate(transcript.turns):
        times = [clock(turn.start)] if timed else []
        table.add_row(str(number), *times, Text(turn.speaker or ""), Text(turn.text))
    console.print(table)


def print_models(console: Console) -> None:
    """The forms of a model spec."""
    try:
        embedded.shipped_model()
        here = "installed"
    except EngineError:
        here = f"not installed: {embedded.INSTALL_HINT}"
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("--model", "what", "here"):
        table.add_column(column, overflow="fold")
    rows = [
        (embedded.EMBEDDED, "SmolLM2-135M-Instruct, runs on any CPU, offline", here),
        (
            embedded.MEETINGS,
            "the same, tuned to answer questions about meetings: the default of summarize",
            here,
        ),
        ("gguf:PATH", "a GGUF file through llama.cpp; +ADAPTER adds a LoRA in GGUF", "your file"),
        ("hf:DIR", "a transformers model: decoder-only or T5, LoRA folders too", "your folder"),
        (
            "openai:URL#MODEL",
            "any OpenAI-compatible server; the key is read from OPENAI_API_KEY",
            "your server",
        ),
        ("cascade:DIR", "a small model that asks a larger one where it is unsure", "your folder"),
    ]
    for row in rows:
        table.add_row(Text(row[0], style="bold"), *map(Text, row[1:]))
    console.print(table)


def print_checks(console: Console, checks: list[Check]) -> None:
    """A row for each check, with what to do where something is missing."""
    marks = {True: ("✓", "green"), False: ("✗", "red"), None: ("–", "yellow")}
    table = Table.grid(padding=(0, 2))
    for check in checks:
        mark, style = marks[check.good]
        found = Text(check.found)
        if not check.good and check.remedy:
            found.append(f"\n{check.remedy}", style="bold")
        table.add_row(Text(mark, style=style), Text(check.name), found)
    console.print(table)


@contextmanager
def progress_bar(source: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error that disappears when done."""
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),  # a file may be called "[/b].txt"
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("parts"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task(f"opening {source}", total=None)

        def update(stage: str, done: int, total: int) -> None:
            bar.update(task, description=f"{stage} {source}", completed=done, total=total)

        yield update
