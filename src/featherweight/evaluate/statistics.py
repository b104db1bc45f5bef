"""How sure: means with cluster-bootstrap intervals, paired comparisons, Holm, several seeds.

Answers about one meeting are not independent, so whole groups are drawn, never single items
(Cameron, Gelbach and Miller 2008, "pairs cluster bootstrap"). Intervals are percentile intervals;
`p` comes from flipping the sign of whole groups (Edgington's randomisation test; exact when all
2^G patterns can be tried). Everything is a product of a weight matrix [resamples, groups] with
group sums, hence vectorised, and seeded.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95
BLOCK_BYTES = 8 << 20  # weights held at once: more is new memory every time
CACHE = 1 << 15  # of them, counted at once


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over items and its interval."""

    mean: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """Means of two systems on the same items, a - b with its interval, and p of no difference."""

    a: float
    b: float
    diff: float
    ci95: tuple[float, float]
    p: float


def group_index(groups: Sequence[Hashable]) -> NDArray[np.intp]:
    """Groups as numbers 0..G-1, by their names' order: rows may come in any order. [n]."""
    names = sorted(set(groups), key=lambda group: (type(group).__name__, group))
    numbers = {group: number for number, group in enumerate(names)}
    return np.array([numbers[group] for group in groups], dtype=np.intp)


def bootstrap_means(
    values: ArrayLike, groups: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Means over items in `resamples` draws of whole groups with replacement.

    `values` is [n] or [n, k] (k systems or metrics on the same items, drawn together); the result
    is [resamples] or [resamples, k]. A draw's mean is its sum over its number of items, since
    groups differ in size. Raises `ValueError` where shapes do not fit, nothing is given or a value
    is not finite.
    """
    table, index = _checked(values, groups)
    sums, counts = _group_sums(table, index)
    means = np.concatenate(
        [(w @ sums) / (w @ counts)[:, None] for w in group_draws(len(counts), resamples, seed)]
    )
    return means[:, 0] if np.ndim(values) == 1 else means


def estimates(
    values: ArrayLike, groups: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> list[Estimate]:
    """The mean of every column of `values` [n, k] with its interval; [n] is one column."""
    table, _ = _checked(values, groups)
    draws = bootstrap_means(table, groups, resamples, seed)
    return [
        Estimate(float(mean), (float(low), float(high)))
        for mean, (low, high) in zip(table.mean(axis=0), interval(draws).T, strict=True)
    ]


def paired(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Difference]:
    """Compare two systems on the same items, a column for each metric: [n, k] each, or [n]."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired tables differ in shape: {first.shape} and {second.shape}")
    first, _ = _checked(first, groups)
    second, _ = _checked(second, groups)
    difference = first - second
    bounds = interval(bootstrap_means(difference, groups, resamples, seed)).T
    p = sign_flip(difference, groups, resamples, seed)
    return [
        Difference(
            float(first[:, k].mean()),
            float(second[:, k].mean()),
            float(difference[:, k].mean()),
            (float(bounds[k][0]), float(bounds[k][1])),
            float(p[k]),
        )
        for k in range(first.shape[1])
    ]


