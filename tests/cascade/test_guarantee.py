"""What a p-value promises, by brute force, by simulation at the boundary, and the wrong way."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from featherweight.cascade import guarantee
from featherweight.cascade.guarantee import (
    Floats,
    betting_p,
    binomial_cdf,
    groups_needed,
    hoeffding_bentkus_p,
    limit_epsilon,
    limit_groups,
    provable_epsilon,
    proves,
    supported,
    upwards,
)

DRAWS = 2_000  # columns of one call
DELTA = 0.05
# so many failures among the draws would be seen once in a thousand times if delta were kept
TOO_MANY = stats.binom.ppf(0.999, DRAWS, DELTA)


# ---- what a number of groups can prove


def test_35_meetings_without_a_loss_support_8_points() -> None:
    assert limit_epsilon(35, 0.05, 100) == pytest.approx(8.2, abs=0.05)
    assert limit_epsilon(35, 0.05, 1) == pytest.approx(0.082, abs=0.0005)
    assert limit_epsilon(0, 0.05, 100) == 100


def test_one_point_needs_about_300_groups() -> None:
    assert limit_groups(1, 0.05, 100) == 299
    assert limit_groups(8.21, 0.05, 100) == 35


@pytest.mark.parametrize("groups", [1, 2, 35, 299, 5000])
@pytest.mark.parametrize("delta", [0.001, 0.05, 0.5])
def test_limit_groups_undoes_the_limit_epsilon(groups: int, delta: float) -> None:
    least = limit_epsilon(groups, delta, 100)
    assert limit_groups(least, delta, 100) == groups
    if groups > 1:
        between = 0.5 * (least + limit_epsilon(groups - 1, delta, 100))
        assert limit_groups(between, delta, 100) == groups


@pytest.mark.parametrize("groups", [35, 300])
def test_zero_losses_prove_what_is_1_08_times_the_limit(groups: int) -> None:
    """What the hedge costs; and below the smallest epsilon nothing is proven."""
    least = limit_epsilon(groups, 0.05, 1)
    none = np.full(groups, 0.5)
    before = none[: groups // 3 + 1]

    def p(epsilon: float) -> float:
        return float(betting_p(none, (1 + epsilon) / 2, before)[0])

    assert p(1.08 * least) <= 0.05 < p(1.06 * least)
    # without anything before them the bets begin timidly
    assert betting_p(none, (1 + 1.08 * least) / 2)[0] > 0.05
    assert betting_p(none, (1 + 1.5 * least) / 2)[0] <= 0.05


@pytest.mark.parametrize(("groups", "fits"), [(35, 0), (35, 12), (300, 100), (299, 600)])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.3])
def test_what_is_provable_is_what_the_test_proves(groups: int, fits: int, delta: float) -> None:
    least = provable_epsilon(groups, fits, delta, 100)
    none, before = np.full((groups, 1), 0.5), np.full((fits, 1), 0.5)
    for epsilon, wanted in ((least, True), (least - 2e-4, False)):
        p = betting_p(none, (1 + epsilon / 100) / 2, before)[0]
        assert (p <= delta) == wanted == proves(groups, fits, epsilon, delta, 100)
    assert limit_epsilon(groups, delta, 100) < least


def test_one_group_proves_nothing() -> None:
    assert provable_epsilon(1, 0, 0.001, 100) == provable_epsilon(0, 9, 0.05, 100) == 100


@pytest.mark.parametrize("share", [0.0, 0.5, 3.0])
@pytest.mark.parametrize(("epsilon", "delta"), [(1, 0.05), (8.21, 0.05), (60, 0.05), (99, 0.5)])
def test_so_many_groups_prove_it_and_one_less_does_not(
    epsilon: float, delta: float, share: float
) -> None:
    needed = groups_needed(epsilon, delta, 100, share)
    assert needed is not None and needed >= limit_groups(epsilon, delta, 100)
    assert proves(needed, int(needed * share), epsilon, delta, 100)
    assert not proves(needed - 1, int((needed - 1) * share), epsilon, delta, 100)


@pytest.mark.parametrize(
    ("value", "text"), [(8.7803, "8.79"), (3.17, "3.17"), (0.0412001, "0.0413"), (100, "100")]
)
def test_what_is_shown_is_never_less(value: float, text: str) -> None:
    assert upwards(value) == text


def test_what_groups_support_is_said_as_it_is() -> None:
    found = supported(1000, 500, 0.004, 100, "accuracy")
    assert re.fullmatch(
        r"1000 .* a drop of 0\.\d+ accuracy at the least, with 0\.996 conf.*", found
    )
    assert "with 0.999999 confidence" in supported(1000, 500, 1e-6, 100, "accuracy")
    assert supported(1, 1, 0.05, 100, "x") == "1 groups can prove no drop in x with 0.95 confidence"


def test_groups_are_not_counted_for_ever() -> None:
    assert groups_needed(1e-7, 0.05, 100, 0.5) is None
    near = groups_needed(0.0035, 0.05, 100, 0.5)
    assert near is not None and 50_000 < near <= guarantee.MOST_GROUPS


# ---- the p-value itself


def slow(values: list[float], m: float, before: list[float]) -> float:
    """Two gamblers, round by round."""
    capital, best, past = [0.75, 0.25], 1.0, [0.5]
    squares = [0.25]

    def learn(value: float) -> None:
        past.append(value)
        squares.append((value - sum(past) / len(past)) ** 2)

    for value in before:
        learn(value)
    for value in values:
        gap = m - sum(past) / len(past)
        wanted = max(gap, 0) / (sum(squares) / len(squares) + gap**2)
        capital = [
            one * (1 + min(wanted, c / (1 - m)) * (m - value))
            for one, c in zip(capital, (1.0, 0.5), strict=True)
        ]
        best = max(best, sum(capital))
        learn(value)
    return 1 / best


@pytest.mark.parametrize("m", [0.3, 0.52, 0.9])
def test_p_is_one_over_the_largest_capital(monkeypatch: pytest.MonkeyPatch, m: float) -> None:
    rng = np.random.default_rng(1)
    values, before = rng.beta(2, 3, (40, 5)), rng.beta(2, 3, (7, 5))
    for past in (before, before[:0]):
        expected = [slow(list(values[:, k]), m, list(past[:, k])) for k in range(5)]
        assert betting_p(values, m, past) == pytest.approx(expected, rel=1e-9)
    whole = betting_p(values, m, before)
    monkeypatch.setattr(guarantee, "BLOCK", 1)  # column by column
    assert betting_p(values, m, before) == pytest.approx(whole, rel=1e-12)
    assert betting_p(values[:, 0], m, before[:, 0]) == pytest.approx(whole[:1], rel=1e-12)


def test_one_value_of_1_leaves_the_careful_quarter() -> None:
    values = np.concatenate([np.full(300, 0.5), [1.0], np.full(300, 0.5)])
    p = betting_p(values[:, None], 0.55, np.full((40, 1), 0.5))[0]
    assert 0 < p < 1e-6


def test_hoeffding_bentkus_agrees_with_scipy() -> None:
    rng = np.random.default_rng(2)
    values = rng.random((50, 4)) * [0.2, 0.5, 0.9, 0.0]
    for m in (0.2, 0.5):
        mean = values.mean(axis=0)
        low = np.minimum(mean, m)
        distance = stats.entropy(np.array([low, 1 - low]), np.array([[m] * 4, [1 - m] * 4]))
        bentkus = math.e * stats.binom.cdf(np.ceil(50 * mean), 50, m)
        expected = np.minimum(1, np.minimum(np.exp(-50 * distance), bentkus))
        assert hoeffding_bentkus_p(values, m) == pytest.approx(expected, rel=1e-9)
    for n, p in ((1, 0.5), (35, 0.03), (3000, 0.4)):
        assert binomial_cdf(n, p) == pytest.approx(stats.binom.cdf(range(n + 1), n, p), rel=1e-8)


def test_betting_proves_more_than_hoeffding_bentkus_where_losses_vary_little() -> None:
    rng = np.random.default_rng(3)
    values = np.clip(rng.normal(0.505, 0.03, (100, 500)), 0, 1)  # loses 1 point of 100, sd 6
    before = np.clip(rng.normal(0.505, 0.03, (40, 500)), 0, 1)
    found = {
        name: (p <= 0.05).mean()
        for name, p in (
            ("betting", betting_p(values, 0.53, before)),
            ("bound", hoeffding_bentkus_p(values, 0.53)),
        )
    }
    assert found["betting"] > 0.9 and found["bound"] < 0.05


@pytest.mark.parametrize("bad", [[0.5, math.nan], [1.1], [-0.1], []])
def test_values_outside_0_and_1_are_refused(bad: list[float]) -> None:
    for test in (betting_p, hoeffding_bentkus_p):
        with pytest.raises(ValueError, match="value"):
            test(bad, 0.5)
    with pytest.raises(ValueError, match="2 columns before, 1 now"):
        betting_p([0.5], 0.5, [[0.5, 0.5]])
    for m in (0, 1, math.nan):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            betting_p([0.5], m)
    for call in (
        lambda: limit_groups(1, 0, 100),
        lambda: limit_groups(0, 0.1, 100),
        lambda: groups_needed(0, 0.1, 100, 0.5),
        lambda: proves(9, 9, 1, 0, 100),
        lambda: provable_epsilon(9, 9, 1.5, 100),
    ):
        with pytest.raises(ValueError, match="not between 0 and"):
            call()


# ---- does it keep its promise? Populations whose mean loss is just what the hypothesis says


def meetings(rng: np.random.Generator, groups: int, draws: int, icc: float) -> Floats:
    """Items [groups, 8, draws] in [0, 1] with mean 1/2 and intra-class correlation `icc`."""
    between = np.sqrt(icc) * rng.normal(size=(groups, 1, draws))
    items = between + np.sqrt(1 - icc) * rng.normal(size=(groups, 8, draws))
    return np.asarray(np.clip(0.5 + 0.15 * items, 0, 1))


def correlated(rng: np.random.Generator, groups: int) -> tuple[Floats, float]:
    return meetings(rng, groups, DRAWS, 0.3).mean(axis=1), 0.5


def alike(rng: np.random.Generator, groups: int) -> tuple[Floats, float]:
    """All answers of a meeting are lost or won together."""
    return rng.choice([0.0, 0.5, 1.0], (groups, DRAWS), p=[0.28, 0.4, 0.32]), 0.52


def rare(rng: np.random.Generator, groups: int) -> tuple[Floats, float]:
    """One meeting in fifty is lost wholly, the others not at all."""
    return rng.choice([0.5, 1.0], (groups, DRAWS), p=[0.98, 0.02]), 0.51


@pytest.mark.parametrize("groups", [35, 300])
@pytest.mark.parametrize("population", [correlated, alike, rare])
def test_at_the_boundary_delta_is_kept(
    population: Callable[[np.random.Generator, int], tuple[Floats, float]], groups: int
) -> None:
    rng = np.random.default_rng(groups)
    (values, m), (before, _) = population(rng, groups), population(rng, groups // 3)
    assert values.mean() == pytest.approx(m, abs=0.003)
    # the bets may learn from anything: what flatters them most breaks nothing
    flattering = np.full_like(before, 0.4)
    rates = {}
    for name, past in (("learned", before), ("flattered", flattering), ("nothing", None)):
        rejected = (betting_p(values, m, past) <= DELTA).sum()
        rates[name] = rejected / DRAWS
        assert rejected <= TOO_MANY, (name, rejected)
    assert (hoeffding_bentkus_p(values, m) <= DELTA).sum() <= TOO_MANY
    print(f"{population.__name__}, {groups} groups: rejected at 5 %: {rates}")
    if groups == 300 and population is alike:
        assert rates["flattered"] > 0.02  # a promise kept by never saying anything is worth little


@pytest.mark.parametrize(("icc", "least", "most"), [(0.05, 6, 10), (0.1, 8, 13), (0.3, 14, 20)])
def test_the_wrong_way_items_for_groups(icc: float, least: float, most: float) -> None:
    """Single answers taken for independent: a t-test at 5 % rejects 8 to 17 %, by groups 5 %."""
    items = meetings(np.random.default_rng(7), 35, DRAWS, icc)
    wrong = stats.ttest_1samp(items.reshape(-1, DRAWS), 0.5, alternative="less").pvalue
    right = stats.ttest_1samp(items.mean(axis=1), 0.5, alternative="less").pvalue
    print(f"{icc}: by items {(wrong <= DELTA).mean():.3f}, by groups {(right <= DELTA).mean():.3f}")
    assert least < 100 * (wrong <= DELTA).mean() < most
    assert (wrong <= DELTA).sum() > TOO_MANY >= (right <= DELTA).sum()


def test_betting_on_items_breaks_its_promise_too() -> None:
    rng = np.random.default_rng(8)
    values = np.repeat(rng.choice([0.0, 1.0], (60, DRAWS)), 8, axis=0)
    before = np.repeat(rng.choice([0.0, 1.0], (60, DRAWS)), 8, axis=0)
    assert (betting_p(values, 0.5, before) <= DELTA).sum() > 2 * TOO_MANY
    assert (betting_p(values[::8], 0.5, before[::8]) <= DELTA).sum() <= TOO_MANY


def test_a_t_test_breaks_its_promise_where_losses_are_rare() -> None:
    """Why not simply a t-test on groups: half of all draws hold no loss at all."""
    values, m = rare(np.random.default_rng(9), 35)
    with np.errstate(all="ignore"):
        t = (values.mean(axis=0) - m) / (values.std(axis=0, ddof=1) / math.sqrt(35))
    assert (stats.t.cdf(t, 34) <= DELTA).mean() > 0.3
