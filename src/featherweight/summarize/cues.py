"""Moments of a meeting where somebody takes on a task or settles something, by what they say.

A small model cannot word a task without inventing half of it. So for a small model code finds the
moments, as a reader with a highlighter would, and gives them in the speakers' own words: phrases
that promise, ask or decide, weighted by how rarely they mean anything else.
"""

import re

from featherweight.summarize.actions import deadline
from featherweight.summarize.evidence import Evidence
from featherweight.summarize.sentences import sentences
from featherweight.summarize.support import PROMISE, contains
from featherweight.summarize.types import Focus, Point
from featherweight.transcript.types import Transcript

_TALK = (
    r"(?!(?:just |also |then |now |maybe |probably )*(?:be|say"
    r"|ask (?:you|an?|about|if|whether|some|one|this|that|my|another)|tell|talk|speak|go|start"
    r"|begin|read|take|turn|come|move|have|give (?:it|you an|this|that)|declare|explain|show|see"
    r"|try|address|stop|leave|hand|pass|call on|bring in|repeat|mention|hear|get back|do an?)\b)\w+"
)
"""What people announce about the talk itself ("I'll start") is no task and no decision."""

_CUES: dict[Focus, tuple[tuple[float, str], ...]] = {
    "actions": (
        (3.0, rf"(?:i['’]ll|i will|i shall|i['’]m going to|i can do|i['’]d be happy to) {_TALK}"),
        (2.5, rf"i (?:need|have) to {_TALK}"),
        (3.0, r"(?:action (?:item|point)|to-?do list|deadline|follow up (?:on|with))"),
        (2.5, r"(?:can|could|will|would) you (?:please )?(?:\w+ )?(?:send|write|check|make|prepare"
              r"|look into|find|book|get|put|bring|finish|fix|update|organi[sz]e)"),
        (2.5, r"please (?:send|write|check|make|prepare|find|book|bring|finish|update)"),
        (1.5, r"(?:we['’]ll|we will|we need to|you need to|you should|we should|we have to)"
              rf" {_TALK}"),
        (1.5, r"by (?:the end|\w+day|tomorrow|next|noon)"),
        (1.0, r"(?:next (?:week|meeting|time|month)|tomorrow|does it|will do|write to (?:you|us))"),
    ),
    "decisions": (
        (3.0, r"(?:we|they|committee|group|team|council)(?:['’]ve| have| has)?"
              r" (?:decided|agreed|settled on|chosen|chose|voted)"),
        (3.0, r"(?:let['’]s decide|(?:the|my|our|a|this) decision"
              r"|that['’]s (?:decided|settled|agreed)|motion (?:is )?(?:agreed|carried|passed))"),
        (2.5, r"(?:let['’]s|we['’]ll|we will|we) (?:go with|stick (?:to|with)|keep the|drop|use)"),
        (2.5, rf"(?:then|so|okay,?) we(?:['’]ll| will|['’]re going to| are going to) {_TALK}"),
        (2.0, r"then we (?:release|take|use|keep|do|buy|drop|start|send)"),
        (1.0, rf"we(?:['’]ll| will|['’]re (?:not )?going to| are (?:not )?going to) {_TALK}"),
        (1.0, r"(?:instead|in the end|conclusion|we do not|we won['’]t|agreed)"),
    ),
}  # fmt: skip
_PATTERNS = {
    focus: [(weight, re.compile(rf"\b{cue}\b", re.IGNORECASE)) for weight, cue in cues]
    for focus, cues in _CUES.items()
}

_QUESTION = re.compile(r"(?<!, right)(?<!, okay)(?<!, yes)\?$")

ENOUGH = 2.0
"""The weight from which a sentence counts; below it, most cues mean something else."""

SHORT = 5
"""Words; what is shorter ("Let's decide that now.") takes the next sentence along."""


def weight(text: str, focus: Focus) -> float:
    """How strongly a text promises or decides; 0 for most of what is said."""
    return sum(value for value, cue in _PATTERNS[focus] if cue.search(text))


def said(transcript: Transcript, focus: Focus, most: int) -> list[tuple[int, str]]:
    """Up to `most` (turn number, its words) that promise or decide most clearly, in order.

    The words are a sentence of the turn, or two where the first is very short.
    """
    found: list[tuple[float, int, int, str]] = []
    for number, turn in enumerate(transcript.turns):
        taken = 0
        ranges = sentences(turn.text)
        for at, (start, end) in enumerate(ranges):
            value = weight(turn.text[start:end], focus)
            if start < taken or value < ENOUGH:
                continue
            if focus == "decisions" and _QUESTION.search(turn.text[start:end]):
                continue  # a question settles nothing; it may ask for something to be done
            if len(turn.text[start:end].split()) < SHORT:
                end = ranges[min(at + 1, len(ranges) - 1)][1]
            found.append((value, number, start, turn.text[start:end]))
            taken = end
    best = sorted(found, key=lambda item: -item[0])[:most]
    return [(number, text) for _, number, _, text in sorted(best, key=lambda item: item[1:3])]


def responsible(transcript: Transcript, turn: int, text: str) -> str | None:
    """Who takes on what `text`, said in `turn`, is about: who promises, else who is addressed.

    Addressed is whoever's name stands there in full, or the first part of it before or behind a
    comma ("Priya, please"): a speaker called The Chair is not in "The deadline", nor Will in "Will
    you".
    """
    speaker = transcript.turns[turn].speaker
    if speaker and PROMISE.search(text):
        return speaker
    for name in dict.fromkeys(t.speaker for t in transcript.turns if t.speaker):
        first = re.escape(name.split()[0].rstrip(","))
        if contains(text, name) or re.search(rf"(?:^|[.?!] ){first},|, {first}[.,?!]", text):
            return name
    return None


def quoted(transcript: Transcript, focus: Focus, most: int) -> list[Point]:
    """Points in the speakers' own words, each its own evidence."""
    points = []
    for number, text in said(transcript, focus, most):
        turn = transcript.turns[number]
        points.append(
            Point(
                text=f"{turn.speaker}: {text}" if turn.speaker else text,
                supported=True,
                evidence=(Evidence(number, turn.speaker, turn.start, text, 1.0),),
                owner=responsible(transcript, number, text) if focus == "actions" else None,
                due=deadline(text) if focus == "actions" else None,
            )
        )
    return points
