"""Areas and sums along an order of rows, in every draw of whole groups at once.

A curve's figures are not means, so each draw needs its own cumulative sums. Rows are sorted once; a
draw gives each row the weight of its group, and tied rows are joined: between the ends of a tie the
curve is the straight line that is the average over the orders of the tied rows.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.sample import Sample
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import Estimate, group_draws

RESAMPLES = 10_000
AT_ONCE = 1 << 17  # weights: a megabyte stays in the cache
FEW = 128  # runs of equal keys


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


Part = tuple[Callable[[Floats], Floats], Callable[[Floats, Floats, str], Any]]
"""How often each group counts [b, G] -> what is to know of each draw [b, ...]; and what is made of
that for the sample itself [1, ...], all draws, and the `signature`."""


def drawn(sample: Sample, parts: Sequence[Part], resamples: int, seed: int) -> list[Any]:
    """What each of `parts` makes of `sample` and of draws of its groups, all of the same draws.

    Draws depend on the number of groups and the seed alone, so two samples of the same groups share
    them. They are made once for all parts: that takes as long as a part.
    """
    step = max(1, AT_ONCE // len(sample.index))
    found: list[list[Floats]] = [[] for _ in parts]
    for block in group_draws(len(sample.sizes), resamples, seed):
        for start in range(0, len(block), step):
            for (of, _), draws in zip(parts, found, strict=True):
                draws.append(of(block[start : start + step]))
    once, rows = np.ones((1, len(sample.sizes))), signature(sample, resamples, seed)
    return [
        make(of(once), np.concatenate(draws), rows)
        for (of, make), draws in zip(parts, found, strict=True)
    ]


@dataclass(frozen=True)
class Order:
    """Rows in rising order of a key; `starts` are the first rows of runs of equal keys."""

    rows: NDArray[np.intp]
    groups: NDArray[np.intp]
    starts: NDArray[np.intp]

    def along(self, *values: Floats) -> Callable[[Floats], list[Floats]]:
        """From how often groups are drawn, times [b, G], to cumulative sums of each of `values`.

        Those are [b, runs + 1]: 0, then at the end of each run. `values` [n] are those of the
        sample's rows, in its own order.
        """
        ranked = [one[self.rows] for one in values]
        ends = np.append(self.starts, len(self.rows))
        if len(self.starts) <= FEW:  # a product of matrices, far cheaper than going through rows
            run = np.searchsorted(self.starts, np.arange(len(self.rows)), side="right")
            tables = np.zeros((len(values), self.groups.max() + 1, len(ends)))
            for table, one in zip(tables, ranked, strict=True):
                np.add.at(table, (self.groups, run), one)
            tables = tables.cumsum(axis=2)
            return lambda times: [times @ table for table in tables]

        def of(times: Floats) -> list[Floats]:
            mass = np.take(times, self.groups, axis=1)
            sums = [np.zeros((len(mass), len(self.rows) + 1)) for _ in ranked]
            for one, row in zip(ranked, sums, strict=True):
                np.cumsum(mass * one, axis=1, out=row[:, 1:])
            tied = len(ends) <= len(self.rows)
            return [np.take(row, ends, axis=1) for row in sums] if tied else sums

        return of


def order(sample: Sample, key: Floats) -> Order:
    """The rows of `sample` by `key` [n]."""
    rows = np.argsort(key, kind="stable")
    ranked = key[rows]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    return Order(rows, sample.index[rows], starts)


def between(x: Floats, y: Floats) -> Floats:
    """The area under lines through points (x, y) [b, k], from x = 0 = y on, by trapezes: [b].

    With cumulative weights of rows and cumulative gains it is the area under the gain's curve; with
    those of right and of wrong answers Mann and Whitney's U.
    """
    under = np.einsum("bi,bi->b", x[:, 1:], y[:, :-1]) - np.einsum("bi,bi->b", x[:, :-1], y[:, 1:])
    return np.asarray(0.5 * (x[:, -1] * y[:, -1] + under))
