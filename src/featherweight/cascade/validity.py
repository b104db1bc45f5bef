"""Is the promise kept? A real log taken as the whole population, calibrated on again and again.

The risk of any threshold in that population is known, so a broken promise is seen for sure. Halving
a log again and again does not show that: its test halves are noisy (8 % of them look broken where
nothing is).
"""

from dataclasses import dataclass

import numpy as np

from featherweight.cascade.calibrate import check_target, group_losses, proven
from featherweight.cascade.guarantee import binomial_cdf
from featherweight.cascade.path import path
from featherweight.cascade.sample import Cost, Sample
from featherweight.cascade.types import Floats

DRAWS = 200
DOUBT = 0.001  # p below which the promise counts as broken


@dataclass(frozen=True)
class Validity:
    """How often thresholds said to lose at most `epsilon` lose more in the population.

    `risks` are the population's mean drops, in the metric's units, NaN for draws on which nothing
    could be proven (no promise is made then). `p` is the chance of so many failures, or more, if
    each draw fails with probability `delta`.
    """

    epsilon: float
    delta: float
    groups: int
    risks: Floats
    failures: int
    p: float

    @property
    def kept(self) -> bool:
        return self.p >= DOUBT

    @property
    def proven(self) -> int:
        """Draws on which some threshold was proven."""
        return int(np.isfinite(self.risks).sum())


def validity(
    fit: Sample,
    population: Sample,
    epsilon: float,
    delta: float,
    groups: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    cost: Cost | None = None,
) -> Validity:
    """Calibrate as `for_quality` does on `groups` of `population`, drawn with replacement.

    By default as many as there are. `population` would be the calibrate and test rows of a log, the
    path through the thresholds is that of `fit`. Raises `CascadeError` as `for_quality` does for a
    target that no data of this size supports.
    """
    check_target(fit, population, epsilon, delta, groups)
    steps = path(fit, cost)
    before, losses = group_losses(fit, steps), group_losses(population, steps)
    truth = losses.mean(axis=0)
    generator = np.random.default_rng(seed)
    size = groups or len(losses)
    risks = np.full(draws, np.nan)
    for number in range(draws):
        drawn = losses[generator.integers(len(losses), size=size)]
        p = proven(drawn, before, epsilon / population.span, delta)
        count = int((p <= delta).sum())
        if count:
            risks[number] = truth[count - 1] * population.span
    failures = int((risks > epsilon * (1 + 1e-12)).sum())
    return Validity(epsilon, delta, size, risks, failures, at_least(failures, draws, delta))


def at_least(failures: int, draws: int, delta: float) -> float:
    """One-sided binomial p: the chance of `failures` or more among `draws`."""
    return 1.0 - float(binomial_cdf(draws, delta)[failures - 1]) if failures else 1.0
