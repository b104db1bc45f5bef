"""Text to index terms: lower case, no noise marks, no stopwords, light suffix stripping.

Speech needs a little more than text: `{vocalsound}` marks and fillers are dropped, spelled letters
(`l_c_d_`) become one word, and tokenised clitics (`we 're`, `do n't`) are the same as joined ones.
"""

import re
from functools import lru_cache

_MARK = re.compile(r"\{[^{}]*\}")
_WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*(?:['’][^\W_]+)*")


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOPWORDS = word_set(
    """
    a about above after again against all also am an and any are aren as at be because been
    before being below between both but by can cannot could couldn did didn do does doesn doing
    don down during each either else ever every for from further had hadn has hasn have haven
    having he her here hers herself him himself his how however i if in into is isn it its
    itself just let ll m may me might more most must my myself neither no nor not now of off on
    once only or other ought our ours ourselves out over own re s same shall she should shouldn
    since so some such t than that the their theirs them themselves then there these they this
    those though through thus to too under until up upon us ve very was wasn we were weren what
    when where whether which while who whom whose why will with within without won would wouldn
    yet you your yours yourself d n ah aha alright anyway anything basically cos cuz eh er erm
    everything actually gonna gotta ha hey hi hm hmm huh kind kinda know like mean mhm mm mmm
    mmmm nah oh ok okay ooh really right something sort stuff sure thing things think uh uhhuh
    um wanna well whatever yeah yep yes yup
    """
)

# Longest first; what is left must keep at least three letters, one of them a vowel.
_SUFFIXES = (
    "ization", "isation", "ational", "fulness", "ousness", "iveness", "ations", "ingly", "izing",
    "ising", "ments", "ation", "ities", "ators", "edly", "ized", "ised", "ness", "ment", "ings",
    "ible", "able", "ator", "ions", "ally", "ence", "ance", "ity", "ing", "ion", "ies", "ied",
    "ive", "ize", "ise", "our", "est", "ers", "ors", "ely", "ed", "es", "ly", "er", "or", "al",
    "ic", "y", "s", "e",
)  # fmt: skip
_VOWEL = re.compile(r"[aeiouy]")


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """One word to its stem: strips one or two English suffixes, then a doubled last letter.

    >>> stem("designing") == stem("designed") == stem("designs") == stem("design")
    True
    """
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    for _ in range(2):
        for suffix in _SUFFIXES:
            if word.endswith(suffix):
                rest = word[: -len(suffix)]
                if (
                    len(rest) >= 3
                    and _VOWEL.search(rest)
                    and not (suffix == "s" and rest[-1] in "su")
                ):
                    word = rest
                    break
        else:
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls":
        word = word[:-1]
    return word


def words(text: str) -> list[str]:
    """The words of `text` in order, lower case, without noise marks; clitics are cut off."""
    text = _MARK.sub(" ", text).replace("_", "").casefold()
    return [part for found in _WORD.findall(text) for part in re.split("['’]", found)]


def terms(text: str) -> list[str]:
    """The index terms of `text`, in order, repeats kept."""
    return [stem(word) for word in words(text) if word not in STOPWORDS]
