"""Tables and bars show names as they are."""

import pytest
from rich.console import Console

from featherweight.doctor import Check
from featherweight.show import print_checks, print_transcript, progress_bar
from featherweight.transcript import Transcript, Turn

ODD = "[red]x[/red] [/] \\[b]"


def test_markup_is_text() -> None:
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_transcript(console, Transcript((Turn("[/]", ODD, 1.0),), ODD, "vtt"))
    print_checks(console, [Check(ODD, False, ODD, ODD), Check("b", None, "c")])
    assert console.export_text().count(ODD) == 5


def test_a_bar_for_an_odd_name(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(ODD) as update:
        update("reading", 1, 2)
