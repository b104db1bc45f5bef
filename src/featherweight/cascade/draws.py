"""Areas and sums along an order of rows, in every draw of whole groups at once.

A curve's figures are not means, so each draw needs its own cumulative sums. Rows are sorted once; a
draw gives each row the weight of its group, and tied rows are joined: between the ends of a tie the
curve is the straight line that is the average over the orders of the tied rows.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.sample import Sample
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import Estimate, group_draws

RESAMPLES = 10_000
AT_ONCE = 1 << 17  # weights: a megabyte stays in the cache


@dataclass(frozen=True)
class Figure:
    """A figure with its percentile interval and its draws, for differences from others.

    Infinite draws are those in which a target was not reached; `rows` names the questions.
    """

    value: float
    ci95: tuple[float, float]
    draws: Floats = field(repr=False, compare=False)
    rows: str = field(repr=False)


def figure(value: float, draws: Floats, rows: str) -> Figure:
    """Draws that are NaN, where the figure is not defined, are left out of the interval."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return Figure(float(value), (np.nan, np.nan), draws, rows)
    # no interpolation: between a number and infinity there is nothing
    low, high = np.percentile(defined, [2.5, 97.5], method="inverted_cdf")
    return Figure(float(value), (float(low), float(high)), draws, rows)


def difference(a: Figure, b: Figure) -> Estimate:
    """a - b, paired: both over the same questions, in the same draws.

    Raises `CascadeError` where the two are about different rows, groups or draws.
    """
    if a.rows != b.rows:
        raise CascadeError(
            "the two figures are about different questions or groups, or other draws of them, so "
            "they cannot be compared pair by pair; log both cascades on the same ones."
        )
    with np.errstate(invalid="ignore"):
        of = figure(a.value - b.value, a.draws - b.draws, a.rows)
    return Estimate(of.value, of.ci95)


def signature(sample: Sample, resamples: int, seed: int) -> str:
    """Names the rows with their groups, and the draws."""
    named = sorted((row.id, row.group) for row in sample.log.rows)
    return hashlib.sha256(repr((named, resamples, seed)).encode()).hexdigest()


def weights(sample: Sample, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn, in small blocks: [block, G].

    Draws depend on the number of groups and the seed alone, so two samples of the same groups share
    them.
    """
    groups = len(sample.sizes)
    step = max(1, AT_ONCE // len(sample.index))
    for block in group_draws(groups, resamples, seed):
        for start in range(0, len(block), step):
            yield block[start : start + step]


@dataclass(frozen=True)
class Order:
    """Rows in rising order of a key; `starts` are the first rows of runs of equal keys."""

    rows: NDArray[np.intp]
    groups: NDArray[np.intp]
    starts: NDArray[np.intp]

    @property
    def tied(self) -> bool:
        return len(self.starts) < len(self.rows)

    def weights(self, times: Floats) -> Floats:
        """Of each row in this order: times [b, G] -> [b, n]."""
        return np.take(times, self.groups, axis=1)

    def runs(self, values: Floats) -> Floats:
        """Sums over equal keys: [b, n] -> [b, runs]."""
        return np.add.reduceat(values, self.starts, axis=1) if self.tied else values


def order(sample: Sample, key: Floats) -> Order:
    """The rows of `sample` by `key` [n]."""
    rows = np.argsort(key, kind="stable")
    ranked = key[rows]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    return Order(rows, sample.index[rows], starts)


def cumulative(values: Floats) -> Floats:
    """Cumulative sums along the last axis, from 0: [b, n] -> [b, n + 1]."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def halfway(first: Floats, second: Floats, sums: Floats) -> Floats:
    """Sum over pairs of first[later] second[earlier], a run with itself counted half: [b].

    With `first` the rows' weights and `second` weighted gains it is the area under the gain's
    curve (by trapezes); with the weights of right and of wrong answers Mann and Whitney's U.
    `sums` is `cumulative(second)`.
    """
    pairs = np.einsum("bi,bi->b", first, sums[:, 1:])
    return np.asarray(pairs - 0.5 * np.einsum("bi,bi->b", first, second))
