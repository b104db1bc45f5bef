"""One function per command: arguments to a library call to print. No logic.

Exit codes: 0 all well, 1 something failed (what worked is still printed or written), 2 wrong
usage. Results go to standard output, everything else to standard error. Imports that cost time
wait until a command needs them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featherweight import cli_cascade, cli_compress, cli_eval, cli_export, cli_repair, cli_train
from featherweight.cli_io import (
    complain,
    console,
    fail,
    json_text,
    print_json,
    say,
    usage_errors,
)
from featherweight.errors import FeatherweightError, OutputError, UnknownModelError

if TYPE_CHECKING:
    from featherweight.engines import Engine
    from featherweight.summarize import Summary
    from featherweight.summarize.batch import Manifest
    from featherweight.summarize.strategies import Progress
    from featherweight.transcript import Transcript

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help and usage errors in plain text: rich would take half the time
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Summaries of meetings by compact language models, offline, every point checked.",
)


class Length(StrEnum):
    short = "short"
    medium = "medium"
    long = "long"


class Focus(StrEnum):
    actions = "actions"
    decisions = "decisions"


class Format(StrEnum):
    text = "text"
    md = "md"
    html = "html"
    json = "json"


class Strategy(StrEnum):
    single = "single"
    truncate = "truncate"
    map_reduce = "map-reduce"
    chapters = "chapters"
    chapters_resummarise = "chapters-resummarise"
    chapters_rewrite = "chapters-rewrite"
    locate = "locate"
    answer = "answer"
    quotes = "quotes"


STDIN = Path("-")
SUFFIX = {"text": ".txt", "md": ".md", "html": ".html", "json": ".json"}


@app.command()
def summarize(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Transcripts, folders, globs; - reads from stdin."),
    ],
    query: Annotated[
        str | None, typer.Option(help="Answer this about the meeting instead of summarizing it.")
    ] = None,
    length: Annotated[Length, typer.Option(help="At most 3, 6 or 12 points.")] = Length.medium,
    focus: Annotated[Focus | None, typer.Option(help="Only action items, or decisions.")] = None,
    model: Annotated[
        str, typer.Option(metavar="SPEC", help="See `featherweight models`.")
    ] = "smollm2-135m-meetings",
    format: Annotated[Format, typer.Option(help="What to print or write.")] = Format.text,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write a file for each transcript here; resumes.")
    ] = None,
    strategy: Annotated[
        Strategy | None, typer.Option(help="How to read the meeting; chosen unless given.")
    ] = None,
) -> None:
    """Summarize meetings, each point with the lines that support it."""
    options: dict[str, Any] = {
        "query": query,
        "length": length.value,
        "focus": focus.value if focus else None,
        "strategy": strategy.value if strategy else None,
    }
    with usage_errors():
        from featherweight.summarize.batch import Manifest, check_outputs, inputs, output_names

        if query is not None and not query.strip():
            raise FeatherweightError("the query is empty; ask something, or leave it out.")
        if "-" in files and len(files) > 1:
            raise FeatherweightError("- stands for standard input and must be the only FILE.")
        paths = [STDIN] if files == ["-"] else inputs(files)
        if len(paths) > 1 and output_dir is None and format is Format.html:
            raise FeatherweightError(
                "several HTML pages cannot be printed at once; add --output-dir DIR."
            )
        if output_dir is not None:
            named = [Path("stdin") if path == STDIN else path for path in paths]
            names = output_names(named, SUFFIX[format])
            check_outputs(output_dir, names, paths)
            manifest = Manifest(output_dir, {**options, "model": model, "format": format.value})
    try:
        engine = _open(model)
    except UnknownModelError as error:
        fail(error, code=2)
    except FeatherweightError as error:
        fail(error)
    try:
        if output_dir is None:
            failed = _print_summaries(paths, engine, options, format)
        else:
            failed = _write_summaries(paths, names, engine, options, format, manifest)
    except FeatherweightError as error:
        fail(error)
    except KeyboardInterrupt:
        say("stopped; what was finished is kept, nothing is half-written.")
        raise typer.Exit(130) from None
    finally:
        engine.close()
    raise typer.Exit(1 if failed else 0)


@app.command()
def read(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A transcript; - reads from stdin.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show what a transcript file says: its format and its turns."""
    try:
        transcript = _read(Path(file))
    except FeatherweightError as error:
        fail(error)
    if json:
        turns = [
            {"speaker": t.speaker, "text": t.text, "start": t.start, "end": t.end}
            for t in transcript.turns
        ]
        print_json({"format": transcript.format, "turns": turns})
        return
    from featherweight.show import print_transcript

    print_transcript(console(), transcript)


@app.command()
def models() -> None:
    """The models that --model can name, and whether they are here."""
    from featherweight.show import print_models

    print_models(console())


@app.command()
def doctor() -> None:
    """What works on this machine, what is missing, and how to get it."""
    from featherweight.doctor import checks, ready
    from featherweight.show import print_checks

    found = checks()
    print_checks(console(), found)
    raise typer.Exit(0 if ready(found) else 1)


