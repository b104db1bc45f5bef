"""Evidence for a summary: the sentences of the meeting that support a point, found and checked.

Nothing here asks a model. `EvidenceFinder.find` ranks the meeting's sentences for a point;
`EvidenceFinder.check` scores whether what is cited supports it and says, in plain words, what does
not fit. How well both work on human summaries is measured in `studies/evidence/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.transcript.types import Transcript

from .comparing import compare
from .features import Array, Columns, SentenceIndex
from .ranker import coefficients, rank, trees
from .support import missing_names, missing_numbers

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
        self._last: tuple[str, Columns, Array] | None = None

    def find(self, point: str, k: int | None = None) -> tuple[Evidence, ...]:
        """The sentences that most likely support `point`, best first.

        With `k`, that many (fewer in a short meeting). Without, as many as are likely enough: the
        best one, and up to ten whose chance passes the fitted threshold. A point without words,
        or without a single word of the meeting, gets none.
        """
        if not any(term in self._index.by_letters.idf for term in self._index.letters(point)):
            return ()
        _, chance = self._ranked(point)
        order = np.argsort(-chance, kind="stable")[: MOST if k is None else max(k, 0)]
        if k is None:
            enough = chance[order] >= coefficients()["find threshold"]
            enough[:1] = True
            order = order[enough]
        return tuple(self._evidence(int(at), float(chance[at])) for at in order)

    def check(self, point: str, evidence: Sequence[Evidence]) -> Support:
        """Whether `evidence` (of this transcript) supports `point`.

        A point with a number that no cited turn states is never supported, whatever its score.
        """
        if not evidence:
            return Support(0.0, False, ("nothing in the meeting resembles this point",))
        if not all(self._sentences([item]) for item in evidence):
            return Support(0.0, False, ("a cited quote is not in its turn",))
        columns = self.support_columns(point, evidence)
        score = trees(columns, coefficients()["support"])
        supported = score >= coefficients()["support threshold"] and not columns["numbers"]
        return Support(
            score, supported, () if supported else self._reasons(point, evidence, columns)
        )

    def _evidence(self, at: int, score: float) -> Evidence:
        number, _, _ = self._index.spans[at]
        turn = self.transcript.turns[number]
        return Evidence(number, turn.speaker, turn.start, self._index.texts[at], score)

    def _ranked(self, point: str) -> tuple[Columns, Array]:
        # `check` follows `find` on the same point, so the last one is kept.
        if self._last is None or self._last[0] != point:
            self._last = point, *rank(self._index, point)
        return self._last[1:]

    def _sentences(self, evidence: Sequence[Evidence]) -> list[int]:
        """Index sentences that the quotes touch."""
        found = set()
        for item in evidence:
            if not 0 <= item.turn < len(self.transcript.turns) or not item.quote.strip():
                continue
            start = self.transcript.turns[item.turn].text.find(item.quote)
            if start < 0:
                continue
            end = start + len(item.quote)
            low, high = np.searchsorted(self._index.turn, [item.turn, item.turn + 1])
            found |= {
                at
                for at in range(low, high)
                if start < self._index.spans[at][2] and self._index.spans[at][1] < end
            }
        return sorted(found)

    def support_columns(self, point: str, evidence: Sequence[Evidence]) -> dict[str, float]:
        """What the support model sees: see `comparing.compare`."""
        turns = sorted({item.turn for item in evidence})
        columns, chance = self._ranked(point)
        return compare(self._index, point, self._sentences(evidence), turns, columns, chance)

    def _reasons(
        self, point: str, evidence: Sequence[Evidence], columns: dict[str, float]
    ) -> tuple[str, ...]:
        turns = sorted({item.turn for item in evidence})
        texts = [self.transcript.turns[turn].text for turn in turns]
        speakers = [self.transcript.turns[turn].speaker or "" for turn in turns]
        reasons = [f"the number {n} is in no cited turn" for n in missing_numbers(point, texts)]
        reasons += [
            f"the name {n} is in no cited turn" for n in missing_names(point, texts, speakers)
        ]
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
