"""Thresholds for a budget: of questions passed on, with a promise; of cost, without one."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.calibration import Calibration, calibrated, check_source
from featherweight.cascade.path import check_scores, path, spending
from featherweight.cascade.sample import Cost, Sample, keys
from featherweight.cascade.types import Floats, Threshold, uniform
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import bootstrap_means, interval


def for_budget(sample: Sample, budget: float | Sequence[float], seed: int = 0) -> Calibration:
    """Thresholds under which a new group's questions are passed on at most as often as `budget`.

    With several stages one budget each: the share of all questions that the stage may pass on,
    none larger than the one before. What is promised is an expectation, over the calibration groups
    and a new one, exchangeable with them, in which every question counts alike. Answers that failed
    count: they are always passed on. The promise's `ties` says what equal scores were put in order
    by; with ids it holds just as well, but a cascade decides on the log's own ties otherwise.

    Raises `CascadeError` where the budget is not from 0 to 1 or too small for so few groups or so
    many failed answers, and for what `check_source` and `check_scores` refuse.
    """
    check_source(sample)
    check_scores(sample, "calibrate")
    stages = sample.scores.shape[1]
    budgets = [float(budget)] * stages if isinstance(budget, int | float) else list(budget)
    _check_budgets(budgets, sample)
    known = all(row.prompt_sha256 for row in sample.log.rows)
    promise = {
        "kind": "budget",
        "budget": budgets,
        "unit": "a question of a new group",
        "ties": "prompt_sha256" if known else "id",
    }
    return calibrated(sample, order_statistics(sample, budgets, seed), promise, seed)


def order_statistics(sample: Sample, budgets: Sequence[float], seed: int) -> list[Threshold]:
    """The highest thresholds that keep `budgets`, one a stage.

    With n groups of one question, deferring below the k-th lowest score defers k / (n + 1). With
    larger groups each counts 1 / (G + 1), divided among its questions, and the new one as if wholly
    passed on (Lee, Barber and Willett 2023, "Distribution-free inference with hierarchical data").
    Equal scores are put in order by a hash of the question's key (`sample.keys`).
    """
    one = 1 / (len(sample.sizes) + 1)
    weights = one / sample.sizes[sample.index]
    names = keys(sample.log)
    thresholds = []
    # Which rows reach a stage depends on thresholds from the same rows. Two masks hold the set that
    # it would be if the new group had been counted among them: at least `least`, at most `most`.
    least = most = np.ones(len(names), dtype=bool)
    for stage, share in enumerate(budgets):
        values = sample.scores[:, stage]
        ties = np.array([uniform(name, seed + stage) for name in names])
        threshold = _below(values, ties, weights * most, share - one)
        if threshold[0] == -math.inf:
            part = weights[most & (values == -math.inf)].sum() + one
            raise CascadeError(
                f"stage {stage} ({sample.log.models[stage]}) failed so often that {part:.1%} of "
                f"the questions must be passed on, which a budget of {share:.1%} forbids; raise it."
            )
        value, tie = _apart(values, ties, threshold)
        thresholds.append(Threshold(float(value), float(tie), seed + stage))
        most = most & _less(values, ties, _below(values, ties, weights * least, share))
        least = least & _less(values, ties, threshold)
    return thresholds


Place = tuple[float, float]  # a score and the hash that puts equal ones in order


def _below(values: Floats, ties: Floats, weights: Floats, limit: float) -> Place:
    """The highest row's place below which rows weigh at most `limit`, or (inf, 0)."""
    order = np.lexsort((ties, values))
    before = np.cumsum(weights[order]) - weights[order]
    if weights.sum() <= limit + 1e-12:
        return math.inf, 0.0
    last = order[np.flatnonzero(before <= limit + 1e-12)[-1]]
    return values[last], ties[last]


def _apart(values: Floats, ties: Floats, place: Place) -> Place:
    """`place`, or one halfway down to the next score: rounding is not to decide about its row.

    The same rows are below it; a new question is passed on less often, if anything. Where equal
    scores lie on both sides of a place it stays where it is.
    """
    below = values[_less(values, ties, place)]
    if not len(below) or not np.isfinite([below.max(), place[0]]).all():
        return place
    middle = below.max() + (place[0] - below.max()) / 2
    return (middle, 0.0) if below.max() < middle < place[0] else place


def _less(values: Floats, ties: Floats, place: Place) -> NDArray[np.bool_]:
    return np.asarray((values < place[0]) | ((values == place[0]) & (ties < place[1])))


def _check_budgets(budgets: Sequence[float], sample: Sample) -> None:
    if len(budgets) != sample.scores.shape[1]:
        raise CascadeError(
            f"{len(budgets)} budgets for {sample.scores.shape[1]} stages that may pass questions "
            "on; give one each."
        )
    for share, before in zip(budgets, [1.0, *budgets], strict=False):
        if not 0 <= share <= 1:
            raise CascadeError(
                f"a budget of {share:g} is no share of questions; give one from 0 to 1."
            )
        if share > before:
            raise CascadeError(
                f"a stage may pass on {share:.1%} of the questions, but the one before it only "
                f"{before:.1%}; no budget is larger than the one before."
            )
    groups = len(sample.sizes)
    least = min(budgets)
    if least < 1 / (groups + 1):
        needed = f"needs {math.ceil(1 / least - 1 - 1e-9)} groups" if least else "defers nothing"
        raise CascadeError(
            f"a budget of {least:.2%} {needed}, and {groups} groups can promise "
            f"{1 / (groups + 1):.2%} at the least; log more groups or raise the budget."
        )


def for_cost(
    fit: Sample, calibrate: Sample, kind: Cost, budget: float, seed: int = 0
) -> Calibration:
    """The thresholds that pass on most while the mean cost a question stays within `budget`.

    They are tried in the order fixed on `fit`; stages at +inf are not asked. The mean comes with
    its cluster-bootstrap interval; nothing is promised about other questions. Raises `CascadeError`
    where all of them cost more.
    """
    for one, split in ((fit, "fit"), (calibrate, "calibrate")):
        check_source(one)
        check_scores(one, split)
    steps = path(fit, kind)
    costs = spending(calibrate.scores, calibrate.cost(kind), steps)
    means = costs.mean(axis=0)
    within = np.flatnonzero(means <= budget)
    if not len(within):
        raise CascadeError(
            f"a mean of {budget:g} {kind} a question cannot be kept: the cheapest thresholds cost "
            f"{means.min():g} (failed answers are always passed on); raise the budget or take a "
            "cheaper stage."
        )
    best = int(within[0])
    low, high = interval(bootstrap_means(costs[:, best], calibrate.groups, seed=seed))
    promise = {
        "kind": "cost",
        "cost": kind,
        "budget": budget,
        "mean": float(means[best]),
        "ci95": [float(low), float(high)],
        "guarantee": None,
    }
    thresholds = [Threshold(float(value), 0.0, seed) for value in steps[best]]
    return calibrated(calibrate, thresholds, promise, seed)
