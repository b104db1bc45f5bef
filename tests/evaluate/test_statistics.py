"""Intervals and p values against brute force, scipy, and what they promise, by simulation."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.evaluate import statistics
from featherweight.evaluate.statistics import (
    Floats,
    bootstrap_means,
    estimates,
    group_index,
    holm,
    interval,
    over_seeds,
    paired,
    sign_flip,
)

MANY = 2_000  # simulated data sets; columns of one call, so they share the draws


def clustered(seed: int, sizes: list[int], columns: int = 1) -> tuple[Floats, list[int]]:
    """Noise with mean 0 and an effect of each group: half of the variance is between groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    between = rng.normal(size=(len(sizes), columns))[groups]
    return between + rng.normal(size=(len(groups), columns)), groups.tolist()


SIZES = [1 + number % 15 for number in range(35)]  # 35 meetings with 1 to 15 questions


# ---- the bootstrap


def test_groups_are_numbered_by_their_names() -> None:
    assert group_index(["b", "a", "b", "c", "a"]).tolist() == [1, 0, 1, 2, 0]
    assert group_index([10, 9, 2, 10]).tolist() == [2, 1, 0, 2]


def test_rows_may_come_in_any_order() -> None:
    values, groups = clustered(1, [3, 1, 7, 2, 5], 2)
    named = [f"meeting {group}" for group in groups]
    order = np.random.default_rng(3).permutation(len(named))
    mixed = [named[item] for item in order]
    for one, other in zip(
        paired(values, values[:, ::-1], named),
        paired(values[order], values[order][:, ::-1], mixed),
        strict=True,
    ):
        assert one.ci95 == pytest.approx(other.ci95) and one.p == other.p


def test_a_draw_is_the_mean_over_the_items_of_the_drawn_groups() -> None:
    values, groups = clustered(1, [3, 1, 7, 2, 5], 2)
    shuffled = np.random.default_rng(2).permutation(len(groups))
    values, groups = values[shuffled], [f"meeting {groups[item]}" for item in shuffled]
    names = sorted(set(groups))
    (weights,) = statistics.group_draws(len(names), 200, 7)
    found = bootstrap_means(values, groups, 200, 7)
    assert found.shape == (200, 2)
    for times, means in zip(weights, found, strict=True):
        drawn = [name for name, often in zip(names, times, strict=True) for _ in range(int(often))]
        assert len(drawn) == len(names)
        pool = [
            values[item] for name in drawn for item, group in enumerate(groups) if group == name
        ]
        assert means == pytest.approx(np.mean(pool, axis=0), rel=1e-12)


def test_groups_are_drawn_with_replacement_and_equal_chances() -> None:
    weights = np.concatenate(list(statistics.group_draws(5, 40_000, 3)))
    assert (weights.sum(axis=1) == 5).all()
    # multinomial: variance 1 - 1/5, covariance -1/5; the bound is over 5 standard errors
    expected = np.eye(5) - 1 / 5
    assert np.abs(weights.mean(axis=0) - 1).max() < 0.025
    assert np.abs(np.cov(weights.T) - expected).max() < 0.04


def test_one_column_is_the_column_of_a_table() -> None:
    values, groups = clustered(4, SIZES)
    one = bootstrap_means(values[:, 0], groups, 300)
    assert one.shape == (300,)
    assert np.array_equal(one, bootstrap_means(values, groups, 300)[:, 0])
    assert estimates(values[:, 0], groups, 300) == estimates(values, groups, 300)
    zero = np.zeros_like(values)
    assert paired(values[:, 0], zero[:, 0], groups, 300) == paired(values, zero, groups, 300)
    assert sign_flip(values[:, 0], groups, 300) == sign_flip(values, groups, 300)


def test_columns_share_the_draws() -> None:
    values, groups = clustered(5, SIZES, 3)
    table = np.column_stack([values, values.sum(axis=1)])
    draws = bootstrap_means(table, groups, 200)
    assert draws[:, 3] == pytest.approx(draws[:, :3].sum(axis=1), abs=1e-12)


