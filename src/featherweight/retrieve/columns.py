"""What the fitted locator sees: for one query, a row of numbers for every window of a text.

Lexical match at several scales (letters, line, window, neighbourhood), feedback from the best
matches, who speaks, and where. A query says more about how it asks than about what ("Summarize
the discussion about ..."), so its terms are also weighted by how rare they are among queries.
Every column is cheap: postings and short convolutions, no product over the vocabulary.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .bm25 import BM25
from .terms import stem, terms, words

Array = NDArray[np.float64]
Columns = dict[str, Array]

SIGMAS = (1, 2, 4, 8)  # of smoothing, in windows
FEEDBACK_WINDOWS, FEEDBACK_TERMS = 4, 25
CROSSED = ("asked", "asked 1", "asked 4", "asked 8", "line", "line 2", "fed 2", "covered near")
_LETTERS = 4
_SPEAKER = re.compile(r"([^:\n]{1,60}): ")
# "What did Marketing think of the screen when discussing button layout?": the end names the topic.
_WHOLE = re.compile(
    r"\s*summari[sz]e|\s*what (?:did|was) (?:the )?(?:group|team|discuss)", re.IGNORECASE
)
_WITHIN = re.compile(
    r"\b(?:when|while|during)\b"
    r"|\bin (?:the|his|her|their) (?:discussion|presentation|conversation)",
    re.IGNORECASE,
)


def narrow(query: str) -> str:
    """What is asked, without the wider topic that it was said under."""
    found = _WITHIN.search(query)
    # a question that begins with the word asks for a time
    return query[: found.start()] if found and found.start() > 10 else query


def grams(text: str) -> list[str]:
    """The 4-letter pieces of each word of `text`: they meet where stems do not."""
    pieces = []
    for word in words(text):
        word = f"^{word}$"
        pieces += [word[at : at + _LETTERS] for at in range(max(len(word) - _LETTERS + 1, 1))]
    return pieces


def smooth(values: Array, sigma: float) -> Array:
    """[n] -> [n], a Gaussian mean over the neighbours that there are."""
    reach = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    cut = slice(reach, reach + len(values))
    mass = np.convolve(np.ones(len(values)), kernel)[cut]
    return np.asarray(np.convolve(values, kernel)[cut] / mass)


def relative(values: Array) -> Array:
    """[n] -> [n], the best is 1."""
    return np.asarray(values / max(values.max(initial=0.0), 1e-9))


def ranks(values: Array) -> Array:
    """[n]: 0 for the highest; ties in order."""
    rank = np.empty(len(values))
    rank[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return rank


class WindowIndex:
    """A text cut into n windows in reading order, with everything that no query changes."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.size = len(texts)
        lines = [(row, line) for row, text in enumerate(texts) for line in text.split("\n")]
        self._row = np.array([row for row, _ in lines], dtype=np.int64)  # of each line
        self.by_window = BM25(texts)
        self.by_line = BM25([line for _, line in lines])
        self.by_letters = BM25(texts, analyze=grams)
        self.terms = [terms(text) for text in texts]
        self.unseen = float(np.log1p((self.size + 0.5) / 0.5))  # the idf of a term nobody said
        self._speakers([line for _, line in lines])
        at = (np.arange(self.size) + 0.5) / max(self.size, 1)
        self.place: Columns = {
            "place": at,
            "beginning": np.exp(-20 * at),
            "end": np.exp(20 * (at - 1)),
        }

    def _speakers(self, lines: Sequence[str]) -> None:
        said = [_SPEAKER.match(line) for line in lines]
        names = sorted({found[1] for found in said if found})
        place = {name: at for at, name in enumerate(names)}
        length = np.array([len(line.split()) for line in lines], dtype=np.float64)
        spoken = np.zeros((len(names), self.size))
        for row, found, number in zip(self._row, said, length, strict=True):
            if found:
                spoken[place[found[1]], row] += number
        total = np.bincount(self._row, weights=length, minlength=self.size)
        self._spoken = spoken / np.maximum(total, 1)  # [speakers, n], shares of words
        # "The Chair (Hon. Anthony Rota)": what stands in brackets may match but need not.
        every = [{stem(word) for word in words(name)} for name in names]
        main = [{stem(word) for word in words(re.sub(r"\(.*", "", name))} for name in names]
        spread = Counter(word for name in every for word in name)
        rare = {word: float(np.log1p(len(every) / count)) for word, count in spread.items()}
        self._names = [
            ({word: rare[word] for word in name}, sum(rare[w] for w in short or name) or 1.0)
            for name, short in zip(every, main, strict=True)
        ]

    def named(self, query: str) -> Array:
        """[speakers]: how much of each speaker's name stands in the query, 0 to 1."""
        said = {stem(word) for word in words(query)}
        shares = [
            min(sum(value for word, value in name.items() if word in said) / full, 1.0)
            for name, full in self._names
        ]
        return np.array(shares, dtype=np.float64)

    def idf(self, term: str) -> float:
        return self.by_window.idf.get(term, self.unseen)

    def columns(self, query: str, rarity: Mapping[str, float]) -> Columns:
        """Feature name -> [n]. `rarity` is how much a query's term says; 1 where it has none."""
        named = self.named(query)
        # A name counts as said when at least a third of it stands there.
        spoken_of = {
            word
            for (name, _), share in zip(self._names, named, strict=True)
            if share > 1 / 3
            for word in name
        }
        asked = {
            term: rarity.get(term, 1.0) * count
            for term, count in Counter(terms(query)).items()
            if term not in spoken_of
        }
        part = set(terms(narrow(query)))
        score = self.by_window.weighted(asked)
        line = np.zeros(self.size)
        np.maximum.at(line, self._row, self.by_line.weighted(asked))
        inner = self.by_window.weighted({t: w for t, w in asked.items() if t in part})
        outer = self.by_window.weighted({t: w for t, w in asked.items() if t not in part})
        ideal = 2.2 * sum(weight * self.idf(term) for term, weight in asked.items()) + 1e-9
        found: Columns = {}
        for name, match in (("asked", score), ("line", line), ("narrow", inner), ("wide", outer)):
            found |= _scales(name, match, ideal)
        letters = self.by_letters.weighted(Counter(grams(" ".join(asked))))
        found |= {"letters": relative(letters), "letters 2": relative(smooth(letters, 2))}
        found |= self._coverage(asked) | self._feedback(asked, score) | self._who(named)
        # A discussion is long and a speaker's opinion short: neighbours matter more to one.
        whole = float(bool(_WHOLE.match(query)))
        someone = float(named.max(initial=0.0) > 1 / 3)
        for name in CROSSED:
            found[f"{name}, whole"] = whole * found[name]
            found[f"{name}, someone"] = someone * found[name]
            found[f"{name}, someone speaks"] = found["named speaks"] * found[name]
        return found | self.place

    def _coverage(self, query: Mapping[str, float]) -> Columns:
        hit = np.zeros((len(query), self.size))
        for row, term in enumerate(query):
            hit[row, self.by_window.rows.get(term, [])] = 1
        weight = np.array([value * self.idf(term) for term, value in query.items()])
        weight = weight / max(weight.sum(), 1e-9)
        near = hit.copy()
        near[:, 1:] = np.maximum(near[:, 1:], hit[:, :-1])
        near[:, :-1] = np.maximum(near[:, :-1], hit[:, 1:])
        return {"covered": weight @ hit, "covered near": weight @ near}

    def _feedback(self, query: Mapping[str, float], score: Array) -> Columns:
        """Pseudo-relevance feedback: what the best places say besides the query's own terms."""
        around = relative(score) + relative(smooth(score, 2))
        gain: dict[str, float] = {}
        for at in np.argsort(-around, kind="stable")[:FEEDBACK_WINDOWS]:
            for term, count in Counter(self.terms[at]).items():
                if term not in query:
                    share = float(around[at] * (1 + np.log(count)))
                    gain[term] = gain.get(term, 0.0) + share * self.idf(term)
        best = sorted(gain, key=lambda term: (-gain[term], term))[:FEEDBACK_TERMS]
        fed = self.by_window.weighted({term: gain[term] for term in best})
        return {"fed": relative(fed), "fed 2": relative(smooth(fed, 2))}

    def _who(self, named: Array) -> Columns:
        best = named.max(initial=0.0)
        share = (named * (named >= max(best - 1e-6, 1 / 3))) @ self._spoken
        return {
            "named speaks": share,
            "named speaks 1": smooth(share, 1),
            "named speaks 4": smooth(share, 4),
        }


