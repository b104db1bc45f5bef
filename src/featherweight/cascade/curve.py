"""The deferral curve: quality against the share of questions that the large model is asked.

The least trusted are deferred first. The random line defers by lot, the oracle's by what is gained.
`s_d` is the area between curve and random line over that of the oracle's: 1 cannot be beaten, 0 is
chance, below 0 is worse (Rabanser et al. 2025, "Gatekeeper"). `auroc` is the chance that a right
answer scores above a wrong one, equal scores counted half. Quality is graded, so "right" is: the
small model's answer is at least as good as the large one's, that is, nothing would be gained by
asking. For 0/1 metrics a question that both get wrong counts as right in this sense.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.draws import (
    RESAMPLES,
    Figure,
    Part,
    between,
    drawn,
    figure,
    order,
)
from featherweight.cascade.sample import Cost, Sample
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError

SHARES = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Curve:
    """A deferral curve at 101 shares deferred, with cluster-bootstrap intervals.

    `low` and `high` bound `quality` share by share. `random` and `oracle` are the two lines to
    compare with, `cost` the mean cost of a question at each share, of each kind asked for. `audc`
    and its like are mean qualities over all shares. Failed answers of the small model have the
    metric's low and are deferred first. `auroc` is NaN where all answers are right or all wrong.
    """

    models: tuple[str, ...]
    metric: str
    share: Floats
    quality: Floats
    low: Floats
    high: Floats
    random: Floats
    oracle: Floats
    cost: dict[Cost, Floats]
    small: Figure
    large: Figure
    audc: Figure
    audc_random: Figure
    audc_oracle: Figure
    s_d: Figure
    auroc: Figure


def curve(
    sample: Sample, costs: Sequence[Cost] = (), resamples: int = RESAMPLES, seed: int = 0
) -> Curve:
    """The curve of a sample of two stages.

    Equal scores are deferred in any order, on average: a constant score gives the random line.
    Raises `CascadeError` for more stages, and where both models are equally good everywhere, so
    that no score could be better than another.
    """
    one: Curve = drawn(sample, [curve_of(sample, costs)], resamples, seed)[0]
    return one


def curve_of(sample: Sample, costs: Sequence[Cost] = ()) -> Part:
    """`curve` as a part of `drawn`."""
    check_two(sample)
    gain, small = sample.loss[:, 0], sample.quality[:, 0]
    if (gain == gain[0]).all():
        raise CascadeError(
            f"both models have the same quality, or differ by {gain[0]:g}, on all {len(gain)} "
            "questions, so it does not matter which are deferred; there is no curve to judge."
        )
    one = np.ones(len(gain))
    by_score, by_gain = order(sample, sample.scores[:, 0]), order(sample, -gain)
    ranked = by_score.along(one, gain, (~right(sample)).astype(np.float64))
    ideal = by_gain.along(one, gain)
    linear = np.column_stack([one, small, gain])
    sums = np.zeros((len(sample.sizes), 3))
    np.add.at(sums, sample.index, linear)

    def areas(times: Floats) -> Floats:
        """Of each draw: mean small, mean gain, area, oracle's area, AUROC, quality at shares."""
        number, of_small, of_gain = (times @ sums).T
        mass, gained, bad = ranked(times)
        area, most = between(mass, gained), between(*ideal(times))
        good = mass - bad
        pairs = good[:, -1] * bad[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            auroc = np.where(pairs > 0, between(good, bad) / pairs, np.nan)
        lines = zip(mass, gained, number, strict=True)
        quality = np.array([np.interp(SHARES * n, at, got) for at, got, n in lines])
        quality = (quality + of_small[:, None]) / number[:, None]
        found = [of_small / number, of_gain / number, area / number**2, most / number**2, auroc]
        return np.column_stack([*found, quality])

    def make(point: Floats, draws: Floats, rows: str) -> Curve:
        low, high = np.percentile(draws[:, 5:], [2.5, 97.5], axis=0)
        values, drawn = _figures(point[:, :5]), _figures(draws[:, :5])
        return Curve(
            models=sample.log.models,
            metric=sample.log.metric.name,
            share=SHARES.copy(),
            quality=point[0, 5:],
            low=low,
            high=high,
            random=small.mean() + SHARES * gain.mean(),
            oracle=small.mean() + _prefix_means(gain[by_gain.rows]),
            cost={kind: _cost(sample, kind) for kind in costs},
            **{name: figure(float(values[name][0]), drawn[name], rows) for name in values},
        )

    return areas, make


def _figures(table: Floats) -> dict[str, Floats]:
    """Small, large, areas, s_d and AUROC of [b, 5] as `areas` gives them."""
    small, gain, area, most, auroc = table.T
    above, possible = area - gain / 2, most - gain / 2
    none = possible <= 1e-12 * (np.abs(gain) + np.abs(most))  # such a draw holds no difference
    with np.errstate(divide="ignore", invalid="ignore"):
        s_d = np.where(none, np.nan, above / possible)
    return {
        "small": small,
        "large": small + gain,
        "audc": small + area,
        "audc_random": small + gain / 2,
        "audc_oracle": small + most,
        "s_d": s_d,
        "auroc": auroc,
    }


def _prefix_means(values: Floats) -> Floats:
    """Sum of the first share of `values` [n] over n, at `SHARES`."""
    sums = np.concatenate([[0.0], np.cumsum(values)]) / len(values)
    return np.interp(SHARES, np.linspace(0, 1, len(sums)), sums)


def _cost(sample: Sample, kind: Cost) -> Floats:
    """Mean cost at `SHARES`: the small model's always, the large one's where it is asked."""
    paid = sample.cost(kind)
    by_score = order(sample, sample.scores[:, 0])
    ends = np.concatenate([by_score.starts, [len(paid)]])
    sums = np.concatenate([[0.0], np.cumsum(paid[by_score.rows, 1])])[ends]
    deferred = np.interp(SHARES * len(paid), ends, sums / len(paid))
    return np.asarray(paid[:, 0].mean() + deferred)


def right(sample: Sample) -> NDArray[np.bool_]:
    """Whether nothing would be gained by asking the large model: [n]."""
    check_two(sample)
    return np.asarray(sample.loss[:, 0] <= 0)


def check_two(sample: Sample) -> None:
    """Raise `CascadeError` where there are more than two stages."""
    if len(sample.log.models) > 2:
        raise CascadeError(
            f"a log of {len(sample.log.models)} stages has no single deferral curve; take two of "
            "them, or the curve along the path of thresholds."
        )