def test_scipy_finds_the_same_interval_for_single_items() -> None:
    scipy = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(6).exponential(size=60)
    (found,) = estimates(values[:, None], range(60), 40_000)
    theirs = scipy.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(6)
    )
    error = 0.025 * theirs.standard_error  # both ends are random: over 2 of their standard errors
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.ci95 == pytest.approx(tuple(theirs.confidence_interval), abs=2 * error)


def test_the_width_is_that_of_a_ratio_of_group_sums() -> None:
    values, groups = clustered(7, [1 + number % 15 for number in range(300)])
    (found,) = estimates(values, groups, 20_000)
    residual = np.bincount(groups, values[:, 0] - values.mean())
    expected = math.sqrt((residual**2).sum()) / len(groups)  # the linearised standard error
    low, high = found.ci95
    assert (high - low) / (2 * 1.96) == pytest.approx(expected, rel=0.03)


def test_groups_of_one_value_have_no_width() -> None:
    (found,) = estimates([[3.5]] * 6, [1, 1, 1, 2, 2, 3], 500)
    assert (found.mean, found.ci95) == (3.5, (3.5, 3.5))


@given(
    st.lists(st.tuples(st.floats(-100, 100), st.integers(0, 5)), min_size=1, max_size=12),
    st.integers(0, 9),
)
@settings(deadline=None, max_examples=50)
def test_bounds_are_ordered_and_within_the_group_means(
    items: list[tuple[float, int]], seed: int
) -> None:
    values = np.array([[value] for value, _ in items])
    groups = [group for _, group in items]
    (found,) = estimates(values, groups, 200, seed)
    low, high = found.ci95
    means = [values[np.array(groups) == group].mean() for group in set(groups)]
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert min(means) - 1e-9 <= low <= high <= max(means) + 1e-9


def test_the_interval_holds_its_mean_and_grows_with_confidence() -> None:
    draws = bootstrap_means(*clustered(8, SIZES, 4), 2_000)
    narrow, wide = interval(draws, 0.8), interval(draws, 0.99)
    assert narrow.shape == (2, 4)
    assert (wide[0] < narrow[0]).all() and (narrow[1] < wide[1]).all()
    inside = ((draws >= narrow[0]) & (draws <= narrow[1])).mean(axis=0)
    assert inside == pytest.approx([0.8] * 4, abs=0.002)
    middle = draws.mean(axis=0)
    assert (narrow[0] < middle).all() and (middle < narrow[1]).all()


def test_a_seed_decides_everything() -> None:
    a, groups = clustered(9, SIZES, 2)
    b, _ = clustered(10, SIZES, 2)

    alike = np.tile([1.0, 2.0, 4.0, 7.0, 11.0], (len(groups), 1))  # runs alone are drawn

    def found(seed: int) -> list[object]:
        return [
            estimates(a, groups, 500, seed),
            [one.ci95 for one in paired(a, b, groups, 500, seed)],
            sign_flip(a - b, groups, 500, seed).tolist(),
            over_seeds(a, groups, 500, seed),
            over_seeds(alike, groups, 500, seed),
        ]

    assert found(3) == found(3)
    for one, other in zip(found(3), found(4), strict=True):
        assert one != other


@pytest.mark.parametrize("size", [8, 3_000, 35 * 8 * 7, 35 * 8 * 499])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    values, groups = clustered(11, SIZES, 3)

    def found() -> Iterator[object]:
        yield np.concatenate(list(statistics.group_draws(35, 500, 0)))
        yield bootstrap_means(values, groups, 500)
        yield sign_flip(values, groups, 500)
        seeds = over_seeds(values, groups, 500)
        yield np.array([seeds.mean, seeds.sd, *seeds.ci95])

    whole = list(found())
    monkeypatch.setattr(statistics, "BLOCK_BYTES", size)
    assert len(list(statistics.group_draws(35, 500, 0))) > 1
    for one, other in zip(whole, found(), strict=True):
        assert one == pytest.approx(other, abs=1e-12)  # a product's last bit may differ


# ---- the sign-flip test