for command in (
    cli_eval.eval,
    cli_eval.score,
    cli_eval.compare,
    cli_eval.tradeoff,
    cli_compress.compress,
    cli_repair.repair,
    cli_train.train,
    cli_train.teach,
    cli_export.export,
):
    app.command()(command)


app.add_typer(cli_cascade.app, name="cascade")


def _version(wanted: bool) -> None:
    if wanted:
        from featherweight import __version__

        print(f"featherweight {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# -- helpers: opening, reading, printing -----------------------------------------------------------


def _open(spec: str) -> "Engine":
    from featherweight.opening import open_model

    return open_model(spec)


def _read(path: Path) -> "Transcript":
    from featherweight.transcript import parse_transcript, read_transcript
    from featherweight.transcript.text import MAX_BYTES

    if path != STDIN:
        return read_transcript(path)
    return parse_transcript(sys.stdin.buffer.read(MAX_BYTES + 1), source="standard input")


def _summary(path: Path, engine: "Engine", options: dict[str, Any]) -> "tuple[Summary, Transcript]":
    from featherweight.summarize import summarize_transcript

    transcript = _read(path)
    with _progress(transcript.source) as progress:
        return summarize_transcript(transcript, engine, progress=progress, **options), transcript


def _print_summaries(
    paths: list[Path], engine: "Engine", options: dict[str, Any], format: Format
) -> int:
    """Print every summary; returns how many inputs failed or have failed parts."""
    failed = 0
    for path in paths:
        try:
            summary, transcript = _summary(path, engine, options)
        except FeatherweightError as error:
            complain(error)
            failed += 1
            continue
        failed += summary.chunks_failed > 0
        if format is Format.text and sys.stdout.isatty():
            from featherweight.summarize.render import print_text

            print_text(console(), summary, transcript)
        elif format is Format.json and len(paths) > 1:
            sys.stdout.write(json_text(summary.to_json(), one_line=True))
        else:
            sys.stdout.write(_rendered(summary, transcript, format))
    return failed


def _write_summaries(
    paths: list[Path],
    names: list[str],
    engine: "Engine",
    options: dict[str, Any],
    format: Format,
    manifest: "Manifest",
) -> int:
    """Write every summary to a folder; returns how many inputs failed or have failed parts."""
    from featherweight.files import write_atomic
    from featherweight.summarize.batch import input_hash
    from featherweight.transcript.text import printable

    folder = manifest.folder
    failed = 0
    for number, (path, name) in enumerate(zip(paths, names, strict=True), 1):
        source = "standard input" if path == STDIN else printable(str(path))
        label = f"[{number}/{len(paths)}] {source}"
        hashed = "" if path == STDIN else input_hash(path)
        if hashed and manifest.finished(name, hashed):
            say(f"{label}: unchanged, {folder / name} kept")
            continue
        try:
            if other := manifest.other_input(name, _input_name(path)):
                raise OutputError(
                    f"{folder / name} holds {other}, not the summary of {source}; choose "
                    "another output folder, or remove it."
                )
            summary, transcript = _summary(path, engine, options)
        except FeatherweightError as error:
            complain(error)
            failed += 1
            continue
        write_atomic(folder / name, _rendered(summary, transcript, format))
        finished = bool(hashed) and not summary.chunks_failed
        manifest.record(name, _input_name(path), hashed, _figures(summary), finished=finished)
        if summary.chunks_failed:
            failed += 1
        say(f"{label}: {folder / name}, {_points(summary)}, {summary.seconds:.0f} s")
    if failed:
        say(f"{failed} of {len(paths)} failed or have failed parts; run again to retry them.")
    return failed


def _input_name(path: Path) -> str:
    return "standard input" if path == STDIN else str(path.absolute())


def _points(summary: "Summary") -> str:
    count = len(summary.points)
    return f"{count} point{'s' if count != 1 else ''}"


def _figures(summary: "Summary") -> dict[str, Any]:
    data = summary.to_json()
    return {key: data[key] for key in ("strategy", "model", "chunks", "usage", "seconds")}


def _rendered(summary: "Summary", transcript: "Transcript", format: Format) -> str:
    from featherweight.summarize import render

    if format is Format.json:
        return json_text(summary.to_json())
    if format is Format.md:
        return render.to_markdown(summary, transcript)
    if format is Format.html:
        return render.to_html(summary, transcript)
    from io import StringIO

    from rich.console import Console

    page = StringIO()
    render.print_text(Console(file=page, width=100, color_system=None), summary, transcript)
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())


@contextmanager
def _progress(source: str) -> "Iterator[Progress | None]":
    """A bar on standard error, in a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from featherweight.show import progress_bar

    with progress_bar(source) as update:
        yield update


def main() -> None:
    """Entry point of the command `featherweight`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what is written to a file is UTF-8 everywhere
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read the output has enough of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
