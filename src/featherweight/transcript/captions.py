"""WebVTT and SubRip: cues with times, and the voices inside them.

Both are blocks of lines around `start --> end`. Teams writes `<v Name>` voices, Zoom writes
`Name: text` on the cues where the speaker changes, WhisperX writes `[SPEAKER_00]: text`.
"""

import html
import re
from dataclasses import dataclass, field, replace

from featherweight.transcript.speakers import choose_labels, split_label
from featherweight.transcript.text import one_line
from featherweight.transcript.times import clock
from featherweight.transcript.types import Turn

_GUID = re.compile(r"\{?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}?(?:[/-][\w-]{1,40})?", re.I)
_IDENTIFIER = re.compile(rf"\d{{1,9}}|{_GUID.pattern}", re.I)
_CLOCKISH = re.compile(r"(?:\d\S{0,20}:\S{0,20})?")
_NUMBER = re.compile(r"\d{1,9}")
_VOICE = re.compile(r"<(/?)v(?:\.[^\s<>]*)?(?:\s([^<>]*))?>", re.IGNORECASE)
_CLOSED_VOICE = re.compile(r"<v[.\s][^<>]*>[^<>]*</v>", re.IGNORECASE)
_WEBEX = re.compile(r'\d{1,9} "([^"\n]{0,100})"(?: \(\d{1,12}\))?')  # an identifier that names
_LEAD = re.compile(r"(?:>{1,3}|[-–])\s*(?=\S)")  # of broadcasts: `>> JANE:`, `- TOM:`
_WORD_TIME = re.compile(r"<\d{1,4}:[\d:.,]{3,16}><c>")
_TAG = re.compile(
    r"</?(?:c|i|b|u|s|ruby|rt|lang|font|span|br)(?:[.\s/][^<>]*)?>|<\d{1,4}:[\d:.,]{3,16}>",
    re.IGNORECASE,
)
_POSITION = re.compile(r"\{\\[^{}\n]{1,200}\}")  # {\an8}, from players that read both formats
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_BRACKETS = re.compile(r"\[([^\[\]\n]{1,80})\]\s*:\s*")


@dataclass(slots=True)
class Cue:
    """One block: seconds (None where the file's line cannot be read) and its lines of text."""

    start: float | None
    end: float | None
    lines: list[str] = field(default_factory=list)
    timed: bool = True
    voice: str | None = None  # whom the identifier names


def read_captions(text: str, *, webvtt: bool) -> tuple[str, list[Turn]]:
    """(format, turns) of a WebVTT or SubRip file.

    Several voices in one cue give several turns, each with the cue's times. Text before the first
    voice and after a closed one is kept, without a speaker. A cue whose timing line is broken
    keeps its text and has no times. Text outside any cue is kept the same way.
    """
    cues, guids, numbers = _cues(text, webvtt=webvtt)
    cues = _unrolled(cues)
    if any(_VOICE.search(line) for cue in cues for line in cue.lines):
        voiced = [_split_voices(cue) for cue in cues]
        closed = sum(_CLOSED_VOICE.search(" ".join(cue.lines)) is not None for cue in cues)
        teams = guids or closed * 2 > len(cues)
        name = ("teams-vtt" if teams else "vtt") if webvtt else "srt"
        return name, [turn for turns in voiced for turn in turns]

    lines = [[(*_brackets(line), line) for line in map(_plain, cue.lines)] for cue in cues]
    bracketed = any(label for cue in lines for label, _, _ in cue)
    found = [_label(line) for cue in lines for label, _, line in cue if label is None]
    chosen = choose_labels((pair[0] for pair in found if pair), len(cues))
    turns: list[Turn] = []
    for cue, parts in zip(cues, lines, strict=True):
        pieces: list[tuple[str | None, list[str]]] = [(cue.voice, [])]
        for label, rest, line in parts:
            pair = None if label is not None else _label(line)
            if label is not None:
                pieces.append((label, [rest]))
            elif pair is not None and pair[0] in chosen:
                pieces.append((pair[0], [pair[1]]))
            else:
                pieces[-1][1].append(line)
        turns += [_turn(speaker, " ".join(words), cue) for speaker, words in pieces]
    turns = [turn for turn in turns if turn.text]
    if not webvtt:
        return ("whisperx-srt" if bracketed else "srt"), turns
    if guids:
        return "teams-vtt", turns
    return ("zoom-vtt" if chosen and numbers * 2 > len(cues) else "vtt"), turns


