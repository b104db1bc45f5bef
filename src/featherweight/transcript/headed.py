"""Text under headings: Otter (`Jane Smith  0:03`) and Zoom (`[Jane Smith] 10:02:11`, or tabs).

A heading names the speaker of everything down to the next heading. Its time belongs to the first
paragraph below it; a further paragraph is a further turn of the same speaker, without a time.
"""

from collections.abc import Iterable

from featherweight.transcript.speakers import could_be_name, is_name_like, starts_sentence
from featherweight.transcript.text import one_line
from featherweight.transcript.times import clock, span
from featherweight.transcript.types import Turn

Heading = tuple[str | None, float | None, float | None, str]  # speaker, start, end, text beside it


def read_otter(text: str) -> list[Turn]:
    """Turns of an Otter export. Its last line, an advertisement, is not speech."""
    lines = (
        "" if line.strip().casefold().startswith("transcribed by http") else line
        for line in text.split("\n")
    )
    return under_headings((line, otter_heading(line)) for line in lines)


def read_zoom(text: str) -> list[Turn]:
    """Turns of a saved Zoom transcript: bracketed headings, or tab-separated lines."""
    return under_headings((line, zoom_heading(line) or zoom_row(line)) for line in text.split("\n"))


def under_headings(lines: Iterable[tuple[str, Heading | None]]) -> list[Turn]:
    """Turns from (line, its heading or None) pairs; a blank line ends a paragraph."""
    turns: list[Turn] = []
    speaker: str | None = None
    start: float | None = None
    end: float | None = None
    words: list[str] = []

    def close() -> None:
        nonlocal start, end
        said = one_line(" ".join(words))
        words.clear()
        if said:
            turns.append(Turn(speaker, said, start, end))
            start = end = None

    for line, heading in lines:
        if heading is not None:
            close()
            speaker, start, end, beside = heading
            words.append(beside)
        elif line.strip():
            words.append(line)
        else:
            close()
    close()
    return turns


def otter_heading(line: str, *, one_space: bool = False) -> Heading | None:
    """`Name  0:03` with two spaces or a tab between; with `one_space`, one will do."""
    parts = line.strip().rsplit(None, 1)
    if len(parts) != 2 or not parts[1][-1].isdigit() or (start := clock(parts[1])) is None:
        return None
    name = one_line(parts[0])
    gap = line.strip()[len(parts[0]) : -len(parts[1])]
    wide = len(gap) > 1 or "\t" in gap or "\xa0" in gap
    named = is_name_like(name) or (wide and " " not in name)  # jsmith
    if not (wide or one_space) or not named or not could_be_name(name) or starts_sentence(name):
        return None
    return name, start, None, ""


def zoom_heading(line: str) -> Heading | None:
    """`[Name] 10:02:11`: the name is everything inside the outer brackets."""
    line = line.strip()
    if not line.startswith("["):
        return None
    name, bracket, time = line[1:].rpartition("]")
    times = span(time.strip()) if bracket else None
    if times is None or clock(name) is not None or not name.strip():
        return None
    return one_line(name) or None, *times, ""


def zoom_row(line: str) -> Heading | None:
    """A tab-separated line with a time first or second: `time, name, text` in either order.

    `time, end, name, text` too. Two cells are a heading if the other one can be a name, else a
    time and its text.
    """
    if "\t" not in line:
        return None
    cells = [cell.strip() for cell in line.strip().split("\t")]
    cells = [cell for cell in cells if cell]
    at = next((index for index, cell in enumerate(cells[:2]) if clock(cell) is not None), None)
    if at is None or len(cells) < 2:
        return None
    start = clock(cells.pop(at))
    end = clock(cells[at]) if at < len(cells) and len(cells) > 1 else None
    if end is not None:
        cells.pop(at)
    if len(cells) == 1 and not (at == 1 or (could_be_name(cells[0]) and is_name_like(cells[0]))):
        return None, start, end, cells[0]
    return one_line(cells[0].rstrip(":")) or None, start, end, " ".join(cells[1:])
