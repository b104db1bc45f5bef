"""AMI and ICSI in NITE XML (NXT): one file of words per speaker, one file of segments beside it.

The speaker is the letter in the file's name, or the participant that the segments name. Noise
elements become the same marks that QMSum has ({vocalsound}, {disfmarker}), for `clean` to remove.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from featherweight.errors import TranscriptError
from featherweight.transcript.text import one_line, problem, quoted
from featherweight.transcript.times import number
from featherweight.transcript.types import Turn

PAUSE = 1.0  # seconds of silence that end a turn where no segments are given
_ID = "{http://nite.sourceforge.net/}id"
_NOISE = frozenset(["disfmarker", "vocalsound", "pause", "gap", "comment", "nonvocalsound"])
_RANGE = re.compile(r"id\(([^()]*)\)")
_NAME = re.compile(r"(?P<meeting>[^/\\]+)\.(?P<agent>[A-Za-z0-9]{1,3})\.words\.xml", re.IGNORECASE)
_GLUED = re.compile(r"[,.?!:;]+|'[a-zA-Z]{1,2}|n't")


@dataclass(frozen=True, slots=True)
class Track:
    """One speaker's files, as bytes."""

    name: str  # X.A.words.xml
    words: bytes
    segments: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    id: str
    text: str
    start: float | None
    end: float | None
    glued: bool  # no space before it
    open: bool  # no space after it


@dataclass(slots=True)
class _Segment:
    start: float | None
    end: float | None
    speaker: str | None


def words_name(name: str) -> tuple[str, str] | None:
    """(meeting, agent) of `ES2002a.A.words.xml`, None for other names."""
    match = _NAME.fullmatch(name)
    return (match["meeting"], match["agent"]) if match else None


def read_nxt(tracks: list[Track], source: str) -> list[Turn]:
    """Turns of all tracks, in order of their start.

    One turn per segment that has words. Words outside every segment, and tracks without segments,
    are cut where the speaker is silent for more than `PAUSE` seconds.
    """
    timeline: list[tuple[float, int, Turn]] = []
    for index, track in enumerate(tracks):
        at = 0.0  # a turn without times stays behind the one before it
        for turn in _read_track(track, source):
            at = at if turn.start is None else turn.start
            timeline.append((at, index, turn))
    timeline.sort(key=lambda item: item[:2])
    return [turn for _, _, turn in timeline]


def _read_track(track: Track, source: str) -> Iterator[Turn]:
    root = _parse(track.words, track.name if words_name(track.name) else source)
    named = words_name(track.name) or words_name(f"{root.get(_ID, '')}.xml")
    agent = named[1] if named else None
    tokens = [token for child in root if (token := _token(child)) is not None]
    if not any(child.tag == "w" for child in root):
        if root.tag.rpartition("}")[2] == "root" or not len(root):
            raise problem(
                source,
                "this NXT file holds no words",
                "give the file whose name ends in .words.xml",
            )
        raise problem(
            source,
            f"XML of an unknown kind (its root is {quoted(root.tag.rpartition('}')[2])})",
            "export the transcript as VTT, SRT, JSON or text",
        )
    places = _places(track.segments, tokens, source) if track.segments is not None else {}
    group: list[_Token] = []
    place: _Segment | None = None
    for token in tokens:
        here = places.get(token.id)
        silent = (
            here is None
            and bool(group)
            and token.start is not None
            and group[-1].end is not None
            and token.start - group[-1].end > PAUSE
        )
        if group and (here is not place or silent):
            yield _turn(group, place, agent)
            group = []
        place = here
        group.append(token)
    if group:
        yield _turn(group, place, agent)


def _turn(tokens: list[_Token], segment: _Segment | None, agent: str | None) -> Turn:
    text = ""
    for before, token in zip([None, *tokens], tokens, strict=False):
        tight = before is None or token.glued or before.open
        text += token.text if tight else f" {token.text}"
    starts = [token.start for token in tokens if token.start is not None]
    ends = [token.end for token in tokens if token.end is not None]
    start = segment.start if segment else None
    end = segment.end if segment else None
    speaker = (segment.speaker if segment else None) or agent
    return Turn(
        speaker and one_line(speaker),
        one_line(text),
        start if start is not None else (starts[0] if starts else None),
        end if end is not None else (ends[-1] if ends else None),
    )


def _token(element: Any) -> _Token | None:
    """A word, or a noise mark; None for anything else and for words without text."""
    tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
    start, end = number(element.get("starttime")), number(element.get("endtime"))
    if tag in _NOISE:
        return _Token(element.get(_ID, ""), f"{{{tag}}}", start, end, False, False)
    text = one_line("".join(element.itertext())) if tag == "w" else ""
    if not text:
        return None
    hyphen = element.get("c") == "HYPH"
    glued = element.get("punc") == "true" or hyphen or _GLUED.fullmatch(text) is not None
    return _Token(element.get(_ID, ""), text, start, end, glued, hyphen)


def _places(data: bytes, tokens: list[_Token], source: str) -> dict[str, _Segment]:
    """Token id -> the segment that points at it. Pointers are ids, never paths to open."""
    order = {token.id: index for index, token in enumerate(tokens) if token.id}
    places: dict[str, _Segment] = {}
    free = list(range(len(tokens) + 1))  # the next token without a segment: each is taken once
    for element in _parse(data, source).iter("segment"):
        segment = _Segment(
            _first(element, "transcriber_start", "starttime"),
            _first(element, "transcriber_end", "endtime"),
            element.get("participant") or None,
        )
        for child in element:
            ends = [order.get(name) for name in _RANGE.findall(child.get("href", ""))]
            known = [index for index in ends if index is not None]
            if known:
                at = _next_free(free, min(known))
                while at <= max(known):
                    places[tokens[at].id] = segment
                    free[at] = at + 1
                    at = _next_free(free, at)
    return places


def _next_free(free: list[int], at: int) -> int:
    """The first token from `at` on that no segment has; halves the way for the next who asks."""
    while free[at] != at:
        free[at] = free[free[at]]
        at = free[at]
    return at


def _first(element: Any, *names: str) -> float | None:
    return next((value for name in names if (value := number(element.get(name))) is not None), None)


def _parse(data: bytes, source: str) -> Any:
    """The root element. Raises `TranscriptError` for broken XML and for any entity or DTD trick."""
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    try:
        return ElementTree.fromstring(data)
    except DefusedXmlException:
        raise problem(
            source, "its XML declares entities, which NXT never does", "get the original file"
        ) from None
    except (SyntaxError, ValueError, LookupError) as error:  # ParseError is a SyntaxError
        raise _broken(source, error) from None


def _broken(source: str, error: Exception) -> TranscriptError:
    return problem(source, f"its XML is broken ({one_line(str(error))})", "get the file again")
