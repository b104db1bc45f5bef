"""What the evidence ranker sees: for one point, a row of numbers for every sentence of a meeting.

Lexical match at four scales (letters, sentence, neighbourhood, turn), feedback from the best
matches, who speaks, and the sentence's own shape. Every column is cheap: postings and cumulative
sums only, no product over the vocabulary.
"""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from featherweight.retrieve import BM25
from featherweight.retrieve.terms import stem, terms, words
from featherweight.transcript.types import Transcript

from .numbers import numbers, readings
from .sentences import sentences
from .wording import AGREEMENT, ASKING, FIRST_PERSON, NEGATIONS, REPORTING

Array = NDArray[np.float64]
Columns = dict[str, Array]

# A word that reports speech, or names a speaker, says little about what was said.
FAINT = 0.2
FEEDBACK_SENTENCES, FEEDBACK_TERMS = 8, 15
_LETTERS = 4


def grams(text: str) -> list[str]:
    """The 4-letter pieces of each word of `text`: they meet where stems do not."""
    pieces = []
    for word in words(text):
        word = f"^{word}$"
        pieces += [word[at : at + _LETTERS] for at in range(max(len(word) - _LETTERS + 1, 1))]
    return pieces


def smooth(values: Array, sigma: float) -> Array:
    """[n] -> [n], a Gaussian mean over neighbours; beyond the ends there is nothing."""
    reach = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    mean = np.convolve(values, kernel / kernel.sum())
    return mean[reach : reach + len(values)].astype(np.float64)


