"""Quality against cost, by brute force over single deferrals."""

import math

import numpy as np
import pytest
from cascade_logs import made, simulated

from featherweight.cascade.curve import curve
from featherweight.cascade.curve_cost import cost_at_quality, path_curve, quality_at_cost
from featherweight.cascade.draws import difference
from featherweight.cascade.path import path
from featherweight.cascade.sample import Sample, Stages, answering, keys
from featherweight.cascade.types import Floats, Threshold
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import group_draws

SOME = simulated(1, 30, 4, graded=True)


def points(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Mean cost and quality with 0, 1, 2 ... rows deferred; no score stands twice."""
    small, large = sample.quality.T
    cost, quality = [1.0], [small.mean()]
    now, paid = small.copy(), np.ones(len(small))
    for row in np.argsort(sample.scores[:, 0]):
        now[row] = large[row]
        paid[row] += 9
        cost.append(paid.mean())
        quality.append(now.mean())
    return np.array(cost), np.array(quality)


def test_quality_at_a_cost_is_read_off_the_curve() -> None:
    cost, quality = points(SOME)
    for at in (1.0, 2.5, 5.123, 10.0):
        found = quality_at_cost(SOME, "seconds", at, resamples=20)
        assert found.value == pytest.approx(np.interp(at, cost, quality))
        assert found.ci95[0] <= found.value <= found.ci95[1]
    by_share = quality_at_cost(SOME, "deferral", 0.3, resamples=200)
    line = curve(SOME, resamples=200)
    assert by_share.value == pytest.approx(line.quality[30])
    assert by_share.ci95 == pytest.approx((line.low[30], line.high[30]), abs=0.5)


def test_cost_at_a_quality_is_the_least_that_reaches_it() -> None:
    cost, quality = points(SOME)
    for at in np.linspace(quality[0] - 1, quality.max(), 7):
        found = cost_at_quality(SOME, "seconds", at, resamples=20).value
        first = int((quality >= at - 1e-9).argmax())
        assert found <= cost[first] + 1e-9
        assert first == 0 or found > cost[first - 1]
        assert np.interp(found, cost, quality) >= at - 1e-6


@pytest.mark.parametrize("ties", [False, True])
def test_draws_are_those_of_the_drawn_rows(ties: bool) -> None:
    one = simulated(3, 12, 3)
    if ties:
        one = made(one.quality, np.round(3 * one.scores), one.groups)
    target = float(one.quality.mean())
    quality = quality_at_cost(one, "seconds", 4, resamples=25, seed=2)
    cost = cost_at_quality(one, "seconds", target, resamples=25, seed=2)
    (weights,) = group_draws(12, 25, 2)
    for number, times in enumerate(weights):
        rows = np.repeat(np.arange(len(one.index)), times[one.index].astype(int))
        drawn = made(one.quality[rows], one.scores[rows])
        assert quality.draws[number] == pytest.approx(
            quality_at_cost(drawn, "seconds", 4, resamples=1).value
        )
        try:
            expected = cost_at_quality(drawn, "seconds", target, resamples=1).value
        except CascadeError:
            expected = math.inf
        assert cost.draws[number] == pytest.approx(expected)


def test_a_quality_that_some_draws_miss_has_no_upper_end() -> None:
    _, quality = points(SOME)
    found = cost_at_quality(SOME, "seconds", quality.max() - 0.01, resamples=200)
    assert found.value < math.inf and found.ci95[1] == math.inf
    assert difference(found, found).mean == 0


def test_what_is_not_on_the_curve_is_refused() -> None:
    with pytest.raises(CascadeError, match=r"lie between 1 .* and 10 .* so 12 is not on the curve"):
        quality_at_cost(SOME, "seconds", 12)
    with pytest.raises(CascadeError, match=r"so 0\.5 is not on the curve; choose"):
        quality_at_cost(SOME, "seconds", 0.5)
    with pytest.raises(CascadeError, match=r"never reaches 100 accuracy, its best is \d\d"):
        cost_at_quality(SOME, "seconds", 100)
    for call in (quality_at_cost, cost_at_quality):
        with pytest.raises(CascadeError, match="3 stages has no single"):
            call(simulated(1, 9, stages=3), "seconds", 5)


@pytest.mark.parametrize("stages", [2, 3])
def test_quality_and_cost_along_a_path(stages: int) -> None:
    fit, one = simulated(4, 50, 2, "fit", stages), simulated(5, 50, 2, stages=stages)
    steps = path(fit, "seconds")
    whole = path_curve(one, steps, "seconds", resamples=200)
    for number in (0, len(steps) // 2, len(steps)):
        at = quality_at_cost(one, "seconds", float(whole.cost[number]), 200, steps=steps)
        same = np.flatnonzero(whole.cost == whole.cost[number])
        assert np.isclose(whole.quality[same], at.value).any()
    between = (whole.cost[3] + whole.cost[4]) / 2
    at = quality_at_cost(one, "seconds", float(between), 200, steps=steps)
    assert at.value == pytest.approx((whole.quality[3] + whole.quality[4]) / 2)
    assert at.ci95[0] < at.value < at.ci95[1]
    target = float(np.median(whole.quality))
    cost = cost_at_quality(one, "seconds", target, 200, steps=steps)
    before = whole.cost[whole.quality >= target].min()
    assert whole.cost.min() <= cost.value <= before + 1e-9
    (weights,) = group_draws(50, 200, 0)
    rows = np.repeat(np.arange(100), weights[7][one.index].astype(int))
    drawn = made(one.quality[rows], one.scores[rows])
    again = cost_at_quality(drawn, "seconds", target, 1, steps=steps)
    assert cost.draws[7] == pytest.approx(again.value)
    with pytest.raises(CascadeError, match=r"\(cheapest\) and .* \(dearest\), so 99 is not"):
        quality_at_cost(one, "seconds", 99, steps=steps)


def paid(chosen: Stages, thresholds: Floats) -> float:
    """What `simulated` stages cost a row: those before the chosen one only where they are asked."""
    costs = np.array([1.0, 9.0, 30.0])
    asked = np.append(np.where(thresholds < np.inf, costs[: len(thresholds)], 0.0), 0.0)
    return float((costs[chosen] + (np.cumsum(asked) - asked)[chosen]).mean())


@pytest.mark.parametrize("stages", [2, 3])
def test_a_path_is_judged_threshold_by_threshold(stages: int) -> None:
    fit, one = simulated(4, 50, 2, "fit", stages), simulated(5, 50, 2, stages=stages)
    steps = path(fit, "seconds")
    found = path_curve(one, steps, "seconds", resamples=200)
    assert len(found.quality) == len(steps) + 1
    for number in (1, len(steps) // 2, len(steps)):
        rule = [Threshold(value) for value in found.thresholds[number]]
        chosen, _ = answering(one.scores, rule, keys(one.log))
        assert found.quality[number] == pytest.approx(one.quality[np.arange(100), chosen].mean())
        assert found.cost[number] == pytest.approx(paid(chosen, found.thresholds[number]))
        shares = np.bincount(chosen, minlength=stages) / 100
        assert found.answered[number] == pytest.approx(shares)
    assert found.answered[0].tolist() == [0] * (stages - 1) + [1]
    assert found.quality[0] == pytest.approx(one.quality[:, -1].mean())
    everything = paid(np.full(100, stages - 1), found.thresholds[1])  # asked, and never trusted
    assert (np.diff(found.cost) <= 0).all() and found.cost[0] == everything
    assert found.cost_last == [1.0, 9.0, 30.0][stages - 1]
    assert (found.low <= found.quality).all() and (found.quality <= found.high).all()
    area = -np.trapezoid(found.quality, found.cost) / (found.cost[0] - found.cost[-1])
    assert found.audc.value == pytest.approx(area)
    assert found.audc_random.value == pytest.approx((found.quality[0] + found.quality[-1]) / 2)
    assert found.audc.ci95[0] < area < found.audc.ci95[1]


def test_two_stages_on_a_path_lie_on_their_curve() -> None:
    steps = np.sort(SOME.scores[:, 0])[::-1][:, None]
    found = path_curve(SOME, steps, "seconds", resamples=2)
    cost, quality = points(SOME)
    assert found.cost == pytest.approx(cost[::-1]) and found.quality == pytest.approx(quality[::-1])
    assert found.audc.value == pytest.approx(curve(SOME, resamples=2).audc.value)
