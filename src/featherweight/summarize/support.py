"""Does cited evidence support a point? What can be compared without a model is compared strictly.

Numbers, names and negation decide far more than their share of the words, and a small model gets
exactly these wrong, so each is looked at by itself; the rest is how much of the point's wording
the cited sentences cover.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from featherweight.retrieve.terms import STOPWORDS, stem, word_set, words

from .numbers import numbers, readings
from .wording import NEGATIONS

_TOKEN = re.compile(r"\{[^{}]*\}|[^\W\d_]+(?:['’][^\W\d_]+)?|[,.;:?!]")
_CLAUSE_END = frozenset({",", ".", ";", ":", "?", "!", "but", "because", "although", "however"})
_VERBS = word_set("like know think mean want need make use work get go sure right")
_REACH = 4  # content words after a negation that it still covers
_CAPITAL = re.compile(r"(?<![\w'’-])[A-Z][\w'’]*(?:-\w+)*")


@dataclass(frozen=True, slots=True)
class Polarity:
    """Content stems of a text: those under a negation, and those not; and its negations."""

    denied: frozenset[str]
    affirmed: frozenset[str]
    scopes: tuple[frozenset[str], ...]


def polarity(text: str) -> Polarity:
    """Which words a text denies: a negation covers the next few content words of its clause."""
    denied: set[str] = set()
    affirmed: set[str] = set()
    scopes: list[set[str]] = []
    left = 0
    for found in _TOKEN.findall(text):
        token = found.casefold().replace("’", "'")
        if token.startswith("{"):
            continue
        if token in _CLAUSE_END:
            left = 0
        elif token in NEGATIONS or token.endswith("n't"):
            scopes.append(set())
            left = _REACH
        elif token not in STOPWORDS or token in _VERBS:
            root = stem(token.partition("'")[0])
            if left:
                denied.add(root)
                scopes[-1].add(root)
                left -= 1
            else:
                affirmed.add(root)
    return Polarity(
        frozenset(denied), frozenset(affirmed), tuple(frozenset(scope) for scope in scopes)
    )


def missing_numbers(point: str, texts: Sequence[str]) -> list[str]:
    """The numbers of the point, as it writes them, that no text states."""
    stated = set().union(*(readings(text) for text in texts))
    return [point[start:end] for start, end, value in numbers(point) if value not in stated]


def proper_names(point: str) -> list[str]:
    """Capitalised words that do not open a sentence, and abbreviations wherever they stand."""
    names = []
    for found in _CAPITAL.finditer(point):
        name = found.group()
        before = point[: found.start()].rstrip(" \"'“‘(")
        opens = not before or before[-1] in ".?!:"
        abbreviation = len(name) > 1 and name.isupper()
        if (not opens or abbreviation) and name not in ("I", "I'm", "I've", "I'd", "I'll"):
            names.append(re.sub(r"['’]s?$", "", name))
    return names


def missing_names(point: str, texts: Sequence[str], speakers: Sequence[str]) -> list[str]:
    """The point's names that no text contains and no speaker of a cited turn bears."""
    said = {stem(word) for text in (*texts, *speakers) for word in words(text)}
    initials = {"".join(part[0] for part in name.split()).casefold() for name in speakers if name}
    return [
        name
        for name in proper_names(point)
        if not all(stem(word) in said or word in initials for word in words(name))
    ]


def negation_features(
    point: Polarity,
    quotes: Sequence[Polarity],
    chances: Sequence[float],
    weight: Mapping[str, float],
) -> dict[str, float]:
    """How the point's negations and the quotes' negations fit each other, each 0 to 1.

    `chances` weigh the quotes and `weight` the stems (idf).
    """
    denied = frozenset[str]().union(*(quote.denied for quote in quotes))
    affirmed = frozenset[str]().union(*(quote.affirmed for quote in quotes))
    negative = [quote for quote in quotes if quote.scopes]
    spoken = frozenset[str]().union(*(quote.denied | quote.affirmed for quote in negative))
    count = max(len(point.scopes), 1)
    total = sum(chances) + 1e-9
    share = sum(c for quote, c in zip(quotes, chances, strict=True) if quote.scopes) / total
    shared = [term for term in point.affirmed if term in denied or term in affirmed]
    against = [term for term in shared if term not in affirmed]
    turned = [term for term in point.denied if term in affirmed and term not in denied]

    def part(some: Sequence[str], of: Iterable[str]) -> float:
        whole = sum(weight.get(term, 1.0) for term in of)
        return sum(weight.get(term, 1.0) for term in some) / whole if whole else 0.0

    return {
        # Of the point's negations: those whose words no quote denies; those whose words are in no
        # quote that has a negation at all.
        "denial unheard": sum(scope.isdisjoint(denied) for scope in point.scopes) / count,
        "denial far": sum(scope.isdisjoint(spoken) for scope in point.scopes) / count,
        # How much of the quotes' weight lacks a negation, or has one, unlike the point.
        "denial alone": (1 - share) if point.scopes else 0.0,
        "denial ignored": 0.0 if point.scopes else share,
        # What the point affirms and the quotes only deny, and the mirror image.
        "denied elsewhere": part(against, shared),
        "affirmed elsewhere": part(turned, point.denied),
    }


PROMISE = re.compile(
    r"\bi(?: ?['’] ?(?:ll|d|m (?:going to|gonna))| am going to"
    r"| (?:will|shall|can|could|would|should|have to|need to|must))\b|\blet me\b",
    re.IGNORECASE,
)
"""Somebody undertakes something in the first person."""


def contains(text: str, value: str) -> bool:
    """Whether `text` has the words of `value` as they are, whole, in any case; `the` is skipped."""
    wanted = [re.escape(word) for word in value.split() if word.casefold() != "the"]
    pattern = r"(?<!\w)" + r"\W+(?:the\W+)?".join(wanted) + r"(?!\w)"
    return bool(wanted) and re.search(pattern, text, re.IGNORECASE) is not None


def stated_owner(owner: str, turns: Sequence[tuple[str | None, str]]) -> bool:
    """Is someone stated as the one who does a thing, in (speaker, text) of cited turns?

    Yes if a text says the name as it is; or if a turn by that speaker undertakes it in the first
    person ("I will send it", "let me"). A speaker who says "you will" or "she will" owns nothing.
    """
    return any(
        contains(text, owner)
        or (speaker is not None and contains(speaker, owner) and PROMISE.search(text))
        for speaker, text in turns
    )