def near(hit: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """[q, n] -> [q, n]: is there a hit at most `reach` columns away?"""
    n = hit.shape[1]
    total = np.concatenate([np.zeros((len(hit), 1), np.int64), np.cumsum(hit, axis=1)], axis=1)
    at = np.arange(n)
    return total[:, np.minimum(at + reach + 1, n)] > total[:, np.maximum(at - reach, 0)]


def relative(values: Array) -> Array:
    share: Array = values / max(values.max(initial=0.0), 1e-9)
    return share


def ranks(values: Array) -> Array:
    """[n]: 0 for the highest; ties in order."""
    rank = np.empty(len(values))
    rank[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return rank


class SentenceIndex:
    """A meeting cut into n sentences, with everything about it that no point changes."""

    def __init__(self, transcript: Transcript) -> None:
        self.turns = transcript.turns
        self.spans = [
            (number, start, end)
            for number, turn in enumerate(self.turns)
            for start, end in sentences(turn.text)
        ]
        self.texts = [self.turns[turn].text[start:end] for turn, start, end in self.spans]
        self.size = len(self.spans)
        self.turn = np.array([turn for turn, _, _ in self.spans], dtype=np.int64)
        self.by_sentence = BM25(self.texts)
        self.by_turn = BM25([turn.text for turn in self.turns])
        self.by_letters = BM25(self.texts, analyze=grams)
        self.terms = [terms(text) for text in self.texts]
        self.unseen = float(np.log1p((self.size + 0.5) / 0.5))  # the idf of a term nobody said
        self._pairs = [set(pairwise(found)) for found in self.terms]
        self._speakers()
        self._shape()

    def idf(self, term: str) -> float:
        return self.by_sentence.idf.get(term, self.unseen)

    def _speakers(self) -> None:
        names = [turn.speaker or "" for turn in self.turns]
        self.speakers = sorted(set(names))
        place = {name: at for at, name in enumerate(self.speakers)}
        self.speaker = np.array([place[names[turn]] for turn in self.turn], dtype=np.int64)
        # "The Chair (Hon. Anthony Rota)": what stands in brackets may match but need not.
        main = [{stem(word) for word in words(re.sub(r"\(.*", "", name))} for name in self.speakers]
        every = [{stem(word) for word in words(name)} for name in self.speakers]
        spread = Counter(word for name in every for word in name)
        rare = {word: float(np.log1p(len(every) / count)) for word, count in spread.items()}
        self._names = [{word: rare[word] for word in name} for name in every]
        self._full = [
            sum(rare[word] for word in name) or sum(all_.values()) or 1.0
            for name, all_ in zip(main, self._names, strict=True)
        ]
        self._initials = [
            "".join(word[0] for word in name.split()).upper() for name in self.speakers
        ]

    def named(self, point: str) -> Array:
        """[speakers]: how much of each speaker's name stands in the point, 0 to 1."""
        said = {stem(word) for word in words(point)}
        capitals = set(re.findall(r"\b[A-Z]{2,3}\b", point))
        shares = [
            1.0 if initials in capitals and len(initials) > 1
            else min(sum(value for word, value in name.items() if word in said) / full, 1.0)
            for name, full, initials in zip(self._names, self._full, self._initials, strict=True)
        ]  # fmt: skip
        return np.array(shares)

    def _shape(self) -> None:
        said = [set(words(text)) for text in self.texts]
        number = np.array([len(text.split()) for text in self.texts], dtype=np.float64)
        distinct = np.array([len(set(found)) for found in self.terms], dtype=np.float64)
        weight = np.array([sum(self.idf(term) for term in set(found)) for found in self.terms])
        in_turn = np.bincount(self.turn, minlength=len(self.turns)).astype(float)
        first = np.concatenate([[0], np.cumsum(in_turn)[:-1]]) if len(in_turn) else np.zeros(0)
        turn_words = np.bincount(self.turn, weights=number, minlength=len(self.turns))

        def any_of(chosen: frozenset[str]) -> Array:
            return np.array([not chosen.isdisjoint(text) for text in said], dtype=np.float64)

        self.question = np.array(
            [text.rstrip(" \"'”’)").endswith("?") for text in self.texts], float
        )
        self.agreement = any_of(AGREEMENT)
        self.negation = any_of(NEGATIONS)
        self.readings = [readings(text) for text in self.texts]
        self.shape: Columns = {
            "words": np.log1p(number),
            "terms": np.log1p(distinct),
            "weight": np.log1p(weight),
            "rarity": weight / np.maximum(distinct, 1) / self.unseen,
            "place in turn": np.log1p(np.arange(self.size) - first[self.turn]),
            "sentences in turn": np.log1p(in_turn[self.turn]),
            "words in turn": np.log1p(turn_words[self.turn]),
            "question": self.question,
            "first person": any_of(FIRST_PERSON),
            "negation": self.negation,
            "agreement": self.agreement,
        }

    def letters(self, text: str) -> list[str]:
        return self.by_letters.analyze(text)

    def name_words(self, speaker: int) -> list[str]:
        """Stems of a speaker's name."""
        return list(self._names[speaker])

    def query(self, point: str) -> dict[str, float]:
        """The point's terms and their weights: faint where they only report, or name a speaker."""
        named = self.named(point)
        # A name counts as said when at least a third of it stands there.
        faint = {
            word
            for name, share in zip(self._names, named, strict=True)
            if share > 1 / 3
            for word in name
        }
        return {term: FAINT if term in REPORTING or term in faint else 1.0 for term in terms(point)}

    def columns(self, point: str) -> Columns:
        """Feature name -> [n], for the first stage."""
        query = self.query(point)
        score = self.by_sentence.weighted(query)
        ideal = 2.2 * sum(weight * self.idf(term) for term, weight in query.items()) + 1e-9
        found = {"sentence": score / ideal, "sentence, of best": relative(score)}
        found["rank"] = np.log1p(ranks(score))
        turn = self.by_turn.weighted(query)[self.turn]
        found |= {"turn": turn / ideal, "turn, of best": relative(turn)}
        for sigma in (1, 3, 10, 40):
            around = smooth(score, sigma)
            found[f"around {sigma}"] = around / ideal
            found[f"around {sigma}, of best"] = relative(around)
        found |= self._coverage(query)
        found |= self._letters(point)
        found |= self._feedback(query, relative(score), found["around 3, of best"])
        pairs = terms(point)
        wanted = set(pairwise(pairs))
        found["pairs"] = np.array([len(wanted & pair) for pair in self._pairs], dtype=np.float64)
        return found | self._who(point) | self._manner(point, query) | self.shape

    def _coverage(self, query: Mapping[str, float]) -> Columns:
        hit = np.zeros((len(query), self.size), dtype=np.bool_)
        for row, term in enumerate(query):
            hit[row, self.by_sentence.rows.get(term, [])] = True
        weight = np.array([value * self.idf(term) for term, value in query.items()])
        weight = weight / max(weight.sum(), 1e-9)
        found = {f"covered within {reach}": weight @ near(hit, reach) for reach in (1, 3, 8)}
        known = np.array([term in self.by_sentence.idf for term in query], dtype=np.float64)
        return found | {
            "covered": weight @ hit,
            "terms met": np.log1p(hit.sum(axis=0)),
            "never said": np.full(self.size, weight @ (1 - known)),
        }

    def _letters(self, point: str) -> Columns:
        query = Counter(self.letters(point))
        score = self.by_letters.weighted(query)
        idf = self.by_letters.idf
        ideal = 2.2 * sum(idf.get(piece, self.unseen) for piece in query) + 1e-9
        return {
            "letters": score / ideal,
            "letters, of best": relative(score),
            "letters around, of best": relative(smooth(score, 3)),
        }

    def _feedback(self, query: Mapping[str, float], score: Array, around: Array) -> Columns:
        """Pseudo-relevance feedback: what the best matches say besides the query's own terms."""
        gain: dict[str, float] = {}
        for at in np.argsort(-(score + 0.5 * around), kind="stable")[:FEEDBACK_SENTENCES]:
            for term in self.terms[at]:
                if term not in query:
                    share = float(score[at]) / (1 + len(self.terms[at]) / 8)
                    gain[term] = gain.get(term, 0.0) + share
        best = sorted(gain, key=lambda term: (-gain[term] * self.idf(term), term))[:FEEDBACK_TERMS]
        more = self.by_sentence.weighted({term: gain[term] for term in best})
        return {"feedback": relative(more), "feedback around": relative(smooth(more, 3))}

    def _who(self, point: str) -> Columns:
        named = self.named(point)
        best = named.max(initial=0.0)
        clear = relative(named)[self.speaker] if best > 1 / 3 else np.zeros(self.size)
        return {
            "speaker": named[self.speaker],
            "speaker, of best": clear,
            "speaker before": np.concatenate([[0.0], clear[:-1]])[: self.size],
            "some speaker": np.full(self.size, best),
        }

    def _manner(self, point: str, query: Mapping[str, float]) -> Columns:
        said = set(words(point))
        stated = {value for _, _, value in numbers(point)}
        shared = [len(stated & found) / max(len(stated), 1) for found in self.readings]
        found = {"numbers": np.array(shared, dtype=np.float64)}
        for name, chosen, there in (
            ("asking", ASKING, self.question),
            ("agreeing", AGREEMENT, self.agreement),
            ("negating", NEGATIONS, self.negation),
        ):
            here = float(not chosen.isdisjoint(said))
            found |= {name: here * there, f"{name} point": np.full(self.size, here)}
        return found | {"point terms": np.full(self.size, np.log1p(len(query)))}

    def context(self, probability: Array) -> Columns:
        """Second stage: what the first stage thinks of this sentence and of its neighbours.

        Evidence of one point stands together, so a likely neighbour makes a sentence likelier.
        """
        logit = np.log((probability + 1e-6) / (1 - probability + 1e-6))
        order = np.sort(logit)[::-1]
        in_turn = np.zeros(len(self.turns))
        np.maximum.at(in_turn, self.turn, probability)
        best = int(logit.argmax())
        found = {
            "first stage": logit,
            "below best": logit - order[0],
            "below fourth": logit - order[min(3, len(order) - 1)],
            "below tenth": logit - order[min(9, len(order) - 1)],
            "rank of first stage": np.log1p(ranks(logit)),
            "before": np.concatenate([[-10.0], logit[:-1]]),
            "after": np.concatenate([logit[1:], [-10.0]]),
            "best of turn": np.log(in_turn[self.turn] + 1e-5),
            "distance to best": np.log1p(np.abs(np.arange(self.size) - best)),
            "turn of best": (self.turn == self.turn[best]).astype(float),
        }
        for sigma in (1, 3, 10, 40):
            around = smooth(probability, sigma)
            found[f"likely around {sigma}"] = np.log(around + 1e-5)
            found[f"likely around {sigma}, of best"] = relative(around)
        return found
