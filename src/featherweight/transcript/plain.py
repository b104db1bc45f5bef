"""Plain text and Markdown: `Jane: hello`, `**Jane** (00:01:02): hello`, or just paragraphs."""

import re
from dataclasses import dataclass

from featherweight.transcript.speakers import (
    choose_labels,
    could_be_name,
    is_heading,
    split_label,
    starts_sentence,
)
from featherweight.transcript.text import one_line
from featherweight.transcript.times import clock, span
from featherweight.transcript.types import Turn

_BULLET = re.compile(r"(?:[-*+•–]|\d{1,4}[.)])\s+")
_CHEVRONS = re.compile(r">{1,3}\s*")
_TIMES = re.compile(r"[\[(]([\d:., >–—-]{3,40})[\])]\s*[:–—-]?\s*")
_BARE_TIME = re.compile(r"(\d{1,3}(?::\d{2}){1,2}(?:[.,]\d{1,3})?)(?:\s+[–—-]\s+|\s+)")
_BOLD = re.compile(r"(\*\*|__)([^*_\n]{1,100}|[^*\n]{1,100})\1\s*")
_BRACKETS = re.compile(r"\[([^\[\]\n]{1,80})\]\s*:\s*")
_TIMED_LABEL = re.compile(r"([^:：\[\]\n]{1,80}?)\s*[\[(](\d[\d:., >–—-]{2,40})[\])]\s*(:?)\s*")


@dataclass(frozen=True, slots=True)
class _Line:
    """What one line may say; `sure` labels need no second opinion from the rest of the file."""

    text: str
    label: str | None = None
    rest: str = ""
    start: float | None = None
    end: float | None = None
    sure: bool = False


def read_plain(text: str) -> list[Turn]:
    """One turn per labelled line, with the unlabelled lines that follow it directly.

    A paragraph without a label has no speaker: the file does not say who goes on. Without any
    label, paragraphs are turns; without blank lines, lines are.
    """
    lines = [_parse(line) for line in text.split("\n")]
    filled = [line for line in lines if line.text]
    labels = [line.label for line in filled if line.label is not None]
    paragraphs = sum(
        1
        for before, line in zip([_Line(""), *lines], lines, strict=False)
        if line.text and (not before.text or line.label)
    )
    chosen = choose_labels(labels, paragraphs)
    labelled = any(line.label and (line.sure or line.label in chosen) for line in filled)
    by_line = not labelled and not any(
        not line.text for line in lines[_first(lines) : _last(lines)]
    )
    turns: list[Turn] = []
    open_turn: tuple[str | None, float | None, float | None] | None = None
    words: list[str] = []

    def close() -> None:
        nonlocal open_turn
        said = one_line(" ".join(words))
        words.clear()
        if open_turn is not None and said:
            turns.append(Turn(open_turn[0], said, *open_turn[1:]))
        open_turn = None

    pending: tuple[float | None, float | None] | None = None
    for line in lines:
        if not line.text:
            close()
            continue
        alone = span(line.text.strip("[]() "))
        if alone is not None:  # a time on a line of its own belongs to what follows
            close()
            pending = alone
            continue
        accepted = line.label is not None and (line.sure or line.label in chosen)
        label_start, label_end = (line.start, line.end) if accepted or line.sure else (None, None)
        if accepted or line.sure or by_line or open_turn is None or _is_note(line.text):
            close()
            start, end = (label_start, label_end)
            if start is None and pending is not None:
                start, end = pending
            pending = None
            open_turn = (one_line(line.label) if accepted and line.label else None, start, end)
        words.append(line.rest if accepted or line.sure else line.text)
    close()
    return turns


def read_whisperx_txt(text: str) -> list[Turn]:
    """One turn per line; `[SPEAKER_00]: ` names the speaker."""
    turns = []
    for line in text.split("\n"):
        match = _BRACKETS.match(line.strip())
        said = one_line(line.strip()[match.end() :] if match else line)
        if said:
            turns.append(Turn(one_line(match[1]) or None if match else None, said))
    return turns


def _first(lines: list[_Line]) -> int:
    return next((index for index, line in enumerate(lines) if line.text), 0)


def _last(lines: list[_Line]) -> int:
    return len(lines) - next((index for index, line in enumerate(reversed(lines)) if line.text), 0)


def _is_note(text: str) -> bool:
    """`Date: 3 May` never continues somebody's speech."""
    label, colon, _ = text.partition(":")
    return bool(colon) and len(label) < 40 and is_heading(label)


def _parse(raw: str) -> _Line:
    text = raw.strip()
    if not text:
        return _Line("")
    body = _strip(_CHEVRONS, _strip(_BULLET, text))
    start = end = None
    timed = False
    match = _TIMES.match(body)
    times = span(match[1]) if match else None
    if match is not None and times is not None:
        start, end = times
        body = body[match.end() :]
        timed = True
    else:
        bare = _BARE_TIME.match(body)
        if bare is not None and (start := clock(bare[1])) is not None:
            pair = split_label(body[bare.end() :])
            if pair is None and bare[1].count(":") < 2:
                start = None  # "10:30 Meeting: ..." is speech about a time
            else:
                body = body[bare.end() :]
                timed = pair is None
    found = _label(body)
    if found is None:
        return _Line(text, None, body, start, end, sure=True) if timed else _Line(text)
    label, rest, times, sure = found
    if times is not None and start is None:
        start, end = times
    return _Line(text, label, rest, start, end, sure)


def _label(body: str) -> tuple[str, str, tuple[float | None, float | None] | None, bool] | None:
    """(label, rest, times, sure) of a line whose bullet and leading time are gone."""
    match = _BOLD.match(body)
    if match is not None:
        inner, rest = match[2].strip(), body[match.end() :]
        colon = inner.endswith(":")
        inner, times = _inner_times(inner.rstrip(": "))
        after = _TIMES.match(rest)
        if times is None and after is not None and (times := span(after[1])) is not None:
            colon = colon or ":" in after[0].rpartition("]")[2].rpartition(")")[2]
            rest = rest[after.end() :]
        if rest.startswith(":"):
            colon, rest = True, rest[1:]
        if (colon or times is not None) and could_be_name(inner):
            return inner, rest.strip(), times, not starts_sentence(inner)
        return None
    match = _BRACKETS.match(body)
    if match is not None and clock(match[1]) is None and could_be_name(match[1].strip()):
        return match[1].strip(), body[match.end() :], None, True
    match = _TIMED_LABEL.match(body)
    if match is not None and (times := span(match[2])) is not None:
        label = match[1].strip()
        if could_be_name(label):
            sure = bool(match[3]) and not starts_sentence(label)
            return label, body[match.end() :], times, sure
    pair = split_label(body)
    return None if pair is None else (*pair, None, False)


def _inner_times(label: str) -> tuple[str, tuple[float | None, float | None] | None]:
    name, bracket, time = label.rpartition("(" if label.endswith(")") else "[")
    times = span(time.rstrip(")]")) if bracket and label[-1:] in ")]" else None
    return (label, None) if times is None else (name.strip(), times)


def _strip(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.match(text)
    return text[match.end() :] if match else text
