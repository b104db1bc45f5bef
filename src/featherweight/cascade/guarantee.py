"""What a number of groups can prove: p-values for the mean of bounded losses.

Values lie in [0, 1], are independent (group means, never single items of a group) and may have any
distribution. A threshold's promise is the rejection of "its mean loss is above m".
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BOLD = 0.75  # of the capital may bet all it has, the rest at most half
BLOCK = 1 << 21  # values held at once
MOST_GROUPS = 100_000  # more are not searched for


def betting_p(values: ArrayLike, m: float, before: ArrayLike | None = None) -> Floats:
    """p-value of "the mean is above m" for each column of `values` [n, k]: [k]; [n] is one column.

    A gambler who bets against it turns 1 into prod(1 + lambda_i (m - x_i)); if it is true his
    capital exceeds 1/p with probability at most p (Ville), at whatever time it does: p is one over
    the largest capital on the way through the rows, in the order given, which must not depend on
    the values (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
    betting", section 4). lambda_i is their predictable plug-in (aGRAPA): (m - mean) / (variance +
    (m - mean)^2) of what came before, at least 0 and at most c / (1 - m). `before` [b, k] are
    values of other, earlier data (the fit split) that the bets may learn from; the promise does not
    rest on them.

    With c = 1 a single value of 1 ruins him, with c = 1/2 he needs twice as many groups where
    nothing is lost; so three quarters of the capital bet with c = 1 and the rest with c = 1/2.
    Where all values are 1/2 (signed losses of 0), and a third as many in `before` too, this proves
    an epsilon that is 1.08 times `limit_epsilon`, which no test could beat.
    """
    table = _checked(values, m)
    past = np.empty((0, table.shape[1]))
    if before is not None and len(np.asarray(before)):
        past = _checked(before, m)
    if past.shape[1] != table.shape[1]:
        raise ValueError(f"{past.shape[1]} columns before, {table.shape[1]} now")
    step = max(1, BLOCK // (len(past) + len(table)))
    return np.concatenate(
        [
            _betting(table[:, start : start + step], past[:, start : start + step], m)
            for start in range(0, table.shape[1], step)
        ]
    )


def _betting(table: Floats, past: Floats, m: float) -> Floats:
    known = np.concatenate([past, table])
    seen = np.arange(1, len(known) + 1)[:, None]
    # one value of 1/2 with variance 1/4 stands before all others
    mean = (0.5 + np.cumsum(known, axis=0)) / (seen + 1)
    variance = (0.25 + np.cumsum((known - mean) ** 2, axis=0)) / (seen + 1)
    start = np.full((1, known.shape[1]), 0.5)
    mean = np.concatenate([start, mean[:-1]])[len(past) :]
    variance = np.concatenate([start / 2, variance[:-1]])[len(past) :]
    gap = m - mean
    bets = np.maximum(gap, 0) / (variance + gap**2)
    gain = m - table
    capital = [
        math.log(share)
        + np.cumsum(np.log1p(np.maximum(np.minimum(bets, c / (1 - m)) * gain, -1 + 1e-12)), axis=0)
        for share, c in ((BOLD, 1.0), (1 - BOLD, 0.5))
    ]
    largest = np.logaddexp(*capital).max(axis=0)
    return np.asarray(np.exp(-np.maximum(largest, 0.0)))


def hoeffding_bentkus_p(values: ArrayLike, m: float) -> Floats:
    """The same p-value by Hoeffding's and Bentkus's bounds, whichever is smaller: [k].

    Bates et al. 2021, "Distribution-free, risk-controlling prediction sets", section 3.1;
    Angelopoulos et al. 2021, "Learn then test". Rests on the mean alone, so it proves much less
    than betting where values vary little.
    """
    table = _checked(values, m)
    n, mean = len(table), table.mean(axis=0)
    low = np.minimum(mean, m)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(low > 0, low * np.log(low / m), 0.0) + np.where(
            low < 1, (1 - low) * np.log((1 - low) / (1 - m)), 0.0
        )
    bentkus = math.e * binomial_cdf(n, m)[np.ceil(n * mean - 1e-9).astype(np.intp)]
    return np.asarray(np.minimum(1.0, np.minimum(np.exp(-n * distance), bentkus)))


def binomial_cdf(n: int, p: float) -> Floats:
    """P(at most j of n) for j = 0..n, each with chance 0 < p < 1: [n + 1]."""
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    j = np.arange(n + 1)
    logs = factorial[n] - factorial - factorial[::-1] + j * math.log(p) + (n - j) * math.log1p(-p)
    return np.asarray(np.minimum(1.0, np.cumsum(np.exp(logs))))


def limit_epsilon(groups: int, delta: float, span: float) -> float:
    """The least drop that any valid test could prove with `groups`, in the metric's units.

    `span` is the metric's high - low. A loss of 0 is 1/2 in [0, 1] and a drop of epsilon is m =
    (1 + epsilon / span) / 2; betting all each time multiplies the capital by 1 / (1 - epsilon /
    span) a group, and 1/delta is needed. No valid test does better without wins to count.
    `betting_p` needs more: `provable_epsilon`.
    """
    _check_delta(delta)
    return float(span * -math.expm1(math.log(delta) / groups)) if groups else span


def limit_groups(epsilon: float, delta: float, span: float) -> int:
    """The fewest groups whose `limit_epsilon` is at most `epsilon`."""
    _check_delta(delta)
    _check_epsilon(epsilon, span)
    exact = math.log(delta) / math.log1p(-epsilon / span)
    return max(1, math.ceil(exact - 1e-9))


def proves(groups: int, fit_groups: int, epsilon: float, delta: float, span: float) -> bool:
    """Whether `betting_p` proves a drop of `epsilon` where none of the groups loses anything.

    `fit_groups` are what the bets learn from. What holds for some epsilon holds for all larger
    ones, for more groups and for more fit groups: each raises every factor of the capital.
    """
    _check_delta(delta)
    _check_epsilon(epsilon, span)
    if not groups:
        return False
    nothing = np.full((groups, 1), 0.5)
    p = betting_p(nothing, (1 + epsilon / span) / 2, np.full((fit_groups, 1), 0.5))
    return bool(p[0] <= delta)


def provable_epsilon(groups: int, fit_groups: int, delta: float, span: float) -> float:
    """The least drop that `betting_p` proves where nothing is lost, in the metric's units.

    That is `proves` solved for epsilon, to a millionth of `span` from above; `span` itself where
    the groups are too few for any.
    """
    _check_delta(delta)
    return bisect(lambda share: proves(groups, fit_groups, share, delta, 1.0), 0.0, 1.0) * span


def supported(groups: int, fit_groups: int, delta: float, span: float, metric: str) -> str:
    """What `provable_epsilon` says, for people."""
    sure = f"with {1 - delta:.10g} confidence"
    least = provable_epsilon(groups, fit_groups, delta, span)
    if least >= span:
        return f"{groups} groups can prove no drop in {metric} {sure}"
    return f"{groups} groups can prove a drop of {upwards(least)} {metric} at the least, {sure}"


def groups_needed(epsilon: float, delta: float, span: float, fit_share: float) -> int | None:
    """The fewest groups with which `betting_p` proves `epsilon` where nothing is lost.

    For each there are `fit_share` fit groups (rounded down) to learn the bets from. `None` where
    more than `MOST_GROUPS` are needed.
    """
    low = limit_groups(epsilon, delta, span) - 1  # with so few nothing can

    def enough(groups: int) -> bool:
        return proves(groups, int(groups * fit_share), epsilon, delta, span)

    high = low + 1
    while high <= MOST_GROUPS and not enough(high):
        low, high = high, 2 * high
    if high > MOST_GROUPS:
        high = MOST_GROUPS
        if low >= high or not enough(high):
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def upwards(value: float) -> str:
    """A positive `value` for people, three digits, rounded up: what is named must be provable."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step - 1e-9) * step:.3g}"


def bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least number between `low` and `high` from which on `holds`, to a millionth of that.

    `holds` is not asked about either end; what is returned holds, or is `high`.
    """
    width = 1e-6 * (high - low)
    while high - low > width:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _check_epsilon(epsilon: float, span: float) -> None:
    if not 0 < epsilon < span:
        raise ValueError(f"epsilon {epsilon} is not between 0 and {span}")


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} is not between 0 and 1")


def _checked(values: ArrayLike, m: float) -> Floats:
    if not 0 < m < 1:
        raise ValueError(f"m {m} is not between 0 and 1")
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not len(table):
        raise ValueError(f"values of shape {table.shape}")
    if not ((table >= 0) & (table <= 1)).all():  # false for NaN too
        raise ValueError("a value is not in [0, 1]")
    return table
