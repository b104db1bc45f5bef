"""Owners and deadlines of action items: only what a cited turn states survives.

A model likes to complete an action item with a plausible name and date. Both are looked for in the
cited turns; what is not there is taken out of the text, not only out of the fields. In doubt a true
name or date goes rather than a false one stays.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from featherweight.summarize.support import contains, stated_owner
from featherweight.summarize.types import Point
from featherweight.transcript.types import Transcript, Turn


def stated_only(point: Point, transcript: Transcript) -> Point:
    """The action item with owner and deadline where cited turns state them, without where not."""
    turns = [transcript.turns[item.turn] for item in point.evidence]
    text, due = _due(point.text, turns)
    text, owner = _owner(text, turns)
    return replace(point, text=text, owner=owner, due=due)


def deadline(text: str) -> str | None:
    """The first date that a text states; how long something takes ("about two days") is none."""
    for found in _DUE.finditer(text):
        lead = (found["lead"] or "").casefold().split()
        if not {"about", "around", "for", "during"} & set(lead):
            when: str = found["led"] or found["bare"]
            return when
    return None


# -- dates -----------------------------------------------------------------------------------------

_NUMBER = (
    r"(?:\d{1,2}(?:st|nd|rd|th)?|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|first"
    r"|second|third|fourth|fifth|tenth|fifteenth|twentieth|couple|few|several)"
)
# Case tells the month from the verb: "they may send it", "march on".
_MONTH = (
    r"(?-i:(?:January|February|March|April|May|June|July|August|September|October|November"
    r"|December)\b|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
_YEAR = r"(?:19|20)\d\d"
_PART = r"(?:morning|afternoon|evening|night)"
# A date wherever it stands.
_HARD = (
    rf"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)days?(?: {_PART})?"
    rf"|(?:today|tomorrow|tonight)(?: {_PART})?|noon|midnight|weekend"
    rf"|{_MONTH}(?: {_NUMBER}\b(?![.:]\d))?(?:,? {_YEAR})?"
    rf"|\d{{4}}-\d\d-\d\d|\d{{1,2}}/\d{{1,2}}/\d{{2,4}}|\d{{1,2}}\.\d{{1,2}}\.(?:\d{{2,4}})?"
    r"|\d{1,2}(?:[:.]\d\d)? ?(?:[ap]m\b|[ap]\.m\.)|\d{1,2} o['’]clock|\d{1,2}:\d\d"
    rf"|(?-i:Q[1-4]|H[12])(?:,? (?:of )?{_YEAR})?|(?-i:EOD|EOW|EOM|COB|ASAP))"
)
# A date behind a word like "by" or "next" only.
_SOFT = (
    rf"(?:minutes?|hours?|(?:working |business )?days?|weeks?|months?|quarters?|years?|sprints?"
    rf"|spring|summer|autumn|winter|{_PART}|business|{_YEAR}|\d{{1,2}}/\d{{1,2}}|christmas|easter)"
)
_POINTER = (
    r"(?:this|next|last|coming|following|end|beginning|start|middle|close|early|late|later|mid)"
)
_GLUE = rf"(?:(?:the|of|half|day|after|{_POINTER}|{_NUMBER})[ -])"
_LEAD = (
    r"(?:(?:(?:is|are|was|were|be) )?due|no later than|by|before|until|till|on|for|at|from|after"
    r"|around|about|during|in|within)"
)
_ANYWHERE = (
    rf"{_GLUE}{{0,4}}(?:{_HARD}|{_POINTER} {_GLUE}{{0,4}}(?:{_SOFT}|meeting|session|time)"
    rf"|{_SOFT} from (?:now|today))"
)
_BEHIND = (
    rf"{_GLUE}{{0,4}}{_SOFT}|(?:the )?\d{{1,2}}(?:st|nd|rd|th)(?=[.,;:)]| (?:and|or|at)\b| \(|$)"
)
_DUE = re.compile(
    rf"(?P<open>\()?(?<![\w'’-])"
    rf"(?:(?P<lead>(?:{_LEAD} ){{1,3}})(?P<led>{_ANYWHERE}|{_BEHIND})|(?P<bare>{_ANYWHERE}))"
    rf"(?!\w)(?P<whose>['’]s? )?(?(open)\)|)",
    re.IGNORECASE,
)


def _due(text: str, turns: Sequence[Turn]) -> tuple[str, str | None]:
    """The text without unstated dates, and the first stated one."""
    due: str | None = None

    def keep_stated(found: re.Match[str]) -> str:
        nonlocal due
        when = found["led"] or found["bare"]
        if any(contains(turn.text, when) for turn in turns):
            due = due or when
            return found[0]
        # "before Friday's meeting" becomes "before the meeting"
        return f"{found['lead'] or ''}the " if found["whose"] else ""

    kept = _DUE.sub(keep_stated, text)
    return (text, due) if kept == text else (_tidy(kept), due)


def _tidy(text: str) -> str:
    """The text without what is left over where words were taken out."""
    text = re.sub(r"\s+(?:(?:and|or|to|until|by|at|on)\s*)?(?=[.,;:!?)]|$)", "", text.strip())
    text = re.sub(r"\(\s*[,;]?\s*\)", "", text)
    text = re.sub(r"(?<=\()[\s,;]+", "", text)
    text = re.sub(r",(?=\s*[.,;:!?)])", "", text)
    text = " ".join(text.split()).lstrip(",;:. ")
    return text[:1].upper() + text[1:]


# -- owners ----------------------------------------------------------------------------------------

_CAPITAL = r"[^\W\d_a-z][\w'’-]*"
_NAME = (
    rf"(?:(?!(?:Ask|Have|Let|Remind|Tell)\b){_CAPITAL}(?: (?:{_CAPITAL}|de|van|von|der)){{0,3}})"
)
_AND = r"(?:,? and |, | & |/)"
_ROLE = (
    r"(?i:(?:(?:the|our|an?) )?(?:[\w'’-]+ ){0,2}?(?:manager|designer|engineer|developer|leader?"
    r"|director|officer|expert|chair\w*|secretary|assistant|analyst|accountant|lawyer|owner|head"
    r"|boss|department|minister|professor|specialist|consultant|coordinator|president|intern))"
)
_SUBJECT = re.compile(
    r"(?P<before>^|[,;:.] |\b(?:that|and|then|so|but|while|have|let|ask(?:s|ed)?|wants?|told) )"
    rf"(?P<who>(?:{_NAME}|{_ROLE})(?:{_AND}(?:{_NAME}|{_ROLE}))*)"
    r"(?=(?P<label>: )| (?:will|would|should|must|shall|can|could|may|needs?|has|have|had|is|are"
    r"|was|were|agree[sd]?|promise[sd]?|offer(?:s|ed)?|volunteer(?:s|ed)?|plans?|planned|to)\b|['’]ll\b)"
)
_AGENT = re.compile(
    r"(?P<before>\(|\b(?i:by|to|for|from|with|let|have|ask(?:s|ed)?|remind|tell|told) )"
    rf"(?P<who>{_NAME}(?:{_AND}{_NAME})*)(?P<label>)(?!\w)"
)
_NOBODY = frozenset(
    """the they we it he she somebody someone everyone everybody group team participants one this
    that these those there action actions next step all both each nobody you i note todo
    task""".split()
)


def _owner(text: str, turns: Sequence[Turn]) -> tuple[str, str | None]:
    """The text with `somebody` for every unstated owner, and the first stated one."""
    owner: str | None = None

    def keep_stated(found: re.Match[str]) -> str:
        nonlocal owner
        names = re.split(_AND, found["who"])
        if names[0].split()[0].casefold() in _NOBODY and not re.match(_ROLE, found["who"]):
            return found[0]
        if found.re is _AGENT and found["who"].isupper():  # "to PDF", "for AMI"
            return found[0]
        known = [name for name in names if _known(name, turns)]
        if found.re is _SUBJECT:
            owner = owner or " and ".join(n for n in known if _is_person(n, turns)) or None
        if len(known) == len(names):
            return found[0]
        nobody = "" if found["label"] else "somebody"
        return f"{found['before']}{' and '.join(known) or nobody}"

    kept = _AGENT.sub(keep_stated, _SUBJECT.sub(keep_stated, text))
    return (text, owner) if kept == text else (_tidy(kept), owner)


def _known(name: str, turns: Sequence[Turn]) -> bool:
    """Whether a turn says the name or the role, or its bearer promises something there."""
    bare = re.sub(r"^(?:the|our|an?) ", "", name, flags=re.IGNORECASE)
    return stated_owner(bare, [(turn.speaker, turn.text) for turn in turns])


def _is_person(name: str, turns: Sequence[Turn]) -> bool:
    """Whether a stated name is a name in the turns too, not a word that opens a sentence."""
    if _DUE.fullmatch(name):
        return False
    if re.fullmatch(_ROLE, name):
        return True
    inside = re.compile(rf"(?<!^)(?<![.?!…] )\b{re.escape(name)}\b|\b{re.escape(name)},")
    return any(_speaks(name, turn) or inside.search(turn.text) for turn in turns)


def _speaks(name: str, turn: Turn) -> bool:
    return turn.speaker is not None and contains(turn.speaker, name)
