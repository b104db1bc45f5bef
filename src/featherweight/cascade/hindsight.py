"""Thresholds that never change, to compare an online learner with: fixed, and best in hindsight.

The best in hindsight know the whole stream and the quality of all answers, while a learner knows
what the last stage said when it was asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from featherweight.cascade.replay import Stream
from featherweight.cascade.types import Floats

POINTS = 2_500  # of a grid of thresholds of several stages


@dataclass(frozen=True)
class Fixed:
    """Thresholds that never change: -inf trusts every answer, +inf none.

    `quality`, `agreement`, `cost` and `value` are of each row of the stream, [rows].
    """

    name: str
    thresholds: tuple[float, ...]
    quality: Floats
    agreement: Floats
    cost: Floats
    value: Floats


def fixed(
    found: Stream, price: float, name: str, thresholds: Sequence[float], scores: Floats
) -> Fixed:
    """What `thresholds` do: a score at its threshold is trusted, failed answers never."""
    on = np.logical_and.accumulate((scores < thresholds) | np.isneginf(scores), axis=1)
    chosen = on.sum(axis=1)
    rows = np.arange(len(chosen))
    cost = np.cumsum(found.cost, axis=1)[rows, chosen]
    quality = found.quality[rows, chosen]
    return Fixed(
        name,
        tuple(float(value) for value in thresholds),
        quality,
        found.agreement[rows, chosen],
        cost,
        found.value(quality, cost, price),
    )


def always(found: Stream, price: float, stage: int) -> Fixed:
    """One stage answers everything, no other is asked."""
    quality, cost = found.quality[:, stage], found.cost[:, stage]
    value = found.value(quality, cost, price)
    name = f"always {found.log.models[stage]}"
    return Fixed(name, (), quality, found.agreement[:, stage], cost, value)


def best_fixed(
    found: Stream,
    price: float,
    scores: Mapping[str, Floats] | None = None,
    rows: Sequence[int] | None = None,
    by: Literal["quality", "agreement"] = "quality",
) -> Fixed:
    """The thresholds whose value is highest in hindsight on `rows` (all), over the scores given.

    All thresholds of one stage are tried, of more stages a grid of shares. Each of `scores` is
    [rows, stages - 1]; the stream's own if none are given. With `by` agreement what counts is what
    the learner can see too. Of equal ones the first, which asks least.
    """
    part = np.arange(len(found.words)) if rows is None else np.array(rows)
    worth = found.quality if by == "quality" else found.agreement
    paid = np.cumsum(found.cost, axis=1)
    table = found.value(worth, paid, price)[part]
    best: tuple[float, str, tuple[float, ...]] | None = None
    for name, own in (scores or {"score": found.scores}).items():
        grid = [_thresholds(own[part, j], own.shape[1]) for j in range(own.shape[1])]
        for total, thresholds in _totals(own[part], table, grid):
            if best is None or total > best[0]:
                best = total, name, thresholds
    assert best is not None
    _, name, thresholds = best
    own = (scores or {"score": found.scores})[name]
    return fixed(found, price, name, thresholds, own)


def from_first(found: Stream, price: float, order: Sequence[int], count: int = 100) -> Fixed:
    """The thresholds that were best on the first `count` rows of `order`, by agreement.

    Of these rows all stages are asked, as in a warm-up, and the last one answers.
    """
    first = np.array(order[:count])
    chosen = best_fixed(found, price, rows=first.tolist(), by="agreement")
    for mine, theirs in (
        (chosen.quality, found.quality[:, -1]),
        (chosen.agreement, found.agreement[:, -1]),
        (chosen.cost, found.cost.sum(axis=1)),
    ):
        mine[first] = theirs[first]
    value = found.value(chosen.quality, chosen.cost, price)
    return replace(chosen, name=f"first {count}", value=value)


def _thresholds(scores: Floats, stages: int) -> Floats:
    """-inf, the scores that there are or a grid of them, +inf."""
    there = np.unique(scores[np.isfinite(scores)])
    most = int(POINTS ** (1 / stages)) - 2
    if stages > 1 and len(there) > most:
        there = there[np.linspace(0, len(there) - 1, most).round().astype(int)]
    return np.concatenate([[-np.inf], there, [np.inf]])


def _totals(
    scores: Floats, table: Floats, grid: Sequence[Floats]
) -> list[tuple[float, tuple[float, ...]]]:
    """The value of each combination of thresholds; `table` [n, stages] is a row's, by who answers.

    For two stages by running sums: rows sorted by score, those below the threshold go on.
    """
    n = np.arange(len(scores))
    if len(grid) == 1:
        order = np.argsort(scores[:, 0], kind="stable")
        gain = np.concatenate([[0.0], np.cumsum((table[:, 1] - table[:, 0])[order])])
        kept = scores[order, 0]
        below = np.maximum(np.searchsorted(kept, grid[0]), np.isneginf(kept).sum())
        totals = table[:, 0].sum() + gain[below]
        return [(float(t), (float(v),)) for t, v in zip(totals, grid[0], strict=True)]
    found = []
    for values in product(*grid):
        on = np.logical_and.accumulate((scores < values) | np.isneginf(scores), axis=1)
        found.append((float(table[n, on.sum(axis=1)].sum()), tuple(map(float, values))))
    return found
