"""What calibrating gives: thresholds, what is promised, and what they did on the rows used."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from featherweight.cascade.sample import Sample, answering, keys
from featherweight.cascade.types import Threshold
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import Estimate, estimates


@dataclass(frozen=True, slots=True)
class Realised:
    """What thresholds did on a sample, means over rows with cluster-bootstrap intervals.

    `deferral` has the share of all questions that each stage but the last passed on. `drop` is the
    last stage's quality less the cascade's, over rows. `quality_first` is that of the first stage
    that answers any. `deferral_of_groups` and `drop_of_groups` are means of group means, which is
    what promises of a budget and of quality are about.
    """

    deferral: tuple[Estimate, ...]
    deferral_of_groups: tuple[Estimate, ...]
    quality: Estimate
    quality_first: Estimate
    quality_last: Estimate
    drop: Estimate
    drop_of_groups: Estimate


@dataclass(frozen=True, slots=True)
class Calibration:
    """One threshold for every stage but the last, and what it stands for.

    `promise` is plain data: `kind` ("quality", "budget", "cost"), its figures, `n` rows and
    `groups` that it rests on, `seed`, the metric's name, the log's hash; `left_out` names stages
    of the log that are not in it.
    """

    thresholds: tuple[Threshold, ...]
    promise: dict[str, Any]
    realised: Realised

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "thresholds": [asdict(threshold) for threshold in self.thresholds],
            "promise": self.promise,
            "realised": asdict(self.realised),
        }


def calibrated(
    sample: Sample, thresholds: Sequence[Threshold], promise: dict[str, Any], seed: int
) -> Calibration:
    """A `Calibration` on `sample`, its promise completed."""
    promise = promise | {
        "metric": sample.log.metric.name,
        "n": len(sample.scores),
        "groups": len(sample.sizes),
        "seed": seed,
        "log": sample.log.sha256,
    }
    return Calibration(tuple(thresholds), promise, realised(sample, thresholds))


def realised(sample: Sample, thresholds: Sequence[Threshold]) -> Realised:
    """What `thresholds` do on `sample`."""
    chosen, passed = answering(sample.scores, thresholds, keys(sample.log))
    quality = sample.quality[np.arange(len(chosen)), chosen]
    used = [stage for stage, one in enumerate(thresholds) if one.value < math.inf]
    first, last = sample.quality[:, used[0] if used else 0], sample.quality[:, -1]
    drop = last - quality
    *deferral, of_all, of_first, of_last, of_drop = estimates(
        np.column_stack([passed, quality, first, last, drop]), sample.groups
    )
    *shares, dropped = [*deferral, of_drop]
    if len(sample.sizes) < len(quality):  # else groups are rows
        means = sample.group_means(np.column_stack([passed, drop]))
        *shares, dropped = estimates(means, range(len(means)))
    return Realised(tuple(deferral), tuple(shares), of_all, of_first, of_last, of_drop, dropped)


def without_idle(calibration: Calibration, models: Sequence[str]) -> Calibration:
    """`calibration` without the stages that pass everything on; `models` are those of its log."""
    idle = [number for number, one in enumerate(calibration.thresholds) if one.value == math.inf]
    if not idle:
        return calibration

    def used(of: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(one for number, one in enumerate(of) if number not in idle)

    promise = calibration.promise | {"left_out": [models[number] for number in idle]}
    if promise["kind"] == "budget":
        promise["budget"] = list(used(promise["budget"]))
    done = calibration.realised
    done = replace(
        done,
        deferral=used(done.deferral),
        deferral_of_groups=used(done.deferral_of_groups),
    )
    return Calibration(used(calibration.thresholds), promise, done)


def check_source(sample: Sample) -> None:
    """Raise `CascadeError` for rows that no promise may rest on."""
    if sample.log.extra.get("online", False) is not False:
        raise CascadeError(
            "the log comes from online learning, whose stages changed while it was written, so no "
            "promise can rest on it; log the finished cascade with `featherweight cascade log`."
        )
