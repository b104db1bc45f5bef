"""Deferral curves against brute force, and what every curve must obey."""

import itertools
import math

import numpy as np
import pytest
from cascade_logs import made, simulated
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featherweight.cascade import draws as draws_module
from featherweight.cascade.curve import Curve, curve, right
from featherweight.cascade.draws import difference, figure, signature
from featherweight.cascade.sample import Sample
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import bootstrap_means, group_draws, interval

SOME = simulated(1, 40, 5, graded=True)


def walk(order: list[int], small: list[float], large: list[float]) -> list[float]:
    """Mean quality with 0, 1, 2 ... of the rows deferred, in this order."""
    now = list(small)
    found = [sum(now) / len(now)]
    for row in order:
        now[row] = large[row]
        found.append(sum(now) / len(now))
    return found


def area(line: list[float]) -> float:
    return sum((a + b) / 2 for a, b in itertools.pairwise(line)) / (len(line) - 1)


def slow(scores: list[float], small: list[float], large: list[float]) -> list[float]:
    """The curve, averaged over all orders of the rows that agree with the scores."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] <= scores[b] for a, b in itertools.pairwise(order))
    ]
    lines = [walk(list(order), small, large) for order in orders]
    return [sum(values) / len(lines) for values in zip(*lines, strict=True)]


rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6
)


@settings(deadline=None)
@given(rows)
def test_a_curve_is_the_average_over_the_orders_of_tied_rows(
    values: list[tuple[int, int, int]],
) -> None:
    scores, small, large = (list(map(float, column)) for column in zip(*values, strict=True))
    assume(len({b - a for a, b in zip(small, large, strict=True)}) > 1)
    found = curve(made(np.column_stack([small, large]), scores), resamples=2)
    line = slow(scores, small, large)
    assert found.quality == pytest.approx(
        np.interp(found.share, np.linspace(0, 1, len(line)), line)
    )
    assert found.audc.value == pytest.approx(area(line))
    gains = [a - b for a, b in zip(small, large, strict=True)]
    best = slow(gains, small, large)
    assert found.audc_oracle.value == pytest.approx(area(best))
    assert found.oracle == pytest.approx(np.interp(found.share, np.linspace(0, 1, len(best)), best))
    chance = (np.mean(small) + np.mean(large)) / 2
    assert found.audc_random.value == pytest.approx(chance)
    s_d = (area(line) - chance) / (area(best) - chance)
    assert found.s_d.value == pytest.approx(s_d)


def pairs(scores: np.ndarray, truth: np.ndarray) -> float:
    """The share of pairs of a right and a wrong answer that the scores put in order."""
    if truth.all() or not truth.any():
        return math.nan
    good, bad = scores[truth][:, None], scores[~truth][None]
    return float((good > bad).mean() + 0.5 * (good == bad).mean())


def test_right_is_at_least_as_good_as_the_large_model() -> None:
    assert right(made([[50, 60], [60, 60], [70, 60]], [1, 2, 3])).tolist() == [False, True, True]


@given(rows)
def test_auroc_counts_pairs(values: list[tuple[int, int, int]]) -> None:
    scores, small, large = (np.array(column, dtype=float) for column in zip(*values, strict=True))
    assume(len(set(large - small)) > 1)
    found = curve(made(np.column_stack([small, large]), scores), resamples=2)
    assert found.auroc.value == pytest.approx(pairs(scores, small >= large), nan_ok=True)


def test_auroc_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    expected = metrics.roc_auc_score(right(SOME), SOME.scores[:, 0])
    assert curve(SOME, resamples=2).auroc.value == pytest.approx(expected)


# ---- draws


def repeated(sample: Sample, times: np.ndarray) -> Sample:
    """The rows of a draw, each as often as its group was drawn."""
    rows = np.repeat(np.arange(len(sample.index)), times[sample.index].astype(int))
    return made(sample.quality[rows], sample.scores[rows])


@pytest.mark.parametrize("ties", [False, True])
def test_a_draw_is_the_curve_of_the_rows_of_the_drawn_groups(ties: bool) -> None:
    one = simulated(2, 9, 4)
    if ties:
        one = made(one.quality, np.round(3 * one.scores), one.groups)
    found = curve(one, resamples=30, seed=5)
    (weights,) = group_draws(9, 30, 5)
    lines = []
    for number, times in enumerate(weights):
        drawn = curve(repeated(one, times), resamples=1)
        lines.append(drawn.quality)
        for name in ("small", "large", "audc", "audc_random", "audc_oracle", "s_d", "auroc"):
            assert getattr(found, name).draws[number] == pytest.approx(getattr(drawn, name).value)
    low, high = np.percentile(lines, [2.5, 97.5], axis=0)
    assert found.low == pytest.approx(low) and found.high == pytest.approx(high)


def test_small_and_large_alone_have_the_intervals_of_their_means() -> None:
    found = curve(SOME, resamples=2000, seed=3)
    for stage, one in ((0, found.small), (1, found.large)):
        values = SOME.quality[:, stage]
        assert one.value == pytest.approx(values.mean())
        assert one.draws == pytest.approx(bootstrap_means(values, SOME.groups, 2000, 3))
        assert one.ci95 == pytest.approx(interval(one.draws), abs=0.05)
        share = -stage  # the ends of the curve are these two
        assert found.quality[share] == pytest.approx(one.value)
        assert (found.low[share], found.high[share]) == pytest.approx(interval(one.draws))


def test_small_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = curve(SOME, resamples=50)
    monkeypatch.setattr(draws_module, "AT_ONCE", 1)
    parts = curve(SOME, resamples=50)
    assert parts.s_d.draws == pytest.approx(whole.s_d.draws) and parts.low == pytest.approx(
        whole.low
    )


@pytest.mark.parametrize("digits", [0, 2, 9])
def test_both_ways_along_the_rows_agree(digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a product of matrices where few rows differ, row by row else: with and without ties."""
    one = made(SOME.quality, np.round(SOME.scores, digits), SOME.groups)
    found = []
    for few in (0, 1000):
        monkeypatch.setattr(draws_module, "FEW", few)
        found.append(curve(one, resamples=50))
    for name in ("audc", "audc_oracle", "s_d", "auroc"):
        first, second = (getattr(each, name).draws for each in found)
        assert first == pytest.approx(second, rel=1e-9)
    assert found[0].low == pytest.approx(found[1].low, rel=1e-9)


