"""Moments of a meeting where somebody takes on a task or settles something, by what they say.

A small model cannot search a long text for tasks, but it can finish a sentence about four turns.
So code finds the moments, as a reader with a highlighter would: phrases that promise, ask or
decide, weighted by how rarely they mean anything else.
"""

import re
from collections.abc import Sequence

from featherweight.summarize.types import Focus
from featherweight.transcript.types import Transcript

_CUES: dict[Focus, tuple[tuple[float, str], ...]] = {
    "actions": (
        (3.0, r"(?:i['’]ll|i will|i['’]m going to|let me|i can do|i['’]d be happy to) \w+"),
        (3.0, r"(?:action (?:item|point)|to-?do|deadline|take (?:that|this|it) on|follow up)"),
        (2.5, r"(?:can|could|will|would) you (?:please )?(?:\w+ )?(?:send|write|check|make|prepare"
              r"|look|find|book|ask|talk|call|get|do|put|bring|give|finish|fix|update|organi[sz]e)"),
        (2.5, r"please (?:send|write|check|make|prepare|look|find|book|ask|call|bring|finish)"),
        (1.5, r"(?:we['’]ll|we will|we need to|you need to|you should|we should|we have to) \w+"),
        (1.5, r"by (?:the end|mon|tues|wednes|thurs|fri|satur|sun|tomorrow|next|noon)"),
        (1.0, r"(?:next (?:week|meeting|time|month)|tomorrow|does it|will do|write to (?:you|us))"),
    ),
    "decisions": (
        (3.0, r"(?:we|i|they)(?:['’]ve| have)? (?:decided|agreed|settled|chose|voted)"),
        (3.0, r"(?:let['’]s decide|decision|that['’]s (?:decided|settled|agreed)|motion"
              r"|carried|approved)"),
        (2.5, r"(?:let['’]s|we['’]ll|we will|we) (?:go with|stick (?:to|with)|take|keep|drop|use)"),
        (2.0, r"(?:agreed|so we(?:['’]re| are) (?:going|not)|we(?:['’]re| are) going (?:to|with))"),
        (1.5, r"(?:instead|in the end|final(?:ly)?|conclusion|then we|we do not|we won['’]t)"),
        (1.0, r"(?:let['’]s|we['’]ll|agree|choose|decide|okay,? so)"),
    ),
}  # fmt: skip
_PATTERNS = {
    focus: [(weight, re.compile(rf"\b{cue}\b", re.IGNORECASE)) for weight, cue in cues]
    for focus, cues in _CUES.items()
}
_PROMISE = re.compile(
    r"\b(?:i['’]ll|i will|i['’]m going to|let me|i can do|i['’]d be happy to)\b", re.IGNORECASE
)

BEFORE, AFTER = 2, 1
"""Turns around a cue that belong to its moment."""


def weight(text: str, focus: Focus) -> float:
    """How strongly a text promises or decides; 0 for most of what is said."""
    return sum(value for value, cue in _PATTERNS[focus] if cue.search(text))


def moments(transcript: Transcript, focus: Focus, most: int) -> list[list[int]]:
    """Up to `most` runs of turn numbers around the strongest cues, in order, without overlap."""
    weights = [weight(turn.text, focus) for turn in transcript.turns]
    taken: set[int] = set()
    found: list[list[int]] = []
    for at in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        if weights[at] == 0 or len(found) == most:
            break
        if at in taken:
            continue
        run = [
            turn
            for turn in range(max(0, at - BEFORE), min(len(weights), at + AFTER + 1))
            if turn not in taken
        ]
        taken.update(run)
        found.append(run)
    return sorted(found)


def responsible(transcript: Transcript, turns: Sequence[int]) -> str | None:
    """Who takes on the task in a moment: who promises, else who is spoken to by name."""
    strongest = max(turns, key=lambda i: weight(transcript.turns[i].text, "actions"), default=None)
    if strongest is None:
        return None
    turn = transcript.turns[strongest]
    if turn.speaker and _PROMISE.search(turn.text):
        return turn.speaker
    for speaker in dict.fromkeys(t.speaker for t in transcript.turns if t.speaker):
        first = speaker.split()[0].rstrip(",")
        if len(first) > 2 and re.search(rf"\b{re.escape(first)}\b", turn.text):
            return speaker
    return None
