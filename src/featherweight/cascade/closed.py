"""When two answers say the same: exactly for short ones that name a choice, by words for the rest.

A short answer is a label that level 1 of online learning can give itself. What is longer has none.
"""

import re
from collections import Counter
from collections.abc import Sequence

from featherweight.tasks.choice import picked

LONGEST = 3  # words of a label
_LETTER = re.compile(r"\W*([a-z])\s*[.):](?:\s|\W*$)")
_WORD = re.compile(r"\w+")


def label(text: str, choices: Sequence[str] = ()) -> str | None:
    """What `text` answers, `None` if it is no short answer.

    With `choices` the text of the one it picks, as `tasks.choice` reads it; without, its letter
    ("B. no" is "b") or its words, at most three, case and marks aside.
    """
    if choices:
        found = picked(text, tuple(choices))
        return None if found is None else " ".join(choices[found].split()).casefold()
    folded = text.strip().casefold()
    words = _WORD.findall(folded)
    if not words or len(words) > LONGEST or "\n" in folded:
        return None
    letter = _LETTER.match(folded)
    return letter[1] if letter else " ".join(words)


def agreement(answer: str, other: str, choices: Sequence[str] = ()) -> float:
    """How far `answer` says what `other` says, 0 to 1: equal labels, else F1 of words.

    F1 is of words with their counts (Rajpurkar et al. 2016, SQuAD), case and marks aside.
    """
    one, two = label(answer, choices), label(other, choices)
    if one is not None and two is not None:
        return float(one == two)
    a, b = Counter(_WORD.findall(answer.casefold())), Counter(_WORD.findall(other.casefold()))
    if not a and not b:
        return 1.0
    return 2 * (a & b).total() / (a.total() + b.total())
