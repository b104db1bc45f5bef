"""From what a model wrote to clean, separate statements."""

import re

from featherweight.retrieve.terms import stem, terms
from featherweight.summarize.sentences import sentences
from featherweight.summarize.wording import PRONOUNS, REPORTING

_BULLET = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,2}[.)])\s+(?=\S)")
_MARKUP = re.compile(r"\*\*|__|^#+\s*|`")
_CLAUSE = re.compile(
    r"[,;]|\s(?:(?:and|but|so|while) (?=(?:the|an?|to|that|they|it|he|she|we|how|what|whether|this"
    r"|these|also|is|are|was|were|will|would|should|has|have|had|\w+ed|\w+ing) )"
    r"|(?:which|because|although|as well as) )",
    re.IGNORECASE,
)
_ABBREVIATED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|vs|e\.g|i\.e|[A-Z])$")
_END = re.compile(r"[.!?…。！？][\"'”’)\]]*$")


_EMPTY = frozenset(
    stem(word)
    for word in """transcript transcription meeting summary conversation topic discussion
    participants group sentence question answer speaker user text issue various different new
    important importance need potential""".split()
)


def listed_points(text: str, cut_off: bool, unfinished: bool = True) -> list[str]:
    """The points of a list; where there is no list, its sentences.

    `cut_off` says that the model ran out of tokens: a last point without an end is dropped, with
    `unfinished` unless it is all there is.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    bullets = [line for line in lines if _BULLET.match(line)]
    if bullets:
        found = [_BULLET.sub("", line) for line in bullets]
    else:
        found = [line[a:b] for line in lines for a, b in sentences(line, longest=10_000)]
    found = [_MARKUP.sub("", point).strip() for point in found]
    found = [point for point in found if any(c.isalnum() for c in point)]
    if cut_off and len(found) > unfinished and not _END.search(found[-1]):
        found.pop()
    return distinct(found)


def finished_sentence(beginning: str, ending: str, cut_off: bool) -> str | None:
    """The first sentence of beginning + ending; `None` where it does not end or only repeats.

    `ending` may lack its full stop, since the model is stopped there.

    A small model that has nothing to say goes round in circles; such a sentence is worthless
    however well its words match the meeting.
    """
    text = " ".join(f"{beginning}{ending}".split())
    ranges = sentences(text, longest=10_000)
    if not ranges or not ending.strip():
        return None
    start, end = ranges[0]
    sentence = text[start:end]
    if _ABBREVIATED.search(sentence):  # stopped at the point of an abbreviation
        return None
    if not _END.search(sentence):
        if cut_off or len(ranges) > 1:
            return None
        sentence += "."
    return None if circular(sentence) or empty(beginning, sentence) else sentence


def shortenings(sentence: str) -> list[str]:
    """The sentence, then what is left of it when it ends before one of its later clauses.

    What a small model makes up mostly hangs on behind: `, which is a very important step`.
    """
    cuts = [found.start() for found in _CLAUSE.finditer(sentence)]
    kept = [f"{sentence[:cut].rstrip(' ,;')}." for cut in reversed(cuts)]
    return [sentence, *(short for short in kept if len(terms(short)) > 3)]


def empty(beginning: str, sentence: str) -> bool:
    """Whether a sentence adds fewer than three words that say anything to its beginning."""
    said = set(terms(sentence[len(beginning) :])) - _EMPTY
    return len(said) < 3


def circular(sentence: str) -> bool:
    """Whether a sentence says three words in a row twice, or hardly any word once."""
    words = [word.casefold() for word in re.findall(r"\w+", sentence)]
    triples = list(zip(words, words[1:], words[2:], strict=False))
    said = terms(sentence)
    return len(set(triples)) < len(triples) or len(set(said)) < 0.7 * len(said)


def dangling(sentence: str) -> bool:
    """Whether a sentence begins with a pronoun that only the sentence before it explains.

    "They agreed to wait" is about the group and stands alone; "They would be working on it" does
    not.
    """
    first, *rest = re.findall(r"\w+", sentence.casefold()) or [""]
    reports = any(stem(word) in REPORTING for word in rest[:2])
    return first in PRONOUNS or (first == "they" and not reports)


def distinct(points: list[str], overlap: float = 0.8) -> list[str]:
    """The points without those whose words another, earlier one already says."""
    kept: list[tuple[str, set[str]]] = []
    for point in points:
        words = set(terms(point)) or {point}
        if all(len(words & seen) < overlap * min(len(words), len(seen)) for _, seen in kept):
            kept.append((point, words))
    return [point for point, _ in kept]
