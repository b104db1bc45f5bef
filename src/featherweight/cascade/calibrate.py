"""Thresholds that keep a promise of quality: "at most epsilon worse than the last stage".

Learn then test (Angelopoulos et al. 2021): which thresholds are tried, and in which order, is fixed
on the fit split; each is then tested on the calibrate split, and the first that is not proven ends
the walk. The unit is the mean of a group, since answers about one meeting are not independent.
"""

import math

import numpy as np

from featherweight.cascade.calibration import Calibration, calibrated, check_source
from featherweight.cascade.guarantee import (
    MOST_GROUPS,
    betting_p,
    bisect,
    groups_needed,
    provable_epsilon,
    proves,
    supported,
    upwards,
)
from featherweight.cascade.path import along, check_scores, path
from featherweight.cascade.sample import Cost, Sample, hashed_order
from featherweight.cascade.types import Floats, Threshold
from featherweight.errors import CascadeError

TOGETHER = 16  # thresholds whose tests are worked out at once


def for_quality(
    fit: Sample,
    calibrate: Sample,
    epsilon: float,
    delta: float,
    seed: int = 0,
    cost: Cost | None = None,
) -> Calibration:
    """Thresholds under which quality drops by at most `epsilon`, with confidence 1 - `delta`.

    `epsilon` is in the metric's units. The drop is the last stage's quality less the cascade's,
    signed, so wins offset losses; its mean over a group's rows is one observation, and the promise
    is about the mean of such means over groups like those in `calibrate`. `cost` orders the
    thresholds where there are more than two stages (the first that the log knows). The thresholds
    returned are the last on the path that were proven. `seed` decides ties and nothing that the
    test sees: the groups are bet on in `hashed_order`.

    The promise holds for one score and one epsilon that were chosen before its calibrate rows were
    looked at; trying several on them and keeping the best breaks it.

    Raises `CascadeError` where nothing can be proven, or only thresholds that trust none of these
    answers, with what could be: never a rule that always defers; and for what `check_source` and
    `check_scores` refuse.
    """
    check_target(fit, calibrate, epsilon, delta)
    steps = path(fit, cost)
    before, losses = group_losses(fit, steps), group_losses(calibrate, steps)
    order = hashed_order(calibrate.groups)
    p = proven(losses[order], before, epsilon / calibrate.span, delta)
    if p[0] > delta:
        raise _infeasible(losses[order], before, p[0], calibrate, epsilon, delta)
    count = int((p <= delta).sum())
    answers = (along(calibrate.scores, steps) < steps.shape[1]).any(axis=0)
    trusting = int(answers.argmax()) if answers.any() else len(steps)
    if count <= trusting:
        raise _idle(losses[order], before, trusting, calibrate, epsilon, delta)
    promise = {
        "kind": "quality",
        "epsilon": epsilon,
        "delta": delta,
        "p": [float(value) for value in p],
        "proven": count,
        "tried": len(steps),
        "unit": "the mean of a group",
        "fit_groups": len(before),
    }
    thresholds = [Threshold(float(value), 0.0, seed) for value in steps[count - 1]]
    return calibrated(calibrate, thresholds, promise, seed)


def proven(losses: Floats, before: Floats, epsilon: float, delta: float) -> Floats:
    """p-values along a path, up to the first above `delta`: [k] of the [G, steps] losses' columns.

    `losses` and `epsilon` are in units of the metric's range, so losses lie in [-1, 1]; `before`
    [g, steps] are those of the fit split.
    """
    m = (1 + epsilon) / 2
    found: list[Floats] = []
    for start in range(0, losses.shape[1], TOGETHER):
        part = slice(start, start + TOGETHER)
        p = betting_p((1 + losses[:, part]) / 2, m, (1 + before[:, part]) / 2)
        failed = np.flatnonzero(p > delta)
        if len(failed):
            found.append(p[: failed[0] + 1])
            break
        found.append(p)
    return np.concatenate(found)


def group_losses(sample: Sample, steps: Floats) -> Floats:
    """Mean loss of each group at each step, in units of the metric's range: [G, steps]."""
    chosen = along(sample.scores, steps)
    lost = np.take_along_axis(sample.loss, chosen, axis=1) / sample.span
    return np.clip(sample.group_means(lost), -1, 1)


