"""Evidence for a summary: the sentences of the meeting that support a point, found and checked.

Nothing here asks a model. `EvidenceFinder.find` ranks the meeting's sentences for a point;
`EvidenceFinder.check` scores whether what is cited supports it and says, in plain words, what does
not fit. How well both work on human summaries is measured in `studies/evidence/`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.retrieve.terms import stem, words
from featherweight.transcript.types import Transcript

from .features import Array, SentenceIndex
from .ranker import coefficients, likelihoods, logistic
from .support import (
    missing_names,
    missing_numbers,
    negation_features,
    polarity,
)

MOST = 10  # sentences, when `find` decides how many


@dataclass(frozen=True, slots=True)
class Evidence:
    """One cited sentence. `quote` is a piece of `transcript.turns[turn].text`, unchanged."""

    turn: int
    speaker: str | None
    start: float | None
    quote: str
    score: float


@dataclass(frozen=True, slots=True)
class Support:
    """`score` from 0 to 1; `reasons` say what speaks against the point, in plain English."""

    score: float
    supported: bool
    reasons: tuple[str, ...]


class EvidenceFinder:
    """Built once for a transcript; then `find` and `check` take a few milliseconds a point."""

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        self._index = SentenceIndex(transcript)
        self._last: tuple[str, Array] = ("", np.zeros(0))

    def find(self, point: str, k: int | None = None) -> tuple[Evidence, ...]:
        """The sentences that most likely support `point`, best first.

        With `k`, that many (fewer in a short meeting). Without, as many as are likely enough: the
        best one, and up to ten whose chance passes the fitted threshold. A point without words,
        or without a single word of the meeting, gets none.
        """
        if not any(term in self._index.by_letters.idf for term in self._index.letters(point)):
            return ()
        chance = self._likelihoods(point)
        order = np.argsort(-chance, kind="stable")[: MOST if k is None else max(k, 0)]
        if k is None:
            enough = chance[order] >= coefficients()["find threshold"]
            enough[:1] = True
            order = order[enough]
        return tuple(self._evidence(int(at), float(chance[at])) for at in order)

    def check(self, point: str, evidence: Sequence[Evidence]) -> Support:
        """Whether `evidence` (of this transcript) supports `point`."""
        if not evidence:
            return Support(0.0, False, ("nothing in the meeting resembles this point",))
        columns = self.support_columns(point, evidence)
        score = float(logistic(columns, coefficients()["support"]))
        supported = score >= coefficients()["support threshold"]
        return Support(score, supported, () if supported else self._reasons(point, evidence, columns))

    def _evidence(self, at: int, score: float) -> Evidence:
        number, _, _ = self._index.spans[at]
        turn = self.transcript.turns[number]
        return Evidence(number, turn.speaker, turn.start, self._index.texts[at], score)

    def _likelihoods(self, point: str) -> Array:
        # `check` follows `find` on the same point.
        if self._last[0] != point or not len(self._last[1]):
            self._last = point, likelihoods(self._index, point)
        return self._last[1]

    def _sentences(self, evidence: Sequence[Evidence]) -> list[int]:
        """Index sentences that the quotes touch."""
        found = set()
        for item in evidence:
            start = self.transcript.turns[item.turn].text.find(item.quote)
            end = start + len(item.quote)
            low, high = np.searchsorted(self._index.turn, [item.turn, item.turn + 1])
            found |= {
                at
                for at in range(low, high)
                if start < self._index.spans[at][2] and self._index.spans[at][1] < end
            }
        return sorted(found)

    def support_columns(self, point: str, evidence: Sequence[Evidence]) -> dict[str, float]:
        """What the support model sees; every column compares the point with what is cited."""
        index = self._index
        cited = self._sentences(evidence)
        turns = sorted({item.turn for item in evidence})
        texts = [self.transcript.turns[turn].text for turn in turns]
        speakers = [self.transcript.turns[turn].speaker or "" for turn in turns]
        chance = np.sort(self._likelihoods(point)[cited])[::-1] if cited else np.zeros(1)
        query = index.query(point)
        weight = {term: value * index.idf(term) for term, value in query.items()}
        total = sum(weight.values()) or 1.0

        def covered(sentences: Sequence[int]) -> float:
            said = {term for at in sentences for term in index.terms[at]}
            return sum(value for term, value in weight.items() if term in said) / total

        around = {at + step for at in cited for step in (-1, 0, 1)} & set(range(index.size))
        letters = index.letters(point)
        heard = {piece for at in cited for piece in index.letters(index.texts[at])}
        letter_weight = {piece: index.by_letters.idf.get(piece, index.unseen) for piece in letters}
        columns = {
            "best": float(np.log((chance[0] + 1e-6) / (1 - chance[0] + 1e-6))),
            "expected": float(np.log(chance.sum() + 1e-3)),
            "covered": covered(cited),
            "covered around": covered(sorted(around)),
            "best covered": max((covered([at]) for at in cited), default=0.0),
            "letters": sum(letter_weight[piece] for piece in letters if piece in heard)
            / (sum(letter_weight.values()) or 1.0),
            "never said": sum(
                value for term, value in weight.items() if term not in index.by_sentence.idf
            )
            / total,
            "numbers": float(bool(missing_numbers(point, texts))),
            "names": float(bool(missing_names(point, texts, speakers))),
        }
        quotes = [polarity(item.quote) for item in evidence]
        idf = {term: index.idf(term) for term in query}
        return columns | negation_features(polarity(point), quotes, idf) | self._who(point, turns)

    def _who(self, point: str, turns: Sequence[int]) -> dict[str, float]:
        """Do the named speakers say what the point says, when their names are not looked at?"""
        named = self._index.named(point)
        if named.max(initial=0.0) <= 0.5:
            return {"unheard": 0.0, "others": 0.0, "others by far": 0.0}
        chosen = np.flatnonzero(named > 0.5)
        names = {word for at in chosen for word in self._index.name_words(int(at))}
        bare = re.sub(r"[^\W_]+", lambda found: "" if stem(found[0].casefold()) in names else found[0], point)
        chance = likelihoods(self._index, bare)
        mine = np.isin(self._index.speaker, chosen)
        top = np.argsort(-chance, kind="stable")[:10]
        share = float(chance[top][mine[top]].sum() / chance[top].sum())
        logit = np.log((chance + 1e-6) / (1 - chance + 1e-6))
        gap = float(logit.max() - logit[mine].max(initial=-14.0))
        cited = {self._index.speakers.index(self.transcript.turns[t].speaker or "") for t in turns}
        texts = {stem(word) for t in turns for word in words(self.transcript.turns[t].text)}
        unheard = [
            at for at in chosen
            if at not in cited and not set(self._index.name_words(int(at))) & texts
        ]
        return {"unheard": len(unheard) / len(chosen), "others": 1 - share, "others by far": gap}

    def _reasons(self, point: str, evidence: Sequence[Evidence], columns: dict[str, float]) -> tuple[str, ...]:
        turns = sorted({item.turn for item in evidence})
        texts = [self.transcript.turns[turn].text for turn in turns]
        speakers = [self.transcript.turns[turn].speaker or "" for turn in turns]
        reasons = [f"the number {n} is in no cited turn" for n in missing_numbers(point, texts)]
        reasons += [f"the name {n} is in no cited turn" for n in missing_names(point, texts, speakers)]
        if columns["denial far"]:
            reasons.append("the point denies something that no cited sentence denies")
        if columns["denied elsewhere"]:
            reasons.append("a cited sentence denies what the point affirms")
        if columns["unheard"]:
            reasons.append("a speaker the point names is in no cited turn")
        elif columns["others"] > 0.5:
            reasons.append("others say this more clearly than the speaker the point names")
        if not reasons:
            reasons.append("the cited sentences cover too little of what the point says")
        return tuple(reasons)
