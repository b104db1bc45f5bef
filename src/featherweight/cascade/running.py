"""A score while the answer is written, and the highest that it can still become.

No token can be better than certain, so what is missing is counted as 0 (see `tokens`): an answer
whose bound is below the threshold will be passed on whatever comes, and need not be finished.
Rounding is monotone, hence a bound made with the final score's own operations is never below it;
the exceptions get a slack, and say so.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence

import numpy as np

from featherweight.cascade.learned import Boosting, Learned
from featherweight.cascade.scores import Score
from featherweight.cascade.tokens import (
    ALPHAS,
    between,
    between_one,
    feature_rows,
    positions,
    value,
)
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError

TINY = float(np.finfo(np.float64).tiny)
SLACK = 4 * float(np.finfo(np.float64).eps)
"""Of the lower neighbour of a quantile. With more tokens a quantile moves up between the same two
neighbours, but `between` is not monotone in the share: two of its results are off by at most
3 eps |low|, together. On the lower neighbour itself nothing has moved, and none is needed."""
FEWEST, WORK = 16, 200
"""A learned rule's bound: tokens between two, and how many numbers looked at are worth one more."""


class Running:
    """One answer's score, token by token.

    `n_max` is the most tokens that the answer can have: the smaller of max_tokens and the room left
    in the context. `model` is named in errors. Push only tokens that will stay: what a stop string
    may still cut off belongs to no answer yet.

    Raises `CascadeError` where `n_max` is not positive.
    """

    def __init__(self, score: Score | Learned, n_max: int, model: str = "the model") -> None:
        if n_max < 1:
            raise CascadeError(
                f"{model}: an answer of at most {n_max} tokens has no score; shorten the prompt or "
                "raise max_tokens."
            )
        self._score, self._n_max, self._model = score, n_max, model
        self._learned = score if isinstance(score, Learned) else None
        self._alpha = None if isinstance(score, Learned) else score.alpha
        self._name = "learned" if isinstance(score, Learned) else score.name
        self._stream = "token_logprobs" if isinstance(score, Learned) else score.stream
        self._sorts = self._learned is not None or self._alpha is not None
        self._ordered: list[float] = []
        self._last = 0.0
        self._total = self._before = 0.0  # all values in turn; all but the last
        self._n = 0
        self._known, self._next = np.inf, FEWEST  # of a learned rule: its bound, when to look again

    def push(
        self, logprob: float | None, margin: float | None = None, entropy: float | None = None
    ) -> None:
        """One token more; of its numbers the one that the score is made of must be there.

        Raises `CascadeError` where that is missing or impossible, and for a token too many: the
        bound would not have held.
        """
        number = logprob
        if self._stream != "token_logprobs":
            number = margin if self._stream == "margins" else entropy
        if self._n == self._n_max:
            raise CascadeError(
                f"{self._model}: it wrote more than the {self._n_max} tokens that it may; raise "
                "max_tokens or correct the engine."
            )
        if self._name == "length":
            value(self._stream, number, self._where())  # as in a log
            found = -1.0
        else:
            found = value(self._stream, number, self._where())
        self._n += 1
        self._before = self._total
        self._total += found
        if self._sorts:
            self._last = found
            insort(self._ordered, found)

    def final(self, ended: bool) -> float:
        """The score of the answer as it stands, same bits as `score_answers`.

        `ended`: the last token is the end token. There has to be one.
        """
        assert self._n, "an answer without tokens has no score, see `Answer.failed`"
        drop = ended and not self._score.end and self._n > 1
        n = self._n - drop
        total = self._before if drop else self._total
        if self._learned is not None:
            kept = np.array([self._kept() if drop else self._ordered])
            row = feature_rows(kept, np.array([total]), np.array([n]))
            return float(self._learned.predict(row)[0])
        if self._alpha is not None:
            skip = bisect_right(self._ordered, self._last) - 1 if drop else n
            return between_one(*self._neighbours(n, skip))
        return self._of_total(total, n)

    def bound(self) -> float:
        """The highest score that the finished answer can have: never below it, and reached by some
        continuation, up to rounding.

        Without the end token, the last token seen may turn out to be that and not count. A learned
        rule is looked at every so many tokens, in between its last bound holds; +inf where it is
        not monotone.
        """
        if self._learned is not None:
            if self._n >= self._next and self._learned.stops_early:
                self._known, looked_at = reach(
                    self._learned, self._ordered, self._total, self._n_max
                )
                if not self._score.end and self._n > 1:
                    self._known = max(self._known, self.final(ended=True))
                self._next = self._n + FEWEST + looked_at // WORK
            return self._known
        if self._alpha is not None:
            low, high, share = self._neighbours(self._n_max, self._n)
            found = between_one(low, high, share)
            if share:
                found = min(found + SLACK * (TINY - low), high)
        else:
            found = self._of_total(self._total, self._n_max)
        if not self._score.end and self._n > 1:
            found = max(found, self.final(ended=True))
        return found

    def _of_total(self, total: float, n: int) -> float:
        if self._name in ("sum", "length"):
            return total
        mean = total / n
        return 1.0 + mean if self._name == "margin" else mean

    def _neighbours(self, n: int, skip: int) -> tuple[float, float, float]:
        """Between which of `n` values the quantile lies, and how far from the lower one.

        The values are those seen but the one at `skip`, then zeros."""
        at = (self._alpha or 0.0) * (n - 1)
        low = int(at)
        share = at - low
        high = min(low + 1, n - 1)
        low += low >= skip
        high += high >= skip
        seen = len(self._ordered)
        below = self._ordered[low] if low < seen else 0.0
        above = self._ordered[high] if high < seen else 0.0
        return below, above, share

    def _kept(self) -> list[float]:
        """All values but the last one pushed, in order."""
        at = bisect_right(self._ordered, self._last) - 1
        return self._ordered[:at] + self._ordered[at + 1 :]

    def _where(self) -> str:
        return f"{self._model}, token {self._n + 1}"


def reach(rule: Learned, ordered: Sequence[float], total: float, n_max: int) -> tuple[float, int]:
    """The highest prediction for an answer that begins with tokens of these values, sorted, and
    has `n_max` at most; and how many numbers were looked at.

    For each length that can matter, what is missing is 0. Quantiles get `SLACK`, since one row
    stands for all shorter answers back to the length before it. The rule stops early.
    """
    lengths = rule.lengths(max(1, len(ordered)), n_max)
    padded = np.zeros(n_max + 1)
    padded[: len(ordered)] = ordered
    low, high, share = positions(lengths, ALPHAS)
    below, above = padded[low], padded[high]
    slack = np.where(share > 0, SLACK * (TINY - below), 0.0)
    highest: Floats = np.minimum(between(below, above, share) + slack, above)
    rows = np.column_stack([highest, total / lengths, np.full(len(lengths), total), lengths])
    trees = len(rule.model.trees) if isinstance(rule.model, Boosting) else 0
    return float(rule.predict(rows).max()), len(rows) * (len(ALPHAS) + 3 * trees)