def timing(line: str) -> tuple[float | None, float | None] | None:
    """(start, end) of a cue's timing line, None if `line` is not one.

    `a --> b` is speech, and so is `10:30 --> lunch`. Both sides have to look like clocks (one may
    be missing); a clock that cannot be read is None.
    """
    left, arrow, right = line.partition("-->")
    if not arrow:
        return None
    left = left.strip()
    right, *settings = right.split() or [""]
    clocks = all(_CLOCKISH.fullmatch(side) for side in (left, right)) and (left or right)
    if not clocks or not all(":" in setting for setting in settings):
        return None
    return clock(left), clock(right)


def _cues(text: str, *, webvtt: bool) -> tuple[list[Cue], int, int]:
    """The cues in file order, and how many identifiers are GUIDs (Teams) or numbers (Zoom)."""
    cues: list[Cue] = []
    current: Cue | None = None
    skipping = header = False
    guids = numbers = 0
    for raw in text.split("\n"):
        line = raw.strip()
        if not line and raw and current is not None and current.timed and not current.lines:
            continue  # YouTube's cues begin with a line of one space
        if not line:
            current, skipping, header = None, False, False
            continue
        times = None if skipping else timing(line)
        if times is not None:
            identifier = _take_identifier(cues, current)
            guids += _GUID.fullmatch(identifier) is not None
            numbers += _NUMBER.fullmatch(identifier) is not None
            webex = _WEBEX.fullmatch(identifier)
            voice = one_line(webex[1]) or None if webex else None
            current, header = Cue(*times, voice=voice), False
            cues.append(current)
        elif skipping or header:
            continue
        elif current is not None:
            current.lines.append(line)
        elif webvtt and line.startswith("WEBVTT"):
            header = True
        elif webvtt and (
            line in ("STYLE", "REGION", "NOTE") or line.startswith(("NOTE ", "NOTE\t"))
        ):
            skipping = True
        else:
            current = Cue(None, None, [line], timed=False)
            cues.append(current)
    return [cue for cue in cues if cue.timed or not _only_identifiers(cue)], guids, numbers


def _unrolled(cues: list[Cue]) -> list[Cue]:
    """YouTube's automatic captions, which time every word: a cue begins with the line before."""
    if not any(_WORD_TIME.search(line) for cue in cues for line in cue.lines):
        return cues
    kept, last = [], ""
    for cue in cues:
        lines = [line for line in cue.lines if _plain(line).strip()]
        if lines and _plain(lines[0]).strip() == last:
            lines = lines[1:]
        if lines:
            kept.append(replace(cue, lines=lines))
            last = _plain(lines[-1]).strip()
    return kept


def _take_identifier(cues: list[Cue], current: Cue | None) -> str:
    """Remove and return the identifier that stands right above a timing line.

    A block's first line is one whatever it says; below other text, only a number or a GUID is.
    """
    if current is None or not current.lines:
        return ""
    if not current.timed and len(current.lines) == 1:
        cues.pop()
        return current.lines[0]
    return current.lines.pop() if _IDENTIFIER.fullmatch(current.lines[-1]) else ""


def _only_identifiers(cue: Cue) -> bool:
    return all(_IDENTIFIER.fullmatch(line) for line in cue.lines)


def _split_voices(cue: Cue) -> list[Turn]:
    text = " ".join(cue.lines)
    turns: list[Turn] = []
    speaker: str | None = None
    at = 0
    for match in _VOICE.finditer(text):
        turns.append(_turn(speaker, _plain(text[at : match.start()]), cue))
        closing, name = match.groups()
        speaker = None if closing else one_line(_unescape(name or "")) or None
        at = match.end()
    turns.append(_turn(speaker, _plain(text[at:]), cue))
    return [turn for turn in turns if turn.text]


def _label(line: str) -> tuple[str, str] | None:
    return split_label(line[match.end() :] if (match := _LEAD.match(line)) else line)


def _brackets(line: str) -> tuple[str | None, str]:
    match = _BRACKETS.match(line)
    if match is None or clock(match[1]) is not None:
        return None, line
    return one_line(match[1]) or None, line[match.end() :]


def _plain(line: str) -> str:
    return _unescape(_POSITION.sub("", _TAG.sub("", line)))


def _unescape(text: str) -> str:
    """Entities with a semicolon, once: `AT&T` and `&notes` stay."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def _turn(speaker: str | None, text: str, cue: Cue) -> Turn:
    return Turn(speaker and one_line(speaker), one_line(text), cue.start, cue.end)
