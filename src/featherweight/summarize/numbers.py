"""The numbers a text states, however it writes them: 25, 25th, twenty-five, twelve point five."""

import re
from collections.abc import Iterator

_SMALL = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen
"""
_UNITS = {word: value for value, word in enumerate(_SMALL.split())}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_ORDINALS = {
    **{f"{word}th": value for word, value in _UNITS.items() if value > 3},
    **{f"{word[:-1]}ieth": value for word, value in _TENS.items()},
    "first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12,
}  # fmt: skip
# Words that state a number in passing; they can support one but do not demand one.
_LOOSE = {
    "half": (0.5, 50.0), "quarter": (0.25, 25.0), "dozen": (12.0,), "both": (2.0,),
    "couple": (2.0,), "pair": (2.0,), "twice": (2.0,), "double": (2.0,),
}  # fmt: skip
_TOKEN = re.compile(
    r"(?P<digits>\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?P<end>st|nd|rd|th|[kK]\b)?"
    r"|(?P<word>[^\W\d_]+)|(?P<mark>\{[^{}]*\})|(?P<other>[^\s\w])"
)


def numbers(text: str) -> list[tuple[int, int, float]]:
    """(start, end, value) of every number that `text` states outright.

    A lone "one", and the words first, second and third, count things in the telling more often
    than they state a number, so they are left out; figures ("1", "2nd") never are.
    """
    return [(start, end, value) for start, end, value, plain in _parse(text) if not plain]


def readings(text: str) -> set[float]:
    """Every value that `text` could be said to state: generous, for the side that supports."""
    found: set[float] = set()
    last: tuple[int, float] | None = None
    for start, end, value, _ in _parse(text):
        found.add(value)
        if last is not None and not re.search(r"[^\s,-]", text[last[0] : start]):
            before = last[1]
            if 10 <= before < 100 and value < 100:  # nineteen ninety; twelve fifty
                found |= {before * 100 + value, before + value / 100}
            if before < 10 and value < 10:  # digits read out one by one
                found.add(before * 10 + value)
            if before < 10 <= value < 100:  # one fifty
                found |= {before * 100 + value, before + value / 100}
        last = end, value
    for word in re.findall(r"[^\W\d_]+", text.casefold()):
        found.update(_LOOSE.get(word, ()))
        found.update(_LOOSE.get(word.removesuffix("s"), ()))
    return found


def _parse(text: str) -> Iterator[tuple[int, int, float, bool]]:
    """(start, end, value, is it a weak word such as "one" or "first")."""
    tokens = [token for token in _TOKEN.finditer(text) if not token["mark"]]
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token["digits"]:
            value = float(token["digits"].replace(",", ""))
            end = token.end()
            at += 1
            if (token["end"] or "").lower() == "k":
                value *= 1000
            elif at < len(tokens) and (scale := _SCALES.get(_word(tokens[at]))):
                value, end, at = value * scale, tokens[at].end(), at + 1
            yield token.start(), end, value, False
            continue
        word = _word(token)
        if word in _ORDINALS:
            yield token.start(), token.end(), float(_ORDINALS[word]), word in _WEAK
            at += 1
        elif word in _UNITS or word in _TENS or word in ("hundred", "thousand", "million"):
            after, total = _cardinal(tokens, at)
            weak = after == at + 1 and word == "one"
            yield token.start(), tokens[after - 1].end(), total, weak
            at = after
        elif word == "point" and at + 1 < len(tokens) and _word(tokens[at + 1]) in _UNITS:
            after, total = _decimals(tokens, at + 1, 0)  # "point three percent"
            yield token.start(), tokens[after - 1].end(), total, True
            at = after
        else:
            at += 1


_WEAK = frozenset({"first", "second", "third"})


def _word(token: re.Match[str]) -> str:
    return (token["word"] or "").casefold()


def _cardinal(tokens: list[re.Match[str]], at: int) -> tuple[int, float]:
    """Read number words from `at`: (index after the last one, value)."""
    total = current = 0.0
    room = 10**12  # a following unit must be smaller than this to belong to the same number
    while at < len(tokens):
        word = _word(tokens[at])
        following = _word(tokens[at + 1]) if at + 1 < len(tokens) else ""
        if word in _UNITS and (value := _UNITS[word]) < room:
            current += value
            room = 1
        elif word in _TENS and (value := _TENS[word]) < room:
            current += value
            room = 10
        elif word == "hundred" and current < 100:
            current, room = max(current, 1) * 100, 100
        elif word in _SCALES and word != "hundred":
            total, current, room = total + max(current, 1) * _SCALES[word], 0, _SCALES[word]
        elif word in _ORDINALS and room in (10, 100) and _ORDINALS[word] < room:
            return at + 1, total + current + _ORDINALS[word]  # twenty-first
        elif (
            word == "and"
            and room in (100, 1000, 10**6)
            and (following in _UNITS or following in _TENS)
        ):  # a hundred and five
            pass
        elif word == "point" and following in _UNITS:
            return _decimals(tokens, at + 1, total + current)
        elif word == "and" and following == "a" and _is(tokens, at + 2, "half"):
            return at + 3, total + current + 0.5
        elif tokens[at].group() == "-" and (
            following in _UNITS
            or following in _TENS
            or following in _ORDINALS
            or following in _SCALES
        ):
            pass
        else:
            break
        at += 1
    return at, total + current


def _is(tokens: list[re.Match[str]], at: int, word: str) -> bool:
    return at < len(tokens) and _word(tokens[at]) == word


def _decimals(tokens: list[re.Match[str]], at: int, whole: float) -> tuple[int, float]:
    digits = ""
    while at < len(tokens) and (word := _word(tokens[at])) in _UNITS | _TENS:
        digits += str((_UNITS | _TENS)[word])
        at += 1
    return at, float(f"{int(whole)}.{digits}")
