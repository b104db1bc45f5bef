"""A log with its scores as arrays, checked once, and who answers under given thresholds."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherweight.cascade.types import Floats, Log, Threshold, uniform
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import group_index

Cost = Literal["seconds", "flops", "usd"]
COSTS: tuple[Cost, ...] = ("seconds", "flops", "usd")
Stages = NDArray[np.intp]


@dataclass(frozen=True)
class Sample:
    """Rows of a log with a score for every answer but the last stage's.

    `scores` is [n, stages - 1], -inf where the answer failed: it is always passed on. `quality` is
    [n, stages], the metric's low where there is an error: no answer is worth the least. Made by
    `sample`.
    """

    log: Log
    scores: Floats
    quality: Floats

    @cached_property
    def groups(self) -> tuple[str, ...]:
        return self.log.groups()

    @cached_property
    def index(self) -> Stages:
        """The group's number of every row, 0..G-1: [n]."""
        return group_index(self.groups)

    @cached_property
    def sizes(self) -> Floats:
        """Rows of every group: [G]."""
        return np.bincount(self.index).astype(np.float64)

    @property
    def span(self) -> float:
        return self.log.metric.high - self.log.metric.low

    @cached_property
    def loss(self) -> Floats:
        """What is lost where each stage answers instead of the last, signed: [n, stages]."""
        return np.asarray(self.quality[:, -1:] - self.quality)

    def cost(self, kind: Cost) -> Floats:
        """What each stage's answer took: [n, stages].

        Raises `CascadeError` where that is not known, or where the last stage's are all 0: nobody
        measured them.
        """
        table = [[getattr(answer, kind) for answer in row.stages] for row in self.log.rows]
        for row, costs in zip(self.log.rows, table, strict=True):
            if None in costs:
                stage = costs.index(None)
                raise CascadeError(
                    f"row {row.id!r}: the {kind} of stage {stage} ({self.log.models[stage]}) are "
                    "not known; log them or count another cost."
                )
        found = np.array(table, dtype=np.float64).reshape(self.quality.shape)
        if not found[:, -1].any():
            raise CascadeError(
                f"all {kind} of the last stage ({self.log.models[-1]}) are 0 in the log; log them "
                "or count another cost."
            )
        return found

    def known_costs(self) -> list[Cost]:
        """The costs that every answer has and that the last stage's are not all 0 of."""
        answers = [answer for row in self.log.rows for answer in row.stages]
        return [
            kind
            for kind in COSTS
            if all(getattr(answer, kind) is not None for answer in answers)
            and any(getattr(row.stages[-1], kind) for row in self.log.rows)
        ]

    def group_means(self, values: Floats) -> Floats:
        """The mean of every group: values [n, k] -> [G, k]."""
        sums = np.zeros((len(self.sizes), values.shape[1]))
        np.add.at(sums, self.index, values)
        return np.asarray(sums / self.sizes[:, None])


def sample(log: Log, scores: ArrayLike) -> Sample:
    """The rows of `log` with their `scores` [rows, stages - 1] (higher: more to be trusted).

    What stands for an answer that failed is not looked at. Raises `CascadeError`, naming the row,
    for another score that is NaN and for an error of the last stage: nothing says what was lost
    there.
    """
    table = np.array(scores, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    wanted = (len(log.rows), len(log.models) - 1)
    if table.shape != wanted:
        raise ValueError(f"scores of shape {table.shape} for a log of {wanted}")
    if not log.rows:
        raise CascadeError("the log has no rows in this split; give it some.")
    quality = log.quality()
    failed = np.array([[answer.failed for answer in row.stages[:-1]] for row in log.rows])
    missing = np.isnan(quality)
    if missing[:, -1].any():
        row = log.rows[int(missing[:, -1].argmax())]
        raise CascadeError(
            f"row {row.id!r}: the last stage, {log.models[-1]}, failed ({row.stages[-1].error}), "
            "so nothing says what was lost there; ask it again or take the row out."
        )
    table[failed] = -math.inf
    bad = np.isnan(table) | (np.isinf(table) & ~failed)
    if bad.any():
        number, stage = np.argwhere(bad)[0]
        raise CascadeError(
            f"row {log.rows[number].id!r}: the score of stage {stage} is {table[number, stage]}; a "
            "score is a finite number, see what made it."
        )
    return Sample(log, table, np.where(missing, log.metric.low, quality))


def answering(
    scores: Floats, thresholds: Sequence[Threshold], keys: Sequence[str]
) -> tuple[Stages, Floats]:
    """The stage that answers each row [n], and which stages passed it on [n, stages - 1] (0, 1)."""
    on = np.stack(
        [defers(scores[:, stage], threshold, keys) for stage, threshold in enumerate(thresholds)],
        axis=1,
    )
    on = np.logical_and.accumulate(on, axis=1)
    return on.sum(axis=1), on.astype(np.float64)


def defers(scores: Floats, threshold: Threshold, keys: Sequence[str]) -> NDArray[np.bool_]:
    """`Threshold.defers` of every row: [n]."""
    result = scores < threshold.value
    for row in np.flatnonzero(scores == threshold.value):
        result[row] = uniform(keys[int(row)], threshold.seed) < threshold.tie
    return np.asarray(result)


def keys(log: Log) -> tuple[str, ...]:
    """What decides ties: the prompt's hash, as in a running cascade; the id where there is none."""
    return tuple(row.prompt_sha256 or row.id for row in log.rows)


def hashed_order(groups: Sequence[str]) -> Stages:
    """The groups of `groups` (one a row), as `Sample.index` numbers them, in a fixed order: [G].

    By a hash of their names alone. What a test sees must not depend on what they lost, and an order
    that an option could change would let people try orders until one proves what they want.
    """
    names = sorted(set(groups))
    return np.array(
        sorted(range(len(names)), key=lambda g: hashlib.sha256(names[g].encode()).digest()),
        dtype=np.intp,
    )
