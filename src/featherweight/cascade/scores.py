"""How sure a model was of its answer: scores of a stream of tokens, more is more to be trusted.

Gupta et al. 2024 (2404.10136): the sum of log-probabilities falls with length, the mean
over-corrects, a quantile looks at the tokens that matter. What is learned from several of them is
in `learned`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np

from featherweight.cascade.learned import Learned
from featherweight.cascade.tokens import (
    FEATURES,
    Block,
    Stream,
    blocks,
    feature_rows,
    quantiles,
)
from featherweight.cascade.types import Answer, Floats
from featherweight.errors import CascadeError

Name = Literal["sum", "mean", "quantile", "margin", "entropy", "length"]
NO_END = ",no-end"
CHOICES = "sum, mean, min, quantile:ALPHA (0 to 1), margin, entropy or length"


@dataclass(frozen=True, slots=True)
class Score:
    """One number of a stream of tokens.

    `sum`, `mean` and `quantile` (by linear interpolation; `alpha` 0 is the minimum) are of
    log-probabilities, in nats; `margin` is the mean margin, `entropy` minus the mean entropy,
    `length` minus the number of tokens. Unless `end`, a last token that is the end token does not
    count, except where it is the only one.

    Raises `CascadeError` for a name or an alpha that there is not.
    """

    name: Name
    alpha: float | None = None
    end: bool = True

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise CascadeError(f"there is no score {self.name!r}; choose {CHOICES}.")
        if (self.name == "quantile") != (self.alpha is not None):
            raise CascadeError(f"score {self.name}: only a quantile has an alpha; write {CHOICES}.")
        if self.alpha is not None:
            if not 0 <= self.alpha <= 1:
                raise CascadeError(
                    f"score quantile: alpha is {self.alpha:g}; choose a number from 0 to 1."
                )
            object.__setattr__(self, "alpha", abs(float(self.alpha)))

    @classmethod
    def parse(cls, text: str) -> "Score":
        """A score as people write it: `mean`, `quantile:0.1`, `min`, `sum,no-end`.

        Raises `CascadeError` with the choices.
        """
        body = text.removesuffix(NO_END)
        end = body == text
        if body == "min":
            return cls("quantile", 0.0, end)
        name, colon, alpha = body.partition(":")
        try:
            number = float(alpha) if colon else None
        except ValueError:
            number = math.nan
        if name not in get_args(Name) or (number is not None and math.isnan(number)):
            raise CascadeError(f"there is no score {text!r}; choose {CHOICES}.")
        return cls(cast(Name, name), number, end)

    def __str__(self) -> str:
        name = self.name if self.alpha is None else f"quantile:{self.alpha!r}"
        return ("min" if self.alpha == 0 else name) + ("" if self.end else NO_END)

    @property
    def stream(self) -> Stream:
        """The field of `Answer` that it is made from."""
        if self.name == "margin":
            return "margins"
        return "entropies" if self.name == "entropy" else "token_logprobs"


def score_answers(
    score: Score | Learned, answers: Sequence[Answer], ids: Sequence[str] | None = None
) -> Floats:
    """The confidence in each answer: [n]. One that failed has -inf: it is always passed on.

    `ids` name the answers in errors. Raises `CascadeError` with the model and the answer where
    tokens' numbers are missing, none, not finite or not what they should be. The bits are those
    that `Running` finds token by token.
    """
    found = np.full(len(answers), -np.inf)
    if isinstance(score, Learned):
        for block in blocks("token_logprobs", answers, score.end, ids):
            found[block.rows] = score.predict(_features(block))
        return found
    for block in blocks(score.stream, answers, score.end, ids):
        found[block.rows] = _scored(score, block)
    return found


def _scored(score: Score, block: Block) -> Floats:
    if score.name == "length":
        return -block.lengths.astype(np.float64)
    if score.alpha is not None:
        return quantiles(block.ordered(), block.lengths, [score.alpha])[:, 0]
    totals = block.totals()
    if score.name == "sum":
        return totals
    means = totals / block.lengths
    return 1.0 + means if score.name == "margin" else means


def features(
    answers: Sequence[Answer], end: bool = True, ids: Sequence[str] | None = None
) -> Floats:
    """What a learned rule looks at, [n, 14] with the columns `FEATURES`; NaN where one failed.

    Raises `CascadeError` as `score_answers` does.
    """
    found = np.full((len(answers), len(FEATURES)), np.nan)
    for block in blocks("token_logprobs", answers, end, ids):
        found[block.rows] = _features(block)
    return found


def _features(block: Block) -> Floats:
    return feature_rows(block.ordered(), block.totals(), block.lengths)
