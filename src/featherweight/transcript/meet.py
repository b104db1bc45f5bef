"""Google Meet transcripts: title, attendees, `Name: text`, and now and then a time as heading."""

import re

from featherweight.transcript.speakers import choose_labels, split_label
from featherweight.transcript.text import one_line
from featherweight.transcript.times import clock
from featherweight.transcript.types import Turn

_FOOTER = re.compile(
    r"(?:meeting|transcription) ended after \d|this editable transcript was computer generated",
    re.IGNORECASE,
)
_TITLE = re.compile(r".{0,300}[-–—]\s*transcript", re.IGNORECASE)
_EDGES = re.compile(r"^\W+|\W+$")


def is_meet(lines: list[str]) -> bool:
    """True for an `Attendees` heading with a transcript below it, or Meet's own last lines."""
    filled = [line.strip() for line in lines if line.strip()]
    if any(_FOOTER.match(line) for line in filled[-6:]):
        return True
    words = {_word(line) for line in filled[:60]}
    title = any(_TITLE.fullmatch(line) for line in filled[:3])
    return "attendees" in words and ("transcript" in words or title)


def read_meet(lines: list[str]) -> list[Turn]:
    """Turns after the heading block. A heading such as `00:05:00` is the start of the one turn
    that follows it: what comes later in the block has no time of its own.
    """
    body = lines[_speech_from(lines) :]
    titles = {line.strip() for line in lines[:5] if _TITLE.fullmatch(line.strip())}
    found = [pair for line in body if (pair := split_label(line.strip())) is not None]
    chosen = choose_labels((label for label, _ in found), len(found))
    turns: list[Turn] = []
    pending: float | None = None
    together = False  # a line directly below a turn's line goes on with it
    for raw in body:
        line = raw.strip()
        time = clock(line)
        if not line or time is not None or _FOOTER.match(line) or line in titles:
            pending = pending if time is None else time
            together = False
            continue
        pair = split_label(line)
        if pair is not None and pair[0] in chosen:
            turns.append(Turn(one_line(pair[0]), one_line(pair[1]), pending))
        elif together:
            last = turns.pop()
            turns.append(Turn(last.speaker, one_line(f"{last.text} {line}"), last.start))
        else:
            turns.append(Turn(None, one_line(line), pending))
        pending, together = None, True
    return [turn for turn in turns if turn.text]


def _speech_from(lines: list[str]) -> int:
    """Where speech begins: below `Transcript`, else below the attendees, else below the title."""
    words = [_word(line) for line in lines[:200]]
    if "transcript" in words:
        at = words.index("transcript") + 1
        titles = [
            n for n in range(at, min(at + 6, len(lines))) if _TITLE.fullmatch(lines[n].strip())
        ]
        return titles[-1] + 1 if titles else at
    if "attendees" in words:
        at = words.index("attendees") + 1
        while at < len(words) and not words[at]:
            at += 1
        return at + 1
    return 1 if lines and _TITLE.fullmatch(lines[0].strip()) else 0


def _word(line: str) -> str:
    return _EDGES.sub("", line).casefold() if len(line) < 40 else line.strip()
