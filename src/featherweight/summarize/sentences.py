"""Cut a turn of speech into sentences, as character ranges of the turn's own text."""

import re

# A word that ends with a point without ending a sentence.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:Mr|Mrs|Ms|Dr|Prof|Hon|Rt|St|No|vs|e\.g|i\.e|etc|[A-Z])\.$"
)
LONGEST_ABBREVIATION = 8  # characters, with the white space before it; longer is never looked at
_STOP = re.compile(r"(?:[.?!…]+|[。？！])[\"'”’)\]]*(?=\s|$)|(?<=[。？！])")
_JOINT = re.compile(
    r"[,;:—–-]\s+|\s*\{[^{}]*\}\s*|\s+(?=(?:and|but|so|because|cause|then|or|if|which|when|that)\s)"
)


def sentences(text: str, longest: int = 40) -> list[tuple[int, int]]:
    """Ranges (start, end) in `text`, in order, that together hold every character but white space.

    A sentence ends at `.`, `?`, `!` or `…` before white space. Speech is often written without
    stops: what is longer than `longest` words is halved at the joint (a comma, a noise mark, a
    conjunction, else any white space) nearest to its middle, until every piece is short enough.
    """
    ranges, start = [], 0
    for stop in _STOP.finditer(text):
        piece = text[max(start, stop.end() - LONGEST_ABBREVIATION) : stop.end()]
        if stop.group().startswith(".") and _ABBREVIATION.search(piece):
            continue
        ranges += _short(text, start, stop.end(), longest)
        start = stop.end()
    return ranges + _short(text, start, len(text), longest)


def _short(text: str, start: int, end: int, longest: int) -> list[tuple[int, int]]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end -= len(piece) - len(piece.rstrip())
    if start >= end:
        return []
    if len(text[start:end].split()) <= longest:
        return [(start, end)]
    middle = (start + end) / 2
    for joints in (_JOINT, re.compile(r"\s+")):
        cuts = [start + found.end() for found in joints.finditer(text[start:end])]
        cuts = [cut for cut in cuts if abs(cut - middle) < (end - start) / 3]
        if cuts:
            cut = min(cuts, key=lambda at: abs(at - middle))
            return _short(text, start, cut, longest) + _short(text, cut, end, longest)
    return [(start, end)]
