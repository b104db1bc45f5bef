"""Budgets: the order statistic, ties, groups and stages, by simulation and brute force."""

import math
from dataclasses import replace

import numpy as np
import pytest
from cascade_logs import made, simulated

from featherweight.cascade.budget import for_budget, for_cost, order_statistics
from featherweight.cascade.sample import Sample, answering, keys
from featherweight.cascade.types import uniform
from featherweight.errors import CascadeError

DRAWS = 2_000


def of_scores(scores: np.ndarray, groups: list[int] | None = None) -> Sample:
    scores = scores.reshape(len(scores), -1)
    return made(np.ones((len(scores), scores.shape[1] + 1)), scores, groups)


def test_it_is_the_order_statistic_where_every_question_is_a_group() -> None:
    scores = np.random.default_rng(1).permutation(99).astype(float)
    for budget, k in ((0.3, 30), (0.295, 29), (0.01, 1), (0.999, 99)):
        (threshold,) = for_budget(of_scores(scores), budget).thresholds
        # above the k - 1 lowest of 0..98, away from any row's score; there is none below the lowest
        assert threshold.value == (k - 1.5 if k > 1 else 0)
    (threshold,) = for_budget(of_scores(scores), 1.0).thresholds
    assert threshold.value == math.inf


def test_equal_scores_stay_apart_by_their_places() -> None:
    scores = np.repeat([0.0, 1.0, 2.0], 33)
    for budget, at in ((0.5, 1.0), (0.2, 0.0)):
        (threshold,) = for_budget(of_scores(scores), budget).thresholds
        assert threshold.value == at
        rows = np.flatnonzero(scores == at)
        places = sorted(uniform(f"calibrate-{row}", 0) for row in rows)
        # the row whose place it is is not deferred, those before are
        assert places.index(threshold.tie) + 33 * at == 100 * budget - 1
    # between two runs of equal scores there is room
    (threshold,) = for_budget(of_scores(scores), 0.34).thresholds
    assert threshold.value == 0.5


def test_what_is_said_about_the_rows_used() -> None:
    one = simulated(2, 60, 4)
    found = for_budget(one, 0.25, seed=3)
    assert found.promise == {
        "kind": "budget",
        "budget": [0.25],
        "unit": "a question of a new group",
        "ties": "id",
        "metric": "accuracy",
        "n": 240,
        "groups": 60,
        "seed": 3,
        "log": "ab" * 32,
    }
    (deferral,) = found.realised.deferral
    chosen, passed = answering(one.scores, found.thresholds, keys(one.log))
    assert deferral.mean == passed.mean() and 0.2 < deferral.mean <= 0.25
    assert found.realised.quality.mean == pytest.approx(
        np.mean([one.quality[row, stage] for row, stage in enumerate(chosen)])
    )
    drop = found.realised.quality_last.mean - found.realised.quality.mean
    assert found.realised.drop.mean == pytest.approx(drop)


# ---- is it kept? Thresholds from fresh rows, judged on the next


def expected(scores: np.ndarray, groups: int, budget: list[float]) -> np.ndarray:
    """Mean share that reaches each later stage: scores [draws, groups + 1, size, stages]."""
    size, stages = scores.shape[2:]
    shares = np.zeros((len(scores), stages))
    names = np.repeat(np.arange(groups), size).tolist()
    for number, draw in enumerate(scores):
        one = of_scores(draw[:-1].reshape(-1, stages), names)
        new = [f"new-{number}-{row}" for row in range(size)]
        thresholds = order_statistics(one, budget, number)
        shares[number] = answering(draw[-1], thresholds, new)[1].mean(axis=0)
    return shares


def at_most(shares: np.ndarray, budget: float) -> bool:
    """Whether a mean of so many draws may be at most the budget: 3.1 standard errors."""
    return bool(shares.mean() <= budget + 3.1 * shares.std() / math.sqrt(len(shares)))


@pytest.mark.parametrize("values", [0, 2, 5])
def test_expected_deferral_is_the_budget_with_ties_too(values: int) -> None:
    """`values` distinct scores (0: all differ): the hash makes the budget exact."""
    rng = np.random.default_rng(values)
    shape = (DRAWS, 20, 1, 1)
    scores = rng.integers(values, size=shape).astype(float) if values else rng.normal(size=shape)
    scores[:, 0], scores[:, 1] = 0, 1  # constant scores are refused
    mixed = rng.permuted(scores, axis=1)
    shares = expected(mixed, 19, [0.3])
    print(f"{values or 'all'} scores differ: {shares.mean():.4f} deferred of at most 0.3")
    assert at_most(shares, 0.3)
    assert shares.mean() > 0.3 - 4 * shares.std() / math.sqrt(DRAWS)  # 6 of 20, and not less


def test_groups_that_decide_alike_keep_the_budget_and_pooled_rows_would_not() -> None:
    rng = np.random.default_rng(5)
    scores = np.repeat(rng.normal(size=(DRAWS, 11, 1, 1)), 8, axis=2)
    shares = expected(scores, 10, [0.12])
    assert at_most(shares, 0.12) and shares.mean() > 0.05
    pooled = np.sort(scores[:, :-1].reshape(DRAWS, -1), axis=1)[:, int(0.12 * 81) - 1]
    wrong = (scores[:, -1, 0, 0] < pooled).astype(float)
    print(f"deferred of at most 0.12: by groups {shares.mean():.3f}, pooled {wrong.mean():.3f}")
    assert not at_most(wrong, 0.12)