def flipped(difference: Floats, groups: list[int]) -> float:
    """Every pattern of exchanged groups, one by one."""
    names = sorted(set(groups))
    observed = abs(sum(difference))
    extreme = 0
    for signs in itertools.product((1, -1), repeat=len(names)):
        sign = dict(zip(names, signs, strict=True))
        total = sum(sign[group] * value for group, value in zip(groups, difference, strict=True))
        extreme += abs(total) >= observed - 1e-9
    return float(extreme / 2 ** len(names))


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=1, max_size=10),
)
@settings(deadline=None, max_examples=100)
def test_few_groups_are_enumerated(items: list[tuple[int, int]]) -> None:
    difference = np.array([value / 10 for value, _ in items])  # tenths: equal up to rounding only
    groups = [group for _, group in items]
    (p,) = sign_flip(difference, groups)
    assert p == flipped(difference, groups)
    assert 0 < p <= 1


@pytest.mark.parametrize("sizes", [[1] * 9, [4, 1, 9, 2, 2, 7, 1, 3]])
def test_scipy_finds_the_same_exact_p(sizes: list[int]) -> None:
    scipy = pytest.importorskip("scipy.stats")
    values, groups = clustered(12, sizes)
    a, b = values[:, 0] + 0.8, np.zeros(len(groups))
    sums = np.bincount(groups, a - b)  # groups are exchanged as one
    theirs = scipy.permutation_test(
        (sums, np.zeros(len(sums))),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    (found,) = paired(a[:, None], b[:, None], groups)
    assert 0.002 < theirs.pvalue < 0.6
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-12)


def test_drawn_patterns_come_near_all_patterns() -> None:
    values, groups = clustered(13, [1 + number % 4 for number in range(14)], 6)
    values += np.linspace(0, 1.2, 6)
    exact = sign_flip(values, groups, 2**14)
    drawn = sign_flip(values, groups, 2**14 - 1)
    assert (exact * 2**14 == np.round(exact * 2**14)).all()
    error = np.sqrt(exact * (1 - exact) / 2**14)
    assert (np.abs(drawn - exact) < 4 * error + 1e-4).all()
    assert (drawn != exact).any()
    assert exact.min() < 0.05 < exact.max()


def test_p_is_never_0() -> None:
    sure = np.ones((60, 1))
    assert sign_flip(sure, range(60), 999) == [1 / 1000]
    assert sign_flip(sure, [item % 5 for item in range(60)], 999) == [2 / 2**5]
    assert sign_flip(sure, [0] * 60, 999) == [1]  # one group says nothing


@pytest.mark.parametrize("number", [3, 40])
def test_no_difference_is_p_1(number: int) -> None:
    (found,) = paired([[0.3]] * number, [[0.3]] * number, range(number), 500)
    assert (found.diff, found.ci95, found.p) == (0, (0, 0), 1)


@pytest.mark.parametrize("sizes", [[3, 1, 5, 2, 2, 8], SIZES])
def test_the_other_way_round_is_the_same_with_the_sign_turned(sizes: list[int]) -> None:
    a, groups = clustered(14, sizes, 3)
    b, _ = clustered(15, sizes, 3)
    for one, other in zip(paired(a, b, groups, 999), paired(b, a, groups, 999), strict=True):
        assert (one.a, one.b, one.diff, one.p) == (other.b, other.a, -other.diff, other.p)
        assert one.diff == pytest.approx(one.a - one.b, abs=1e-12)
        assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]), abs=1e-12)
        assert one.ci95[0] < one.diff < one.ci95[1]


def test_columns_stay_in_their_places() -> None:
    a, groups = clustered(16, SIZES, 3)
    b = a - np.array([0.0, 5.0, -5.0])
    same, above, below = paired(a, b, groups, 999)
    assert (same.diff, same.p) == (0, 1)
    assert above.ci95 == pytest.approx((5, 5)) and below.ci95 == pytest.approx((-5, -5))
    assert above.p == below.p == 1 / 1000
    assert [one.a for one in (same, above, below)] == pytest.approx(a.mean(axis=0).tolist())


# ---- Holm


def test_holm_by_hand() -> None:
    # 3 of 4: .04, .02 * 3 = .06; .03 * 2 = .06; 4 * .005
    found = holm([0.03, 0.005, 0.04, 0.02])
    assert found == pytest.approx([0.06, 0.02, 0.06, 0.06])
    assert holm([0.5, 0.6]).tolist() == [1, 1]
    assert holm([[0.01], [0.02]]).tolist() == [[0.02], [0.02]]  # in the shape given
    assert holm([]).shape == (0,)


