"""The order in which thresholds are tried: from "pass everything on" towards "trust more".

It is fixed on the fit split, so that the tests on the calibrate split may go along it at full level
until the first that fails (Angelopoulos et al. 2021, "Learn then test", fixed sequence testing).
"""

import math

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.sample import COSTS, Cost, Sample, Stages
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError

LEVELS = 100  # shares trusted that two stages try: 1 %, 2 %, ...; noise decides between finer ones
LEVELS_EACH = 25  # of each stage where there are more than two


def levels(scores: Floats, number: int) -> Floats:
    """Thresholds that trust 1/number, 2/number ... of the answers that did not fail, falling.

    An answer at a threshold is trusted. Equal ones stand once.
    """
    finite = np.sort(scores[np.isfinite(scores)])[::-1]
    at = np.ceil(np.arange(1, number + 1) / number * len(finite) - 1e-9).astype(np.intp) - 1
    return np.unique(finite[at])[::-1]


def path(fit: Sample, kind: Cost | None = None) -> Floats:
    """Thresholds [steps, stages - 1], each step trusting more than the one before.

    +inf passes all answers of a stage on, so it need not be asked; that of all stages is not among
    them. With more than two stages each step lowers the threshold for which the drop in quality per
    cost saved is least on `fit`, and those that cost more there than one before (a stage more is
    asked) are left out. The cost is `kind`, or the first that the log knows. Raises `CascadeError`
    where it knows none, or not this one.
    """
    stages = fit.scores.shape[1]
    grid = [
        np.concatenate(
            [[math.inf], levels(fit.scores[:, j], LEVELS if stages == 1 else LEVELS_EACH)]
        )
        for j in range(stages)
    ]
    at = [0] * stages
    if stages > 1:
        costs = fit.cost(kind or (*fit.known_costs(), COSTS[0])[0])
        paid = np.cumsum(costs, axis=1)  # by the stage that answers
    found = []

    def now(position: list[int]) -> tuple[float, float]:
        chosen = answered(fit.scores, np.array([grid[j][position[j]] for j in range(stages)]))
        rows = np.arange(len(chosen))
        return float(fit.loss[rows, chosen].mean()), float(paid[rows, chosen].mean())

    drop, spent = now(at) if stages > 1 else (0.0, 0.0)
    while moves := [j for j in range(stages) if at[j] + 1 < len(grid[j])]:
        tried = []
        for j in moves if len(moves) > 1 else []:
            risk, price = now([k + (i == j) for i, k in enumerate(at)])
            saved = spent - price
            tried.append(((risk - drop) / saved if saved > 0 else math.inf, j))
        best = min(tried)[1] if tried else moves[0]
        at[best] += 1
        found.append([grid[j][at[j]] for j in range(stages)])
        if len(moves) > 1:
            drop, spent = now(at)
    steps = np.array(found)
    if stages == 1:
        return steps
    means = spending(fit.scores, costs, steps).mean(axis=0)
    return np.asarray(steps[means <= np.minimum.accumulate(means) * (1 + 1e-12)])


def spending(
    scores: Floats, costs: Floats, steps: Floats, asked: NDArray[np.bool_] | None = None
) -> Floats:
    """What each row costs at each of `steps` [k, stages - 1]: [n, k].

    `costs` [n, stages] are those of asking. A stage costs where a row reaches it and it is among
    the `asked` [k, stages - 1]: those whose threshold is below +inf.
    """
    asked = steps < math.inf if asked is None else asked
    on = np.ones((len(scores), len(steps)), dtype=bool)
    total = np.zeros(on.shape)
    for stage in range(scores.shape[1]):
        total += np.where(on & asked[:, stage], costs[:, stage, None], 0.0)
        on &= scores[:, stage, None] < steps[:, stage]
    return np.asarray(total + np.where(on, costs[:, -1, None], 0.0))


def answered(scores: Floats, values: Floats) -> Stages:
    """The stage that answers each row where a score at a threshold is trusted: [n]."""
    passed = np.logical_and.accumulate(scores < values, axis=1)
    return np.asarray(passed.sum(axis=1), dtype=np.intp)


def along(scores: Floats, steps: Floats) -> Stages:
    """The stage that answers each row at each of `steps` [k, stages - 1]: [n, k]."""
    on = np.ones((len(scores), len(steps)), dtype=bool)
    chosen = np.zeros(on.shape, dtype=np.intp)
    for stage in range(scores.shape[1]):
        on &= scores[:, stage, None] < steps[:, stage]
        chosen += on
    return chosen


def check_scores(sample: Sample, split: str) -> None:
    """Raise `CascadeError` for a score that cannot tell one answer from another."""
    for stage, model in enumerate(sample.log.models[:-1]):
        finite = _finite(sample, stage)
        if not len(finite):
            raise CascadeError(
                f"all answers of stage {stage} ({model}) in the {split} split failed; leave the "
                "stage out or log it again."
            )
        if constant(sample, stage):
            raise CascadeError(
                f"the score of stage {stage} ({model}) is {finite[0]:g} for all of the "
                f"{len(finite)} answers in the {split} split, so it tells none from another; "
                "choose another score."
            )


def constant(sample: Sample, stage: int) -> bool:
    """Whether the answers of `stage` that did not fail all have the same score."""
    finite = _finite(sample, stage)
    return len(finite) > 0 and bool((finite == finite[0]).all())


def _finite(sample: Sample, stage: int) -> Floats:
    values = sample.scores[:, stage]
    return values[np.isfinite(values)]