def test_every_stage_keeps_its_budget() -> None:
    rng = np.random.default_rng(6)
    common = rng.normal(size=(DRAWS, 16, 2, 1))
    scores = np.round(common + rng.normal(size=(DRAWS, 16, 2, 2)))
    shares = expected(scores, 15, [0.5, 0.2])
    print(f"deferred: {shares.mean(axis=0)}")
    assert at_most(shares[:, 0], 0.5) and at_most(shares[:, 1], 0.2)
    assert shares[:, 0].mean() > 0.4 and shares[:, 1].mean() > 0.08


# ---- what is refused


def test_failed_answers_count() -> None:
    quality = np.ones((40, 2))
    quality[:10, 0] = math.nan
    one = made(quality, np.arange(40.0))
    (threshold,) = for_budget(one, 0.5).thresholds
    assert threshold.value == 18.5  # 10 failed and 9 others of 41, and the new one
    (threshold,) = for_budget(one, 11 / 41).thresholds
    assert threshold.value == 10  # the lowest that did not fail: below it is nothing to count from
    with pytest.raises(CascadeError, match=r"stage 0 \(m0\) failed so often that 26.8% .* 20.0%"):
        for_budget(one, 0.2)


def test_what_cannot_be_promised_is_refused() -> None:
    one = simulated(3, 9, 4)
    with pytest.raises(CascadeError, match=r"a budget of 5.00% needs 19 groups, and 9 groups can"):
        for_budget(one, 0.05)
    assert for_budget(simulated(3, 19), 0.05)
    for budget, message in (
        (1.5, "a budget of 1.5 is no share"),
        (math.nan, "a budget of nan is no share"),
        (0.0, "a budget of 0.00% defers nothing, and 9 groups can promise 10.00%"),
        ([0.5, 0.2], "2 budgets for 1 stages"),
    ):
        with pytest.raises(CascadeError, match=message):
            for_budget(one, budget)
    with pytest.raises(CascadeError, match=r"may pass on 60.0% .* the one before it only 50.0%"):
        for_budget(simulated(3, 50, stages=3), [0.5, 0.6])
    with pytest.raises(CascadeError, match=r"the score of stage 0 \(m0\) is 1 for all of the 30"):
        for_budget(of_scores(np.ones(30)), 0.5)
    online = replace(one, log=replace(one.log, extra={"online": True}))
    for call in (lambda: for_budget(online, 0.5), lambda: for_cost(one, online, "flops", 9)):
        with pytest.raises(CascadeError, match="comes from online learning"):
            call()


# ---- budgets of cost


def replayed(sample: Sample, thresholds: list[float]) -> np.ndarray:
    """What the rule without its stages at +inf costs each row, question by question."""
    found = []
    for scores in sample.scores:
        spent = 0.0
        for cost, score, value in zip(
            [1.0, 9.0, 30.0], [*scores, 0], [*thresholds, -1], strict=False
        ):
            spent += cost if value < math.inf else 0
            if score >= value:
                break
        found.append(spent)
    return np.array(found)


@pytest.mark.parametrize("worthless", [0, 1])
def test_a_stage_that_is_never_trusted_costs_nothing(worthless: int) -> None:
    samples = []
    for seed, split in ((4, "fit"), (5, "calibrate")):
        one = simulated(seed, 400, 1, split, 3)
        quality = one.quality.copy()
        quality[:, worthless] = 0
        samples.append(made(quality, one.scores, split=split))
    left_out = 0
    for budget in (6.0, 12.0, 25.0):
        found = for_cost(*samples, "seconds", budget)
        values = [threshold.value for threshold in found.thresholds]
        left_out += values[worthless] == math.inf
        paid = replayed(samples[1], values)
        assert found.promise["mean"] == pytest.approx(paid.mean())
        assert paid.mean() <= budget
    assert left_out


@pytest.mark.parametrize("stages", [2, 3])
def test_the_mean_cost_stays_within_the_budget_and_no_more_could_be_passed_on(stages: int) -> None:
    fit, one = simulated(4, 200, 2, "fit", stages), simulated(5, 200, 2, stages=stages)
    budget = 5.0
    found = for_cost(fit, one, "seconds", budget)
    paid = replayed(one, [threshold.value for threshold in found.thresholds])
    assert found.promise["mean"] == pytest.approx(paid.mean())
    assert 0.8 * budget < paid.mean() <= budget
    low, high = found.promise["ci95"]
    assert low < paid.mean() < high
    assert found.promise["guarantee"] is None and found.promise["cost"] == "seconds"
    assert for_cost(fit, one, "seconds", 99).promise["mean"] <= 99
    with pytest.raises(
        CascadeError, match=r"a mean of 0.5 seconds .* cannot be kept: .* cost 1[ .]"
    ):
        for_cost(fit, one, "seconds", 0.5)
    with pytest.raises(CascadeError, match="the usd of stage 0"):
        for_cost(fit, one, "usd", 5)
