"""Plain text and Markdown: `Jane: hello`, `**Jane** (00:01:02): hello`, or just paragraphs."""

import re
from collections import Counter
from dataclasses import dataclass, replace

from featherweight.transcript.speakers import (
    choose_labels,
    could_be_name,
    is_heading,
    is_name_like,
    is_role,
    split_label,
    starts_sentence,
)
from featherweight.transcript.text import one_line
from featherweight.transcript.times import clock, span
from featherweight.transcript.types import Turn

Times = tuple[float | None, float | None]

_BULLET = re.compile(r"(?:[-*+•–]|\d{1,4}[.)])\s+")
_HEADING = re.compile(r"#{1,6}\s")
_CHEVRONS = re.compile(r">{1,3}\s*")
_TIMES = re.compile(r"[*_]{0,2}[\[(]([\d:., >–—-]{3,40})[\])][*_]{0,2}\s*[:–—-]?\s*")
_BARE_TIME = re.compile(r"(\d{1,3}(?::\d{2}){1,2}(?:[.,]\d{1,3})?)(?:\s+[–—:|-]\s+|\s+)")
_TIME_ALONE = re.compile(r"(\d{1,3}(?::\d{2}){1,2}(?:[.,]\d{1,3})?)\s*$")
_BOLD = re.compile(r"(\*\*|__)([^*\n]{1,100}?)\1\s*")
_BRACKETS = re.compile(r"\[([^\[\]\n]{1,80})\]\s*:\s*")
_TIMED_LABEL = re.compile(r"([^:：\[\]\n]{1,80}?)\s*[\[(](\d[\d:., >–—-]{2,40})[\])]\s*(:?)\s*")


@dataclass(frozen=True, slots=True)
class _Line:
    """What one line says, and what it says if `label` turns out to be a speaker."""

    text: str  # without a leading time that is one beyond doubt
    times: Times | None = None  # that time
    label: str | None = None
    rest: str = ""  # behind the label
    label_times: Times | None = None
    sure: bool = False  # bold, bracketed or timed: no second opinion from the rest of the file
    bare: bool = False  # `0:12 Jane Smith`: a speaker only if words follow on the next line
    starts: bool = False  # a list item or heading is a paragraph of its own
    ends: bool = False  # nothing continues a heading


def read_plain(text: str) -> list[Turn]:
    """One turn per labelled line, with the unlabelled lines that follow it directly.

    A paragraph without a label has no speaker: the file does not say who goes on. Without any
    label, paragraphs are turns; without blank lines, lines are. A time on a line of its own is
    the start of the turn below it.
    """
    lines = [_parse(line) for line in text.strip().split("\n")]
    units = sum(
        bool(line.text) and (not before.text or line.label is not None)
        for before, line in zip([_Line(""), *lines], lines, strict=False)
    )
    counts = Counter(line.label for line in lines if line.label is not None)
    chosen = choose_labels(counts.elements(), units)
    # `**Owner:** Tom` once is a line of a form
    sure = {label for label, count in counts.items() if count > 1 or not is_role(label)}
    labelled = {
        id(line)
        for line, below in zip(lines, _below(lines), strict=True)
        if line.label and ((line.sure and line.label in sure) or line.label in chosen)
        if not line.bare or (below.text and not below.label and not below.times)
    }
    by_line = not labelled and all(line.text for line in lines)

    turns: list[Turn] = []
    speaker: str | None = None
    times: Times = (None, None)
    pending: Times | None = None
    words: list[str] = []

    def close() -> None:
        said = one_line(" ".join(words))
        words.clear()
        if said:
            turns.append(Turn(speaker, said, *times))

    for line in lines:
        if not line.text and words and not any(words):
            continue  # a label on a line of its own: its words stand below the blank one
        alone = span(line.text.strip("[]() "))
        if not line.text or alone is not None:
            close()
            pending = alone or pending
            continue
        named = id(line) in labelled
        item = line.starts and (speaker is None or line.ends)
        if named or line.times or by_line or item or not words or _is_form(line.text):
            close()
            speaker = one_line(line.label) if named and line.label else None
            stated = (line.label_times if named else None) or line.times
            times, pending = stated or pending or (None, None), None
        words.append(line.rest if named else line.text)
        if line.ends:
            close()
    close()
    return turns


