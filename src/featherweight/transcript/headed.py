"""Text under headings: Otter (`Jane Smith  0:03`) and Zoom (`[Jane Smith] 10:02:11`, or tabs).

A heading names the speaker of everything down to the next heading. Its time belongs to the first
paragraph below it; a further paragraph is a further turn of the same speaker, without a time.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from featherweight.transcript.speakers import could_be_name, is_name_like, starts_sentence
from featherweight.transcript.text import one_line
from featherweight.transcript.times import clock, span
from featherweight.transcript.types import Turn

Heading = tuple[str | None, float | None, float | None, str]  # speaker, start, end, text beside it


def read_otter(text: str) -> list[Turn]:
    """Turns of an Otter export. Its last line, an advertisement, is not speech."""
    lines = [
        "" if line.strip().casefold().startswith("transcribed by http") else line
        for line in text.split("\n")
    ]
    return under_headings(zip(lines, otter_headings(lines), strict=True))


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


def otter_headings(lines: Sequence[str]) -> list[Heading | None]:
    """The heading that each line is, or `None`, in the file's own way.

    That is two spaces or a tab before the time, which speech does not have. One space and a rising
    time, or a name without a time at the head of a paragraph, may be anything; where most of them
    come back they are speakers.
    """
    wide = [otter_heading(line) for line in lines]
    narrow = [otter_heading(line, one_space=True) for line in lines]
    if _count(narrow) > 2 * _count(wide) and _come_back(narrow) and _rise(narrow):
        return narrow
    # a line below a blank one, with words right below it
    heads = [not above.strip() and bool(line.strip()) for above, line in pairwise(["", *lines])]
    alone = [
        _name(line) if head and below.strip() else None
        for line, head, below in zip(lines, heads, [*lines[1:], ""], strict=True)
    ]
    if not _count(wide) and _count(alone) * 2 >= sum(heads) and _come_back(alone, 2):
        return alone
    return wide


def _count(headings: Iterable[Heading | None]) -> int:
    return sum(heading is not None for heading in headings)


def _come_back(headings: Iterable[Heading | None], names: int = 1) -> bool:
    """Whether most headings are of somebody who has several, and of so many people at least."""
    counts = Counter(heading[0] for heading in headings if heading is not None)
    several = [count for count in counts.values() if count > 1]
    return len(counts) >= names and sum(several) * 2 > sum(counts.values())


def _rise(headings: Iterable[Heading | None]) -> bool:
    """Whether times go up, but for one in ten."""
    starts = [heading[1] or 0.0 for heading in headings if heading is not None]
    return sum(after < before for before, after in pairwise(starts)) * 10 <= len(starts)


def _name(line: str) -> Heading | None:
    name = one_line(line)
    named = is_name_like(name) and could_be_name(name) and not starts_sentence(name)
    return (name, None, None, "") if named else None


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
