"""Quality against cost: what a given cost buys, what a given quality costs, and N stages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from featherweight.cascade.curve import check_two
from featherweight.cascade.draws import (
    RESAMPLES,
    Figure,
    drawn,
    figure,
    order,
    signature,
)
from featherweight.cascade.path import along, spending
from featherweight.cascade.sample import Cost, Sample
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import bootstrap_means

Axis = Cost | Literal["deferral"]
"""A cost, or the share of questions deferred."""


def quality_at_cost(
    sample: Sample,
    axis: Axis,
    cost: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
    steps: Floats | None = None,
) -> Figure:
    """Quality where a question costs `cost` on average, on the curve of two stages.

    With `steps` [k, stages - 1], made by `path` on the fit split, on the curve along them, of any
    number of stages. A draw in which the curve's cheapest point (the small model alone) costs more,
    or its dearest less, counts that end. Raises `CascadeError` where the sample itself is such a
    case.
    """
    points = _points(sample, axis, steps)
    paid, _ = points(np.ones((1, len(sample.sizes))))
    if not paid[0, 0] <= cost <= paid[0, -1]:
        ends = ("small model alone", "all deferred") if steps is None else ("cheapest", "dearest")
        raise CascadeError(
            f"the mean {axis} of a question lie between {paid[0, 0]:.4g} ({ends[0]}) and "
            f"{paid[0, -1]:.4g} ({ends[1]}), so {cost:.4g} is not on the curve; choose a value "
            "between."
        )

    def read(times: Floats) -> Floats:
        return np.array([np.interp(cost, x, y) for x, y in zip(*points(times), strict=True)])

    return _figure(sample, read, resamples, seed)


def _figure(sample: Sample, of: Callable[[Floats], Floats], resamples: int, seed: int) -> Figure:
    def make(point: Floats, draws: Floats, rows: str) -> Figure:
        return figure(float(point[0]), draws, rows)

    found: Figure = drawn(sample, [(of, make)], resamples, seed)[0]
    return found


def cost_at_quality(
    sample: Sample,
    axis: Axis,
    quality: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
    steps: Floats | None = None,
) -> Figure:
    """The least mean cost of a question at which the curve reaches `quality`.

    The curve is that of `quality_at_cost`. Infinite in draws that do not reach it. Raises
    `CascadeError` where the sample itself does not.
    """
    points = _points(sample, axis, steps)

    def read(times: Floats) -> Floats:
        paid, reached = points(times)
        enough = reached >= quality - 1e-9
        at = enough.argmax(axis=1)[:, None]
        before = np.maximum(at - 1, 0)
        (x0, x1), (y0, y1) = (
            [np.take_along_axis(table, i, axis=1)[:, 0] for i in (before, at)]
            for table in (paid, reached)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(y1 > y0, (quality - y0) / (y1 - y0), 0.0)
        cost = np.where(at[:, 0] == 0, x1, x0 + np.clip(part, 0, 1) * (x1 - x0))
        return np.where(enough.any(axis=1), cost, np.inf)

    found = _figure(sample, read, resamples, seed)
    if found.value == np.inf:
        best = points(np.ones((1, len(sample.sizes))))[1].max()
        raise CascadeError(
            f"the curve never reaches {quality:.4g} {sample.log.metric.name}, its best is "
            f"{best:.4g}; choose less."
        )
    return found


Points = Callable[[Floats], tuple[Floats, Floats]]
"""Of each draw [b, G]: mean cost, rising, and mean quality along a curve, [b, k] each."""


def _points(sample: Sample, axis: Axis, steps: Floats | None) -> Points:
    if steps is None:
        return _of_two(sample, axis)
    if axis == "deferral":
        raise ValueError("a path has no one share that is passed on")
    found = np.hstack([part[:, ::-1] for part in _along(sample, steps, axis)])  # cheapest first
    sums = sample.group_means(found) * sample.sizes[:, None]

    def points(times: Floats) -> tuple[Floats, Floats]:
        cost, quality = np.hsplit(times @ sums / (times @ sample.sizes)[:, None], 2)
        # what costs less on the fit split may cost a little more in a draw
        return np.maximum.accumulate(cost, axis=1), quality

    return points


def _of_two(sample: Sample, axis: Axis) -> Points:
    """At 0, 1, 2 ... runs of equal scores deferred."""
    check_two(sample)
    share = np.tile([0.0, 1.0], (len(sample.scores), 1))
    paid = share if axis == "deferral" else sample.cost(axis)
    by_score = order(sample, sample.scores[:, 0])
    ranked = by_score.along(paid[:, 1], sample.loss[:, 0])
    first = np.column_stack([np.ones(len(paid)), paid[:, 0], sample.quality[:, 0]])
    sums = np.zeros((len(sample.sizes), 3))
    np.add.at(sums, sample.index, first)

    def points(times: Floats) -> tuple[Floats, Floats]:
        number, *starts = (times @ sums).T
        cost, quality = (
            (extra + start[:, None]) / number[:, None]
            for extra, start in zip(ranked(times), starts, strict=True)
        )
        return cost, quality

    return points


def _whole(steps: Floats) -> Floats:
    """The path from where everything is passed on."""
    return np.concatenate([np.full((1, steps.shape[1]), np.inf), steps])


def _along(sample: Sample, steps: Floats, kind: Cost) -> tuple[Floats, Floats]:
    """Cost and quality of each row along the whole path: [n, 1 + k] each.

    Where everything is passed on, the stages of the first step are asked all the same.
    """
    thresholds = _whole(steps)
    asked = np.concatenate([steps[:1], steps]) < np.inf
    paid = spending(sample.scores, sample.cost(kind), thresholds, asked)
    chosen = along(sample.scores, thresholds)
    return paid, np.take_along_axis(sample.quality, chosen, axis=1)


@dataclass(frozen=True)
class PathCurve:
    """Quality and mean cost along a path of thresholds, dearest first, for any number of stages.

    The first point passes everything on, from the stages that the second one asks; a stage costs
    nothing where its threshold is +inf. `answered` [k, stages] are the shares that each stage
    answers, `cost_last` what the last stage costs without those before. `audc` is the mean quality
    over costs between the cheapest and the dearest point, `audc_random` that of the straight line
    between these two.
    """

    models: tuple[str, ...]
    metric: str
    axis: Cost
    thresholds: Floats
    answered: Floats
    cost: Floats
    cost_last: float
    quality: Floats
    low: Floats
    high: Floats
    audc: Figure
    audc_random: Figure


def path_curve(
    sample: Sample, steps: Floats, kind: Cost, resamples: int = RESAMPLES, seed: int = 0
) -> PathCurve:
    """The curve of `sample` along `steps` [k, stages - 1], made by `path` on the fit split."""
    stages, thresholds = sample.scores.shape[1], _whole(steps)
    chosen = along(sample.scores, thresholds)
    table = np.hstack(_along(sample, steps, kind))
    draws = bootstrap_means(table, sample.groups, resamples, seed)
    low, high = np.percentile(draws[:, len(thresholds) :], [2.5, 97.5], axis=0)
    rows = signature(sample, resamples, seed)
    point = table.mean(axis=0)[None]
    (value,), (chance,) = _under(point)
    over, by_chance = _under(draws)
    return PathCurve(
        models=sample.log.models,
        metric=sample.log.metric.name,
        axis=kind,
        thresholds=thresholds,
        answered=np.stack([(chosen == stage).mean(axis=0) for stage in range(stages + 1)], axis=1),
        cost=point[0, : len(thresholds)],
        cost_last=float(sample.cost(kind)[:, -1].mean()),
        quality=point[0, len(thresholds) :],
        low=low,
        high=high,
        audc=figure(value, over, rows),
        audc_random=figure(chance, by_chance, rows),
    )


def _under(means: Floats) -> tuple[Floats, Floats]:
    """Mean quality over cost, of the path and of the line between its ends; means [b, 2k]: [b]."""
    cost, quality = np.hsplit(means, 2)
    width = cost[:, 0] - cost[:, -1]
    area = -(np.diff(cost, axis=1) * (quality[:, 1:] + quality[:, :-1])).sum(axis=1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(area / width), (quality[:, 0] + quality[:, -1]) / 2