def context(probability: Array) -> Columns:
    """What a first stage thinks of a window and of its neighbours, for a second one.

    A gold span is one run of windows, so likely neighbours make a window likelier.
    """
    size = len(probability)
    logit = np.log((probability + 1e-6) / (1 - probability + 1e-6))
    order = np.sort(logit)[::-1]
    away = np.abs(np.arange(size) - int(logit.argmax()))
    found = {
        "first stage": logit,
        "below best": logit - order[0],
        "below fifth": logit - order[min(4, size - 1)],
        "rank of first stage": np.log1p(ranks(logit)),
        "before": np.concatenate([logit[:1], logit[:-1]]),
        "after": np.concatenate([logit[1:], logit[-1:]]),
        "away from best": np.log1p(away),
        "beside best": np.exp(-away / 4),
    }
    for sigma in SIGMAS:
        around = smooth(probability, sigma)
        found[f"likely {sigma}"] = np.log(around + 1e-5)
        found[f"likely {sigma}, of best"] = relative(around)
        found[f"likely {sigma}, rank"] = np.log1p(ranks(around))
    return found


def _scales(name: str, score: Array, ideal: float) -> Columns:
    """A score and its means over ever more neighbours, against the ideal and against the best."""
    found = {name: score / ideal, f"{name}, of best": relative(score)}
    found[f"{name}, rank"] = np.log1p(ranks(score))
    for sigma in SIGMAS:
        around = smooth(score, sigma)
        found[f"{name} {sigma}"] = around / ideal
        found[f"{name} {sigma}, of best"] = relative(around)
    return found