def _below(lines: list[_Line]) -> list[_Line]:
    """For every line the next one that is not blank."""
    found, below = [], _Line("")
    for line in reversed(lines):
        found.append(below)
        below = line if line.text else below
    return found[::-1]


def read_whisperx_txt(text: str) -> list[Turn]:
    """One turn per line; `[SPEAKER_00]: ` names the speaker."""
    turns = []
    for line in text.split("\n"):
        match = _BRACKETS.match(line.strip())
        said = one_line(line.strip()[match.end() :] if match else line)
        if said:
            turns.append(Turn(one_line(match[1]) or None if match else None, said))
    return turns


def _is_form(text: str) -> bool:
    """`Date: 3 May` never continues somebody's speech."""
    label, colon, _ = text.partition(":")
    return bool(colon) and len(label) < 40 and is_heading(label)


def _parse(raw: str) -> _Line:
    text = raw.strip()
    if _HEADING.match(text):
        return _Line(text, starts=True, ends=True)
    body = _strip(_CHEVRONS, _strip(_BULLET, text))
    item = len(_strip(_BULLET, text)) < len(text)
    match = _TIMES.match(body)
    if match is not None and (times := span(match[1])) is not None and match.end() < len(body):
        return replace(_label_or_name(body[match.end() :]), times=times)
    match = _BARE_TIME.match(body)
    if match is not None and (start := clock(match[1])) is not None:
        line = _label_or_name(body[match.end() :])
        if match[1].count(":") == 2:
            return replace(line, times=(start, None))
        if line.label is not None:  # 0:12 Jane: a time if Jane is a speaker, else just words
            return replace(line, text=text, label_times=line.label_times or (start, None))
        return _Line(text, starts=item)
    return replace(_label(body), text=text, starts=item)


def _label_or_name(body: str) -> _Line:
    """The label behind a leading time, where a name alone may be one too."""
    line = _label(body)
    if line.label is None and could_be_name(body) and is_name_like(body):
        return _Line(body, label=one_line(body), bare=True)
    return line


def _label(body: str) -> _Line:
    """The label of a line whose bullet and leading time are gone."""
    match = _BOLD.match(body)
    if match is not None:
        inner, rest = match[2].strip(), body[match.end() :]
        colon = inner.endswith(":")
        inner, times = _inner_times(inner.rstrip(": "))
        after = _TIMES.match(rest)
        if times is None and after is not None and (times := span(after[1])) is not None:
            colon = colon or after[0].rstrip().endswith(":")
            rest = rest[after.end() :]
        if rest.startswith((":", "：")):
            colon, rest = True, rest[1:]
        if (colon or times is not None) and could_be_name(inner):
            return _found(body, inner, rest, times, sure=True)
        return _Line(body)
    match = _BRACKETS.match(body)
    if match is not None and clock(match[1]) is None and could_be_name(match[1].strip()):
        return _found(body, match[1].strip(), body[match.end() :], None, sure=True)
    match = _TIMED_LABEL.match(body)
    if match is not None and (times := span(match[2])) is not None and could_be_name(match[1]):
        return _found(body, match[1], body[match.end() :], times, sure=bool(match[3]))
    pair = split_label(body)
    if pair is None:
        return _Line(body)
    label, rest = pair
    after = _TIMES.match(rest) or _TIME_ALONE.match(rest)
    if after is not None and (times := span(after[1])) is not None:
        return _found(body, label, rest[after.end() :], times, sure=False)
    return _found(body, label, rest, None, sure=False)


def _found(body: str, label: str, rest: str, times: Times | None, *, sure: bool) -> _Line:
    label = one_line(label)
    sure = sure and not starts_sentence(label)
    return _Line(body, label=label, rest=rest.strip(), label_times=times, sure=sure)


def _inner_times(label: str) -> tuple[str, Times | None]:
    name, bracket, time = label.rpartition("(" if label.endswith(")") else "[")
    times = span(time.rstrip(")]")) if bracket and label[-1:] in ")]" else None
    return (label, None) if times is None else (name.strip(), times)


def _strip(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.match(text)
    return text[match.end() :] if match else text
