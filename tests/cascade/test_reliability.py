"""The calibration error against brute force."""

import math

import numpy as np
import pytest
from cascade_logs import made, simulated

from featherweight.cascade.curve import right
from featherweight.cascade.reliability import binned, ece
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import group_draws

SOME = simulated(1, 50, 4)


def test_draws_are_those_of_the_drawn_rows() -> None:
    one = made(SOME.quality, np.round(SOME.scores, 1), SOME.groups)
    confidence = np.clip(one.scores[:, 0], 0, 1)
    of_error = ece(one, confidence, bins=3, resamples=20, seed=4)
    (weights,) = group_draws(50, 20, 4)
    edges = np.quantile(confidence, [1 / 3, 2 / 3], method="inverted_cdf")
    at = np.searchsorted(edges, confidence)
    for number, times in enumerate(weights):
        rows = np.repeat(np.arange(200), times[one.index].astype(int))
        error = sum(
            abs((confidence - right(one))[rows][at[rows] == bin].sum()) for bin in range(3)
        ) / len(rows)
        assert of_error.error.draws[number] == pytest.approx(error)
    assert of_error.error.ci95[0] <= of_error.error.value <= of_error.error.ci95[1]


def test_the_interval_of_a_perfect_confidence_reaches_down() -> None:
    """A bootstrap of distances adds the noise a second time; mirrored, it takes it away."""
    generator = np.random.default_rng(7)
    lows = []
    for _ in range(10):
        confidence = generator.uniform(0, 1, 400)
        small = np.where(generator.uniform(0, 1, 400) < confidence, 50.0, 0.0)
        one = made([[value, 50.0] for value in small], confidence)
        error = ece(one, confidence, resamples=500).error
        assert error.ci95[0] <= error.value <= error.ci95[1]
        lows.append(error.ci95[0])
    assert np.mean(lows) < 0.02


def test_an_error_of_calibration_by_hand() -> None:
    """Two bins: 0.2 said and 1 of 2 right, 0.9 said and 2 of 2."""
    one = made([[0, 50], [50, 50], [50, 50], [50, 50]], [1, 2, 3, 4])
    found = ece(one, [0.2, 0.2, 0.9, 0.9], bins=2, resamples=10)
    assert found.error.value == pytest.approx((0.3 + 0.1) / 2)
    assert found.rows.tolist() == [2, 2]
    assert found.confidence == pytest.approx([0.2, 0.9])
    assert found.share == pytest.approx([0.5, 1.0])
    # equal confidences share a bin, however many bins are asked for
    assert ece(one, [0.5] * 4, resamples=10).rows.tolist() == [4]


def test_bins_of_the_fit_split_make_a_confidence_that_means_what_it_says() -> None:
    fit, one = simulated(2, 3000, 2, "fit"), simulated(3, 3000, 2)
    confidence = binned(fit, one)
    assert len(set(confidence)) == 15
    assert (np.diff(confidence[np.argsort(one.scores[:, 0])]) > -0.1).all()
    error = ece(one, confidence, resamples=50).error.value
    assert error < 0.02 < ece(one, np.clip(one.scores[:, 0], 0, 1), resamples=50).error.value


def test_binning_with_ties_and_failures() -> None:
    quality = np.array([[math.nan, 50], [40, 50], [60, 50], [60, 50], [60, 50]])
    fit = made(quality, [0, 1, 1, 2, 2], split="fit")
    new = made(np.ones((3, 2)), [0.5, 1, 7])
    # one edge, between 1 and 2; the failed answer is below it
    assert binned(fit, new, bins=2) == pytest.approx([1 / 3, 1 / 3, 1])
    # an edge at the lowest score: nothing on fit is below, so the share of all stands there
    fit = made(quality[1:], [1, 1, 1, 2], split="fit")
    assert binned(fit, new, bins=2) == pytest.approx([3 / 4, 3 / 4, 3 / 4])


def test_what_cannot_be_judged_is_refused() -> None:
    alike = made([[60, 50]] * 3, [1, 2, 3])
    for bad in (1.2, -0.1, math.nan):
        with pytest.raises(CascadeError, match=r"row 'calibrate-1': \S+ is no confidence between"):
            ece(alike, [0.5, bad, 0.5])
    with pytest.raises(ValueError, match=r"confidences of shape \(2,\)"):
        ece(alike, [0.5, 0.5])
    with pytest.raises(CascadeError, match="3 stages"):
        ece(simulated(1, 9, stages=3), [0.5] * 9)