P = st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.02, 0.025, 0.05]), min_size=1, max_size=6)


@given(P)
def test_holm_is_closed_bonferroni(p: list[float]) -> None:
    """Adjusted p by the closure: the worst Bonferroni p of any set that the hypothesis is in."""
    everything = range(len(p))
    sets = [
        chosen for size in everything for chosen in itertools.combinations(everything, size + 1)
    ]
    expected = [
        max(min(1.0, len(s) * min(p[i] for i in s)) for s in sets if item in s)
        for item in everything
    ]
    assert holm(p).tolist() == pytest.approx(expected, rel=1e-12)


@given(P, st.randoms(use_true_random=False))
def test_holm_keeps_order_and_raises_p(p: list[float], random: object) -> None:
    found = holm(p)
    assert (found >= p).all() and (found <= 1).all()
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
    order = list(range(len(p)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert holm([p[item] for item in order]).tolist() == found[order].tolist()


# ---- several seeds


def test_runs_that_agree_add_nothing() -> None:
    values, groups = clustered(17, SIZES)
    (one,) = estimates(values, groups, 2_000)
    found = over_seeds(np.repeat(values, 3, axis=1), groups, 2_000)
    assert found.ci95 == pytest.approx(one.ci95, abs=1e-12)
    assert found.mean == pytest.approx(one.mean, abs=1e-12)
    assert found.sd == pytest.approx(0, abs=1e-12)
    assert found.runs == pytest.approx([one.mean] * 3, abs=1e-12)


def test_seeds_that_differ_widen_the_interval() -> None:
    values, groups = clustered(18, SIZES)
    widths = []
    for spread in (0.0, 0.3, 1.0, 4.0):
        runs = values + spread * np.array([-1.0, 0.0, 1.0])
        found = over_seeds(runs, groups, 2_000)
        assert found.sd == pytest.approx(spread, abs=1e-12)
        assert found.mean == pytest.approx(values.mean(), abs=1e-12)
        assert found.runs == pytest.approx(runs.mean(axis=0).tolist(), abs=1e-12)
        assert found.ci95[0] < found.mean < found.ci95[1]
        widths.append(found.ci95[1] - found.ci95[0])
    assert widths == sorted(widths) and widths[-1] > 3 * widths[0]


def test_without_groups_the_draws_are_all_draws_of_runs() -> None:
    """Every item alike: what is left is S runs drawn from S, and their variance is sd^2 / S."""
    runs = np.array([1.0, 2.5, 3.0, 4.5, 9.0])
    found = over_seeds(np.tile(runs, (6, 1)), [1, 1, 2, 3, 4, 4], 40_000)
    picks = np.array([np.mean(pick) for pick in itertools.product(runs, repeat=5)])
    widened = runs.mean() + (picks - runs.mean()) * math.sqrt(5 / 4)
    assert widened.var() == pytest.approx(runs.var(ddof=1) / 5)
    assert found.ci95 == pytest.approx(np.percentile(widened, [2.5, 97.5]), abs=0.12)
    assert found.sd == pytest.approx(runs.std(ddof=1))


def test_groups_and_seeds_add_their_variances() -> None:
    values, groups = clustered(19, [4] * 200)
    shift = np.random.default_rng(20).normal(size=30)
    shift *= 0.08 * math.sqrt(30) / shift.std(ddof=1)  # a standard error of 0.08
    (one,) = estimates(values, groups, 20_000)
    found = over_seeds(values + shift, groups, 20_000)
    of_groups = (one.ci95[1] - one.ci95[0]) / (2 * 1.96)
    both = (found.ci95[1] - found.ci95[0]) / (2 * 1.96)
    assert 0.05 < of_groups < 0.12
    assert both == pytest.approx(math.hypot(of_groups, 0.08), rel=0.03)


# ---- what does not fit


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number(value: float) -> None:
    table = [[1.0, 2.0], [value, 3.0]]
    for call in (bootstrap_means, estimates, sign_flip, over_seeds):
        with pytest.raises(ValueError, match="not a finite number"):
            call(table, ["a", "b"])  # type: ignore[operator]
    with pytest.raises(ValueError, match="not a finite number"):
        paired(table, [[0.0, 0.0], [0.0, 0.0]], ["a", "b"])


def test_shapes_that_do_not_fit() -> None:
    for values, groups in (
        ([[1.0], [2.0]], ["a"]),
        ([[1.0]], ["a", "b"]),
        ([], []),
        (np.zeros((2, 1, 1)), ["a", "b"]),
        (1.0, ["a"]),
    ):
        for call in (bootstrap_means, estimates, sign_flip, over_seeds):
            with pytest.raises(ValueError, match="do not fit"):
                call(values, groups)  # type: ignore[operator]
    with pytest.raises(ValueError, match="differ in shape"):
        paired([[1.0], [2.0]], [[1.0, 2.0], [1.0, 2.0]], ["a", "b"])
    for one_run in ([1.0, 2.0], [[1.0], [2.0]]):
        with pytest.raises(ValueError, match="at least two runs"):
            over_seeds(one_run, ["a", "b"])


# ---- do they keep their promise? No true difference, 35 meetings, half of the variance between
# ---- them; and the wrong way, which takes items for independent, on the same data.


def noise(shares: int) -> float:
    """Four standard errors of a share of 5 % among so many."""
    return 4 * math.sqrt(0.05 * 0.95 / shares)


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_sign_flip_rejects_at_its_rate_and_single_items_do_not(tails: str) -> None:
    values, groups = clustered(21, SIZES, MANY)
    if tails == "heavy":
        values = values**3
    right = (sign_flip(values, groups, 999) <= 0.05).mean()
    wrong = (sign_flip(values, range(len(groups)), 999) <= 0.05).mean()
    print(f"rejected at 5 %: {right:.3f} by groups, {wrong:.3f} by items")
    assert abs(right - 0.05) < noise(MANY)
    assert wrong > 0.15


@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_intervals_cover_the_mean_by_groups_and_not_by_items(shape: str) -> None:
    """35 groups are few for a percentile interval: 95 % in name, 93 % in fact, 91 if skewed."""
    if shape == "normal":
        values, groups = clustered(22, SIZES, MANY)
    else:  # exponential, as the effects of groups may be
        rng = np.random.default_rng(23)
        groups = np.repeat(np.arange(35), SIZES).tolist()
        values = rng.exponential(size=(35, MANY))[groups] - 1
        values += rng.exponential(size=values.shape) - 1

    def covered(by: list[int]) -> float:
        low, high = interval(bootstrap_means(values, by, 999))
        return float(((low <= 0) & (high >= 0)).mean())

    right, wrong = covered(groups), covered(list(range(len(groups))))
    print(f"covered: {right:.3f} by groups, {wrong:.3f} by items")
    assert 0.90 < right < 0.96
    assert wrong < 0.7


def test_holm_keeps_the_family_at_5_percent() -> None:
    family, number = 5, MANY // 5
    values, groups = clustered(24, SIZES, MANY)
    p = sign_flip(values, groups, 999).reshape(number, family)
    adjusted = np.array([holm(row) for row in p])
    right, wrong = (adjusted.min(axis=1) <= 0.05).mean(), (p.min(axis=1) <= 0.05).mean()
    print(f"some false difference: {right:.3f} with Holm, {wrong:.3f} without")
    assert right <= 0.05 + noise(number)
    assert wrong > 0.15


def test_intervals_over_seeds_cover_the_mean_and_those_of_a_mean_run_do_not() -> None:
    rng = np.random.default_rng(25)
    right = wrong = 0
    for number in range(300):
        values, groups = clustered(1_000 + number, SIZES)
        runs = values + 0.5 * rng.normal(size=3) + 0.5 * rng.normal(size=(len(groups), 3))
        low, high = over_seeds(runs, groups, 500).ci95
        right += low <= 0 <= high
        ((low, high),) = (one.ci95 for one in estimates(runs.mean(axis=1), groups, 500))
        wrong += low <= 0 <= high
    print(f"covered: {right / 300:.3f} with seeds drawn, {wrong / 300:.3f} with seeds taken as all")
    assert right > 0.88 * 300
    assert wrong < 0.8 * 300
