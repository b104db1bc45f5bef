"""What online learning remembers of requests, and the sums it keeps; plain numbers, no texts."""

import math
from dataclasses import dataclass

from featherweight.cascade.hashing import Words

STUDENT = -1
"""The level before the stages: the softmax regression."""


@dataclass(frozen=True, slots=True)
class Try:
    """What a stage's answer was known by, and how far the last stage agreed with it (0 to 1).

    `backing` is the student's chance for what it says; `weight` is 1/propensity."""

    score: float
    backing: float
    agreement: float
    weight: float


@dataclass(frozen=True, slots=True)
class Event:
    """A request that the last stage answered. `label` is what it said, `None` if that is no label.

    `guess` is the label that the student would have given, `sure` the logit of its chance. `tries`
    has `None` for a stage that failed or was not asked.
    """

    words: Words
    label: str | None
    guess: str | None
    sure: float
    weight: float
    tries: tuple[Try | None, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What of a request is counted: scores (the last stage has none), costs by stage, and what the
    last stage said, as a label and as the student would write it."""

    scores: tuple[float | None, ...]
    costs: tuple[float | None, ...]
    said: tuple[str, str] | None


@dataclass
class Moments:
    """Running mean and spread (Welford 1962)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        before = value - self.mean
        self.mean += before / self.n
        self.squares += before * (value - self.mean)

    @property
    def spread(self) -> float:
        """The standard deviation, 1 where there is none."""
        return (math.sqrt(self.squares / self.n) if self.n else 0.0) or 1.0


@dataclass
class Audit:
    """Answers that were kept by the policy and explored all the same: `n` of them, the sum of their
    weights, the weighted sum of their agreement with the last stage."""

    n: int = 0
    weight: float = 0.0
    agreed: float = 0.0

    def add(self, agreement: float, weight: float) -> None:
        self.n += 1
        self.weight += weight
        self.agreed += weight * agreement

    @property
    def mean(self) -> float | None:
        """Estimated agreement of all answers that are kept; `None` while nothing is known."""
        return self.agreed / self.weight if self.n else None