def sign_flip(
    difference: ArrayLike,
    groups: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """Two-sided p of "no difference" for each column of `difference` [n, k]: [k].

    The labels of the two systems are exchanged for whole groups. With few groups all 2^G patterns
    are tried and p is exact; else it is (1 + as extreme) / (1 + tried), never 0.
    """
    table, index = _checked(difference, groups)
    sums, _ = _group_sums(table, index)
    observed = np.abs(sums.sum(axis=0))
    # rounding must not tell a pattern from its equal
    limit = observed - 1e-9 * np.maximum(1e-300, np.abs(sums).sum(axis=0))
    number = len(sums)
    if number < 63 and 2**number <= resamples:
        patterns = (np.arange(2**number)[:, None] >> np.arange(number)) & 1
        return np.asarray((np.abs((1.0 - 2.0 * patterns) @ sums) >= limit).mean(axis=0))
    generator = np.random.default_rng([seed, 1])
    extreme = np.zeros(table.shape[1])
    for size in _blocks(resamples, number):
        # int32: of smaller types a block's end drops drawn bits, and p would depend on BLOCK_BYTES
        signs = generator.integers(0, 2, size=(size, number), dtype=np.int32) * 2.0 - 1.0
        extreme += (np.abs(signs @ sums) >= limit).sum(axis=0)
    return np.asarray((1 + extreme) / (1 + resamples))


def holm(p: ArrayLike) -> Floats:
    """Holm's step-down adjustment of a table of p values, in the shape given.

    Holm (1979): the i-th smallest of m is multiplied by m - i, and none is below one before it.
    """
    raw = np.asarray(p, dtype=np.float64)
    flat = raw.ravel()
    order = np.argsort(flat, kind="stable")
    adjusted = np.minimum(
        1.0, np.maximum.accumulate(flat[order] * (flat.size - np.arange(flat.size)))
    )
    result = np.empty_like(flat)
    result[order] = adjusted
    return result.reshape(raw.shape)


@dataclass(frozen=True, slots=True)
class Seeds:
    """A mean over several runs: the interval holds both, meetings and seeds; `sd` is of seeds."""

    mean: float
    ci95: tuple[float, float]
    sd: float
    runs: tuple[float, ...]


def over_seeds(
    values: ArrayLike, groups: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> Seeds:
    """One metric of one system trained or decoded with several seeds: `values` [n, seeds].

    Runs answer the same items, so they are crossed with the groups and both are drawn (Owen 2007,
    "the pigeonhole bootstrap"). Drawing S runs understates their variance by (S-1)/S; the draws'
    deviation from the mean is widened by the square root of S/(S-1) for that. With one run there
    is nothing to tell: use `estimates`.
    """
    table, index = _checked(values, groups)
    runs = table.shape[1]
    if runs < 2:
        raise ValueError("several seeds means at least two runs")
    sums, counts = _group_sums(table, index)
    generator = np.random.default_rng([seed, 2])
    mean = float(table.mean())
    draws = []
    for w in group_draws(len(counts), resamples, seed):
        by_run = (w @ sums) / (w @ counts)[:, None]  # [block, runs]
        centre = by_run.mean(axis=1)
        picked = generator.integers(runs, size=by_run.shape)
        of_seeds = np.take_along_axis(by_run, picked, axis=1).mean(axis=1) - centre
        draws.append(centre + of_seeds * np.sqrt(runs / (runs - 1)))
    low, high = interval(np.concatenate(draws))
    means = table.mean(axis=0)
    return Seeds(
        mean, (float(low), float(high)), float(means.std(ddof=1)), tuple(map(float, means))
    )


def interval(draws: Floats, confidence: float = CONFIDENCE) -> Floats:
    """Percentile interval over the first axis: [2] or [2, k]."""
    tail = 100 * (1 - confidence) / 2
    return np.asarray(np.percentile(draws, [tail, 100 - tail], axis=0))


def _checked(values: ArrayLike, groups: Sequence[Hashable]) -> tuple[Floats, NDArray[np.intp]]:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or not len(table) or len(table) != len(groups):
        raise ValueError(f"values {table.shape} do not fit {len(groups)} groups")
    if not np.isfinite(table).all():
        raise ValueError("a value is not a finite number")
    return table, group_index(groups)


def _group_sums(table: Floats, index: NDArray[np.intp]) -> tuple[Floats, Floats]:
    counts = np.bincount(index).astype(np.float64)
    sums = np.zeros((len(counts), table.shape[1]))
    np.add.at(sums, index, table)
    return sums, counts


def group_draws(groups: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn in each resample, block by block: [block, groups]."""
    generator = np.random.default_rng([seed, 0])
    few = max(1, CACHE // groups)  # counting a whole block at once would miss the cache
    for size in _blocks(resamples, groups):
        times = np.empty((size, groups))
        for start in range(0, size, few):
            rows = min(few, size - start)
            drawn = generator.integers(groups, size=(rows, groups))
            drawn += np.arange(rows)[:, None] * groups
            flat = np.bincount(drawn.ravel(), minlength=rows * groups)
            times[start : start + rows] = flat.reshape(rows, groups)
        yield times


def _blocks(resamples: int, groups: int) -> list[int]:
    size = max(1, min(resamples, BLOCK_BYTES // (8 * groups)))
    return [min(size, resamples - start) for start in range(0, resamples, size)]
