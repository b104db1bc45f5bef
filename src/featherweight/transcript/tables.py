"""Tab-separated segments: WhisperX TSV (milliseconds) and Audacity labels (seconds)."""

import re

from featherweight.transcript.text import one_line
from featherweight.transcript.times import number
from featherweight.transcript.types import Turn

_SPEAKER = re.compile(r"\s*\[\[([^\[\]]{1,120})\]\]")


def read_tsv(text: str) -> list[Turn]:
    """Rows under a header that names `start`, `end` and `text` (`speaker` too, where it is).

    Times are milliseconds, as WhisperX writes them. A `[[SPEAKER]]` before the text is the speaker.
    """
    turns = []
    columns: list[str] | None = None
    for line in text.split("\n"):
        cells = line.split("\t")
        if columns is None:
            if line.strip():
                columns = [cell.strip().casefold() for cell in cells]
            continue
        row = dict(zip(columns, cells, strict=False))
        last = columns[-1]
        if len(cells) > len(columns):  # a tab inside the last column
            row[last] = "\t".join(cells[len(columns) - 1 :])
        speaker, said = _split_speaker(row.get("text", "" if len(cells) > 1 else line))
        named = one_line(row.get("speaker", "")) or speaker
        if said:
            times = (number(row.get(key, "").strip()) for key in ("start", "end"))
            start, end = (None if value is None else value / 1000 for value in times)
            turns.append(Turn(named, said, start, end))
    return turns


def read_audacity(text: str) -> list[Turn]:
    """`start TAB end TAB text` in seconds; a line without times keeps its text."""
    turns = []
    for line in text.split("\n"):
        cells = line.split("\t", 2)
        if cells[0].strip() == "\\":  # the frequency range of a spectral label
            continue
        start = end = None
        if len(cells) > 1 and is_label(line):
            start, end = number(cells[0].strip()), number(cells[1].strip())
            line = cells[2] if len(cells) > 2 else ""
        speaker, said = _split_speaker(line)
        if said:
            turns.append(Turn(speaker, said, start, end))
    return turns


def is_tsv_header(line: str) -> bool:
    """True for a header that names at least start, end and text."""
    cells = [cell.strip().casefold() for cell in line.split("\t")]
    return len(cells) >= 3 and {"start", "end", "text"} <= set(cells)


def is_label(line: str) -> bool:
    """True for an Audacity label: two numbers first."""
    cells = line.split("\t", 2)
    return len(cells) >= 2 and all(number(cell.strip()) is not None for cell in cells[:2])


def _split_speaker(text: str) -> tuple[str | None, str]:
    match = _SPEAKER.match(text)
    if match is None:
        return None, one_line(text)
    return one_line(match[1]) or None, one_line(text[match.end() :])
