"""The deferral curve: quality against the share of questions that the large model is asked.

The least trusted are deferred first. The random line defers by lot, the oracle's by what is gained.
`s_d` is the area between curve and random line over that of the oracle's: 1 cannot be beaten, 0 is
chance, below 0 is worse (Rabanser et al. 2025, "Gatekeeper").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.cascade.draws import (
    RESAMPLES,
    Figure,
    cumulative,
    figure,
    halfway,
    order,
    signature,
    weights,
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
    metric's low and are deferred first.
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


def curve(
    sample: Sample, costs: Sequence[Cost] = (), resamples: int = RESAMPLES, seed: int = 0
) -> Curve:
    """The curve of a sample of two stages.

    Equal scores are deferred in any order, on average: a constant score gives the random line.
    Raises `CascadeError` for more stages, and where both models are equally good everywhere, so
    that no score could be better than another.
    """
    check_two(sample)
    gain, small = sample.loss[:, 0], sample.quality[:, 0]
    by_score, ideal = order(sample, sample.scores[:, 0]), order(sample, -gain)
    if (gain == gain[0]).all():
        raise CascadeError(
            f"both models have the same quality, or differ by {gain[0]:g}, on all {len(gain)} "
            "questions, so it does not matter which are deferred; there is no curve to judge."
        )
    linear = np.column_stack([np.ones(len(gain)), small, gain])
    sums = np.zeros((len(sample.sizes), 3))
    np.add.at(sums, sample.index, linear)

    def areas(times: Floats) -> tuple[Floats, Floats]:
        """Of each draw: mean small, mean gain, area, oracle's area [b, 4]; quality at shares."""
        number, of_small, of_gain = (times @ sums).T
        mass = by_score.weights(times)
        gained = by_score.runs(mass * gain[by_score.rows])
        mass = by_score.runs(mass)
        along = cumulative(gained)
        area = halfway(mass, gained, along)
        best = ideal.weights(times)
        of_best = best * gain[ideal.rows]
        most = halfway(best, of_best, cumulative(of_best))
        drawn = zip(cumulative(mass), along, number, strict=True)
        quality = np.array([np.interp(SHARES * n, at, got) for at, got, n in drawn])
        quality = (quality + of_small[:, None]) / number[:, None]
        found = [of_small / number, of_gain / number, area / number**2, most / number**2]
        return np.column_stack(found), quality

    point, line = areas(np.ones((1, len(sample.sizes))))
    blocks = [areas(times) for times in weights(sample, resamples, seed)]
    drawn = np.concatenate([one for one, _ in blocks])
    low, high = np.percentile(np.concatenate([q for _, q in blocks]), [2.5, 97.5], axis=0)
    rows = signature(sample, resamples, seed)
    values, draws = _figures(point), _figures(drawn)
    figures = {name: figure(float(values[name][0]), draws[name], rows) for name in values}
    return Curve(
        models=sample.log.models,
        metric=sample.log.metric.name,
        share=SHARES.copy(),
        quality=line[0],
        low=low,
        high=high,
        random=small.mean() + SHARES * gain.mean(),
        oracle=small.mean() + _prefix_means(gain[ideal.rows]),
        cost={kind: _cost(sample, kind) for kind in costs},
        **figures,
    )


def _figures(table: Floats) -> dict[str, Floats]:
    """Small, large, areas and s_d of [b, 4] as `areas` gives them."""
    small, gain, area, most = table.T
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


def check_two(sample: Sample) -> None:
    """Raise `CascadeError` where there are more than two stages."""
    if len(sample.log.models) > 2:
        raise CascadeError(
            f"a log of {len(sample.log.models)} stages has no single deferral curve; take two of "
            "them, or the curve along the path of thresholds."
        )
