"""How well scores tell when to defer: their curves, areas and calibration, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.cascade.curve import Curve, curve_of
from featherweight.cascade.curve_cost import (
    Axis,
    PathCurve,
    cost_at_quality,
    path_curve,
    quality_at_cost,
)
from featherweight.cascade.draws import RESAMPLES, Figure, difference, drawn
from featherweight.cascade.make import chosen, is_learned, part_of, scored
from featherweight.cascade.path import check_scores, constant, path
from featherweight.cascade.reliability import binned, ece_of
from featherweight.cascade.sample import Sample
from featherweight.cascade.scores import Score
from featherweight.cascade.types import Floats, Log, Split
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import Estimate


@dataclass(frozen=True)
class Judged:
    """Scores by name, on the same `n` rows of `groups` groups.

    `figures` are areas, s_d, AUROC, ECE and what was asked for, by score; `against` are the
    differences of each score's area from the first one's.
    """

    curves: dict[str, Curve | PathCurve]
    figures: dict[str, dict[str, Figure]]
    against: dict[str, Estimate]
    n: int
    groups: int
    metric: str
    models: tuple[str, ...]
    axis: Axis

    def to_json(self) -> dict[str, Any]:
        """Plain data; a bound that is infinite (a target not reached) or not defined is null."""
        return {
            "n": self.n,
            "groups": self.groups,
            "metric": self.metric,
            "models": list(self.models),
            "scores": {
                name: {
                    key: {"value": _finite(one.value), "ci95": list(map(_finite, one.ci95))}
                    for key, one in figures.items()
                }
                for name, figures in self.figures.items()
            },
            "against_first": {
                name: {"diff": one.mean, "ci95": list(map(_finite, one.ci95))}
                for name, one in self.against.items()
            },
        }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def judged(
    log: Log,
    names: Sequence[str],
    part: Split = "test",
    axis: Axis = "deferral",
    at: float | None = None,
    reaching: float | None = None,
    seed: int = 0,
) -> Judged:
    """Judge the scores `names` (see `make.chosen`) on the rows of `part`.

    Learned scores, and the bins of confidences, come from the fit split. `at` asks for the quality
    at that mean cost, `reaching` for the cost at which that quality is reached. There is no AUROC
    where the small model's answers are all as good as the large one's, or all worse; no ECE of
    confidences binned on a fit split whose scores are all alike, and none on the fit split, which
    would be judged on the rows that they were made of. Raises `CascadeError` for a score named
    twice, for learned scores on the fit split, and where curves cannot be made, over `axis` too.
    """
    if len(set(names)) < len(names):
        raise CascadeError("a score is named twice; name each once.")
    learned = [name for name in names if is_learned(name)]
    if part == "fit" and learned:
        raise CascadeError(
            f"{learned[0]} is learned on the split 'fit' and looks too good there; judge it on "
            "another with --part."
        )
    rows = log.part(part)
    if not rows.rows:
        raise CascadeError(
            f"the log has no rows in the split {part!r}; choose another with --part."
        )
    curves: dict[str, Curve | PathCurve] = {}
    figures: dict[str, dict[str, Figure]] = {}
    for name in names:
        scores = chosen(log, [name])
        sample = scored(rows, scores)
        check_scores(sample, part)
        if len(log.models) > 2:
            if axis == "deferral":
                raise CascadeError(
                    f"{len(log.models)} stages have no one share that is passed on; draw quality "
                    "over a cost with --axis."
                )
            fit = scored(part_of(log, "fit"), scores)
            check_scores(fit, "fit")
            steps = path(fit, axis)
            one: Curve | PathCurve = path_curve(sample, steps, axis, seed=seed)
            tried: Floats | None = steps
            figures[name] = {"audc": one.audc, "audc_random": one.audc_random}
        else:
            if axis != "deferral":
                sample.cost(axis)  # says what is not known
            fit_rows = None if part == "fit" else log.part("fit")
            one, figures[name] = _judge(sample, fit_rows, scores[0], seed)
            tried = None
        if at is not None:
            figures[name]["quality_at"] = quality_at_cost(sample, axis, at, seed=seed, steps=tried)
        if reaching is not None:
            cost_at = cost_at_quality(sample, axis, reaching, seed=seed, steps=tried)
            figures[name]["cost_at"] = cost_at
        curves[name] = one
    first = names[0]
    key = "s_d" if "s_d" in figures[first] else "audc"
    against = {name: difference(figures[name][key], figures[first][key]) for name in names[1:]}
    groups = len(set(rows.groups()))
    of = (len(rows.rows), groups, log.metric.name, log.models, axis)
    return Judged(curves, figures, against, *of)


def _judge(
    sample: Sample, fit: Log | None, score: Any, seed: int
) -> tuple[Curve, dict[str, Figure]]:
    parts = [curve_of(sample, sample.known_costs())]
    confidence = _confidence(sample, fit, score)
    if confidence is not None:
        parts.append(ece_of(sample, confidence))
    one, *others = drawn(sample, parts, RESAMPLES, seed)
    found = {
        "small": one.small,
        "large": one.large,
        "audc": one.audc,
        "audc_random": one.audc_random,
        "audc_oracle": one.audc_oracle,
        "s_d": one.s_d,
    }
    if np.isfinite(one.auroc.value):
        found["auroc"] = one.auroc
    for calibrated in others:
        found["ece"] = calibrated.error
    return one, found


def _confidence(sample: Sample, fit: Log | None, score: Any) -> Floats | None:
    """In [0, 1]: of the mean log-probability its exponential, else by bins of the fit split."""
    if isinstance(score, Score) and score.name == "mean":
        return np.exp(sample.scores[:, 0])
    if fit is None or not fit.rows:
        return None
    known = scored(fit, [score])
    if constant(known, 0):
        return None
    check_scores(known, "fit")
    return binned(known, sample)