# ---- what every curve obeys


def test_the_oracle_has_1_and_its_opposite_less_than_0() -> None:
    gain = SOME.loss[:, 0]
    best = curve(made(SOME.quality, -gain, SOME.groups), resamples=200)
    assert best.s_d.value == pytest.approx(1) and best.s_d.ci95 == pytest.approx((1, 1))
    assert best.quality == pytest.approx(best.oracle)
    worst = curve(made(SOME.quality, gain, SOME.groups), resamples=200)
    assert worst.s_d.value == pytest.approx(-1)
    assert (worst.quality <= worst.random + 1e-9).all()


def test_chance_has_0() -> None:
    rng = np.random.default_rng(4)
    found = [
        curve(made(SOME.quality, rng.random(200), SOME.groups), resamples=2).s_d.value
        for _ in range(200)
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(200)
    flat = curve(made(SOME.quality, np.zeros(200), SOME.groups), resamples=20)
    assert flat.s_d.value == pytest.approx(0) and flat.s_d.draws == pytest.approx(np.zeros(20))
    assert flat.quality == pytest.approx(flat.random)


def test_no_score_beats_the_oracle_line() -> None:
    found = curve(SOME, resamples=50)
    assert (found.quality <= found.oracle + 1e-9).all()
    assert 0 < found.s_d.value < 1
    assert found.s_d.ci95[0] < found.s_d.value < found.s_d.ci95[1]


@pytest.mark.parametrize("change", [np.exp, lambda x: 7 * x - 3, lambda x: x**3])
def test_only_the_order_of_scores_counts(change: object) -> None:
    scores = np.round(SOME.scores, 1)  # with ties
    one = curve(made(SOME.quality, scores, SOME.groups), resamples=100)
    other = curve(made(SOME.quality, change(scores), SOME.groups), resamples=100)  # type: ignore[operator]
    assert other.s_d == one.s_d and (other.s_d.draws == one.s_d.draws).all()
    assert (other.quality == one.quality).all()


def test_the_order_of_rows_does_not_count() -> None:
    one = curve(SOME, resamples=100)
    order = np.random.default_rng(5).permutation(200)
    groups = [SOME.groups[row].removeprefix("calibrate-") for row in order]
    other = curve(made(SOME.quality[order], SOME.scores[order], groups), resamples=100)
    assert other.s_d.draws == pytest.approx(one.s_d.draws)


def test_failed_answers_are_deferred_first() -> None:
    quality = SOME.quality.copy()
    quality[:20, 0] = math.nan
    scores = np.where(np.arange(200) < 20, 99.0, SOME.scores[:, 0])
    found = curve(made(quality, scores, SOME.groups), resamples=10)
    worth_nothing = np.nan_to_num(quality)
    assert found.small.value == pytest.approx(worth_nothing[:, 0].mean())
    worth_nothing[:20, 0] = quality[:20, 1]
    assert found.quality[10] == pytest.approx(worth_nothing[:, 0].mean())


def test_cost_is_the_small_models_and_the_large_ones_where_asked() -> None:
    found = curve(SOME, ["seconds", "flops"], resamples=10)
    assert found.cost["seconds"] == pytest.approx(1 + 9 * found.share)
    assert found.cost["flops"] == pytest.approx(1e9 * found.cost["seconds"])
    with pytest.raises(CascadeError, match="the usd of stage 0"):
        curve(SOME, ["usd"], resamples=10)


# ---- differences


def test_differences_are_paired() -> None:
    """Two scores of the same rows: the noise that they share goes."""
    a, b = (simulated(7, 60, 4, noise=noise) for noise in (0.5, 0.6))
    assert (a.quality == b.quality).all()
    first, second = curve(a, resamples=500), curve(b, resamples=500)
    found = difference(first.s_d, second.s_d)
    assert found.mean == pytest.approx(first.s_d.value - second.s_d.value)
    width = found.ci95[1] - found.ci95[0]
    assert width < 0.9 * (first.s_d.ci95[1] - first.s_d.ci95[0])
    itself = difference(first.s_d, first.s_d)
    assert itself.mean == 0 and itself.ci95 == (0, 0)


def test_curves_of_other_rows_are_not_compared() -> None:
    one = curve(SOME, resamples=20)
    others = [
        curve(made(SOME.quality[:-1], SOME.scores[:-1], SOME.groups[:-1]), resamples=20),
        curve(made(SOME.quality, SOME.scores), resamples=20),  # other groups
        curve(SOME, resamples=20, seed=1),
        curve(SOME, resamples=21),
    ]
    for other in others:
        with pytest.raises(CascadeError, match="different questions or groups, or other draws"):
            difference(one.s_d, other.s_d)


def test_infinite_and_undefined_draws() -> None:
    draws = np.array([1.0] * 95 + [math.inf] * 5)
    assert figure(1, draws, "").ci95 == (1, math.inf)
    assert figure(1, np.array([2.0, math.nan, 2.0]), "").ci95 == (2, 2)
    assert all(map(math.isnan, figure(1, np.array([math.nan]), "").ci95))


def test_a_curve_that_says_nothing_is_refused() -> None:
    for gap in (0, 10):
        quality = np.column_stack([np.full(9, 50.0), np.full(9, 50.0 + gap)])
        with pytest.raises(CascadeError, match=f"differ by {gap}, on all 9 questions"):
            curve(made(quality, np.arange(9.0)))
    with pytest.raises(CascadeError, match="a log of 3 stages has no single deferral curve"):
        curve(simulated(1, 9, stages=3))


def test_the_interval_covers_the_truth() -> None:
    """80 logs of 100 groups; the truth is a very large one."""
    truth: Curve = curve(simulated(99, 20_000, 3), resamples=2)
    covered = 0
    for seed in range(80):
        low, high = curve(simulated(1000 + seed, 100, 3), resamples=250).s_d.ci95
        covered += low <= truth.s_d.value <= high
    print(f"s_d {truth.s_d.value:.3f}: covered {covered} times of 80")
    assert covered >= 68  # at 94 % fewer are seen once in 1,000 times


def test_signatures_tell_rows_groups_and_draws() -> None:
    assert signature(SOME, 10, 0) != signature(SOME, 10, 1)
    assert signature(SOME, 10, 0) == signature(simulated(1, 40, 5), 10, 0)
