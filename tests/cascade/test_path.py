"""The order in which thresholds are tried."""

import math

import numpy as np
import pytest
from cascade_logs import made, simulated
from hypothesis import given
from hypothesis import strategies as st

from featherweight.cascade.path import along, check_scores, levels, path, spending
from featherweight.errors import CascadeError


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 40))
def test_levels_trust_a_share_each_and_ties_wholly(values: list[int], number: int) -> None:
    found = levels(np.array([*values, -math.inf]), number)
    assert (np.diff(found) < 0).all() and found[-1] == min(values)
    n = len(values)
    for step in range(1, number + 1):
        trusted = math.ceil(step / number * n - 1e-9)
        assert sorted(values)[n - trusted] in found
    assert len(found) <= number


def test_two_stages_walk_down_the_shares() -> None:
    fit = made(np.ones((200, 2)), np.random.default_rng(1).permutation(200), split="fit")
    steps = path(fit, "seconds")
    assert steps.shape == (100, 1)
    assert (along(fit.scores, steps) == 0).sum(axis=0).tolist() == list(range(2, 201, 2))


def test_each_step_trusts_more_and_the_last_everything() -> None:
    fit = simulated(2, 300, stages=3, split="fit")
    steps = path(fit, "flops")
    assert (steps[1:] <= steps[:-1]).all()
    lowered = (steps[1:] < steps[:-1]).sum(axis=1)
    assert (lowered >= 1).all() and (lowered == 1).mean() > 0.8  # what cost more was left out
    chosen = along(fit.scores, steps)
    assert (np.diff(chosen, axis=1) <= 0).all()
    assert (chosen[:, 0] == 2).any() and (chosen[:, 0] < 2).any()  # not all, not none
    assert (chosen[:, -1] == 0).all()


def test_what_costs_quality_comes_last() -> None:
    """Stage 0 is as good as the last and its score is blind; stage 1 is bad: trust 0 first."""
    rng = np.random.default_rng(3)
    quality = np.column_stack([np.full(100, 80), np.full(100, 20), np.full(100, 80)])
    fit = made(quality, rng.random((100, 2)), split="fit")
    steps = path(fit, "seconds")
    assert np.isinf(steps[:25, 1]).all()
    # and the other way about
    fit = made(quality[:, [1, 0, 2]], rng.random((100, 2)), split="fit")
    steps = path(fit, "seconds")
    assert np.isinf(steps[:25, 0]).all()


@pytest.mark.parametrize("worst", [0, 1, None])
def test_no_step_costs_more_than_one_before(worst: int | None) -> None:
    """A stage that is asked from some step on costs at once, and saves little by little."""
    fit = simulated(3, 400, stages=3, split="fit")
    if worst is not None:
        quality = fit.quality.copy()
        quality[:, worst] = 0
        fit = made(quality, fit.scores, split="fit")
    steps = path(fit, "seconds")
    costs = spending(fit.scores, fit.cost("seconds"), steps)
    assert (np.diff(costs.mean(axis=0)) <= 1e-9).all()
    for number, thresholds in enumerate(steps):
        for row in range(0, 400, 37):
            spent, stage = 0.0, 0
            while stage < 2 and fit.scores[row, stage] < thresholds[stage]:
                spent += [1.0, 9.0][stage] * (thresholds[stage] < math.inf)
                stage += 1
            assert costs[row, number] == spent + [1.0, 9.0, 30.0][stage]


def test_a_score_that_tells_nothing_is_refused() -> None:
    good = [1.0, 2.0, 3.0]
    with pytest.raises(
        CascadeError, match=r"score of stage 1 \(m1\) is 5 for all of the 3 answers"
    ):
        check_scores(made(np.ones((3, 3)), np.column_stack([good, [5.0] * 3])), "fit")
    with pytest.raises(CascadeError, match="is 2 for all of the 2 answers in the fit split"):
        check_scores(made([[math.nan, 1], [1, 1], [1, 1]], [1, 2, 2]), "fit")
    with pytest.raises(
        CascadeError, match=r"all answers of stage 0 \(m0\) in the fit split failed"
    ):
        check_scores(made([[math.nan, 1]] * 3, good), "fit")
    check_scores(made(np.ones((3, 2)), good), "fit")