def check_target(
    fit: Sample, calibrate: Sample, epsilon: float, delta: float, groups: int | None = None
) -> None:
    """Raise `CascadeError` for what so many `groups` (those there are) cannot promise."""
    metric, span = calibrate.log.metric, calibrate.span
    check_delta(delta)
    if not 0 < epsilon < span:
        raise CascadeError(
            f"an epsilon of {epsilon:g} is no drop in {metric.name}; give one between 0 and "
            f"{span:g}."
        )
    if (fit.log.metric, fit.log.models) != (metric, calibrate.log.models):
        raise CascadeError(
            f"the fit rows measure {_named(fit)} and the calibrate rows {_named(calibrate)}; use "
            "logs of one metric and the same models."
        )
    shared = set(fit.groups) & set(calibrate.groups)
    if shared:
        raise CascadeError(
            f"the group {min(shared)!r} is in the fit and in the calibrate rows; keep them apart."
        )
    for one, split in ((fit, "fit"), (calibrate, "calibrate")):
        check_source(one)
        check_scores(one, split)
    groups, fits = groups or len(calibrate.sizes), len(fit.sizes)
    if not proves(groups, fits, epsilon, delta, span):
        needed = groups_needed(epsilon, delta, span, fits / groups)
        raise CascadeError(
            f"{supported(groups, fits, delta, span, metric.name)}, if no group gains or loses; one "
            f"of {epsilon:g} needs {needed or f'more than {MOST_GROUPS}'} groups"
            f"{_fits(needed, fits / groups)}: log more or raise epsilon."
        )


def check_delta(delta: float) -> None:
    """Raise `CascadeError` for a delta that is not between 0 and 1."""
    if not 0 < delta < 1:
        raise CascadeError(f"a delta of {delta:g} is no risk; give one between 0 and 1, as 0.05.")


def _fits(needed: int | None, share: float) -> str:
    return "" if needed is None else f" (and {int(needed * share)} in the fit split)"


def _named(sample: Sample) -> str:
    metric = sample.log.metric
    return f"{metric.name} ({metric.low:g} to {metric.high:g}) of {', '.join(sample.log.models)}"


def _infeasible(
    losses: Floats, before: Floats, p: float, sample: Sample, epsilon: float, delta: float
) -> CascadeError:
    """Says what the first threshold, the one that trusts least, could have proven."""
    groups, span, name = len(losses), sample.span, sample.log.metric.name
    least = provable_epsilon(groups, len(before), delta, span)
    # the capital grows with epsilon, so p falls
    best = bisect(lambda value: _first_p(losses, before, value / span) <= delta, epsilon, span)
    feasible = "no drop is" if best == span else f"a drop of {upwards(best)} would be"
    drop = float(losses[:, 0].mean()) * span
    if drop >= epsilon:
        more = f"it loses {drop:.3g} on them, so more groups will not do"
    else:
        needed = math.ceil(groups * math.log(delta) / math.log(p)) if p < 1 else None
        more = "far more groups are needed" if needed is None else f"about {needed} are needed"
    return CascadeError(
        f"a drop of at most {epsilon:g} {name} is not proven for even the threshold that trusts "
        f"least: {groups} groups prove {upwards(least)} at best, on these {feasible} proven, and "
        f"{more}; raise epsilon and calibrate on fresh groups, or log more."
    )


def _idle(
    losses: Floats, before: Floats, step: int, sample: Sample, epsilon: float, delta: float
) -> CascadeError:
    """Says what the first threshold that trusts any of these answers, at `step`, could promise."""
    span, name, models = sample.span, sample.log.metric.name, sample.log.models

    def holds(value: float) -> bool:
        p = proven(losses[:, : step + 1], before[:, : step + 1], value / span, delta)
        return int((p <= delta).sum()) > step

    best = bisect(holds, epsilon, span)
    feasible = "no drop is" if best == span else f"a drop of {upwards(best)} is the least that is"
    few = len(models) == 2
    who = f"stage 0 ({models[0]})" if few else f"no stage but the last ({models[-1]})"
    return CascadeError(
        f"under the thresholds proven for a drop of at most {epsilon:g} {name} {who} would answer "
        f"{'none' if few else 'any'} of the {len(sample.scores)} questions in the calibrate split; "
        f"{feasible} proven for some that answer any: raise epsilon and calibrate on fresh groups, "
        "or choose another score."
    )


def _first_p(losses: Floats, before: Floats, epsilon: float) -> float:
    return float(proven(losses[:, :1], before[:, :1], epsilon, 1.0)[0])
