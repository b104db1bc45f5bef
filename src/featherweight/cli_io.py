"""What every command does with its streams: results to stdout, everything else to stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from featherweight.errors import FeatherweightError, UnknownModelError

if TYPE_CHECKING:
    from rich.console import Console

STOPPED = "stopped; the same command goes on where it was."


def console() -> "Console":
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=100)


def json_text(data: Any, one_line: bool = False) -> str:
    import orjson

    return orjson.dumps(data, option=0 if one_line else orjson.OPT_INDENT_2).decode() + "\n"


def print_json(data: Any) -> None:
    sys.stdout.write(json_text(data))


def say(text: str) -> None:
    print(text, file=sys.stderr)


def complain(error: FeatherweightError) -> None:
    from featherweight.transcript.text import one_line

    say(f"error: {one_line(str(error))}")  # a server's own words may be in it


def fail(error: FeatherweightError, code: int = 1) -> NoReturn:
    complain(error)
    raise typer.Exit(code)


@contextmanager
def run_errors(stopped: str) -> Iterator[None]:
    """Around long work: exit code 2 for a model that is not known, 1 for what failed, 130 and
    `stopped` for Control-C."""
    try:
        yield
    except UnknownModelError as error:
        fail(error, code=2)
    except FeatherweightError as error:
        fail(error)
    except KeyboardInterrupt:
        say(stopped)
        raise typer.Exit(130) from None


@contextmanager
def usage_errors() -> Iterator[None]:
    try:
        yield
    except FeatherweightError as error:
        fail(error, code=2)
