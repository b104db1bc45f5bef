"""Owners and deadlines of action items: only what a cited turn states survives.

A model likes to complete an action item with a plausible name and date. Both are looked for in the
cited turns; what is not there is taken out of the text, not only out of the fields.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from featherweight.summarize.support import stated, stated_owner
from featherweight.summarize.types import Point
from featherweight.transcript.types import Transcript, Turn

_DAY = (
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)day|tomorrow|tonight|today|noon|midnight"
    r"|(?:this|next) (?:week|month|quarter|year|meeting|time|morning|afternoon|evening)"
    r"|(?:the )?end of (?:the |this |next )?(?:day|week|month|quarter|year)"
    r"|(?:the )?(?:\d{1,2}(?:st|nd|rd|th)?(?: of)? )?(?:january|february|march|april|may|june|july"
    r"|august|september|october|november|december)(?: \d{1,2}(?:st|nd|rd|th)?)?(?:,? \d{4})?"
    r"|\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}(?:/\d{2,4})?|\d{1,2}\.\d{1,2}\.(?:\d{2,4})?"
    r"|\d{1,2}(?::\d{2})? ?(?:[ap]\.?m\.?)"
    r"|(?:the )?\d{1,2}(?:st|nd|rd|th)"
    r"|(?:in |within )(?:\w+ )(?:minutes?|hours?|days?|weeks?|months?)"
)
_DUE = re.compile(
    rf"\s*[,(]?\s*\b(?:(?:by|before|until|till|on|due|for|at|from)\s+)*"
    rf"(?P<when>(?:next )?(?:{_DAY}))\b\)?",
    re.IGNORECASE,
)
_OWNER = re.compile(
    r"^(?P<who>[^\W\d_][\w.'’-]*(?: [^\W\d_][\w.'’-]*){0,3}?)"
    r"(?P<rest>:\s|\s+(?:will|would|should|must|shall|needs?|has|have|had|is|was|agreed|promised"
    r"|offered|volunteered|plans?|is going|to)\b)"
)
_NOBODY = frozenset(
    """the they we it he she somebody someone everyone everybody group team participants one this
    that there action next step all nobody you i""".split()
)


def stated_only(point: Point, transcript: Transcript) -> Point:
    """The action item with owner and deadline where cited turns state them, without where not."""
    turns = [transcript.turns[item.turn] for item in point.evidence]
    text, due = _due(point.text, turns)
    text, owner = _owner(text, turns)
    return replace(point, text=text, owner=owner, due=due)


def deadline(text: str) -> str | None:
    """The first deadline that a text states."""
    found = _DUE.search(text)
    return found["when"] if found else None


def _due(text: str, turns: Sequence[Turn]) -> tuple[str, str | None]:
    """The text without unstated deadlines, and the first stated one."""
    due: str | None = None

    def keep_stated(found: re.Match[str]) -> str:
        nonlocal due
        if not stated(found["when"], [turn.text for turn in turns]):
            return ""
        due = due or found["when"]
        return found[0]

    text = _DUE.sub(keep_stated, text)
    return re.sub(r"\s+([.,;])", r"\1", text).strip(), due


def _owner(text: str, turns: Sequence[Turn]) -> tuple[str, str | None]:
    """The text with an unstated owner as `Somebody`, and the stated one."""
    found = _OWNER.match(text)
    if not found or set(found["who"].casefold().split()) & _NOBODY:
        return text, None
    if stated_owner(found["who"], [(turn.speaker, turn.text) for turn in turns]):
        return text, found["who"]
    rest = " will " if found["rest"].startswith(":") else found["rest"]
    return f"Somebody{rest}{text[found.end() :]}", None
