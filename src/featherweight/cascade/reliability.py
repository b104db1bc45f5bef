"""Does confidence tell right answers from wrong ones (AUROC), and does it mean what it says (ECE)?

Quality is graded, so "right" is: the small model's answer is at least as good as the large one's,
that is, nothing would be gained by asking. For 0/1 metrics a question that both get wrong counts as
right in this sense.

ECE needs a confidence in [0, 1]. For the mean log-probability that is its exponential, the
geometric mean of the tokens' probabilities; for any other score `binned`, made on the fit split.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherweight.cascade.curve import check_two
from featherweight.cascade.draws import (
    RESAMPLES,
    Figure,
    cumulative,
    figure,
    halfway,
    order,
    signature,
    weights,
)
from featherweight.cascade.sample import Sample
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError

BINS = 15


def right(sample: Sample) -> NDArray[np.bool_]:
    """Whether nothing would be gained by asking the large model: [n]."""
    check_two(sample)
    return np.asarray(sample.loss[:, 0] <= 0)


def binned(fit: Sample, sample: Sample, bins: int = BINS) -> Floats:
    """A confidence in [0, 1] for `sample` by bins of equal size on `fit`: [n].

    Histogram binning (Zadrozny and Elkan 2001): the share of right answers of the fit split among
    those with like scores. Failed answers share the lowest bin.
    """
    scores, truth = fit.scores[:, 0], right(fit)
    edges = np.unique(np.quantile(scores[np.isfinite(scores)], np.arange(1, bins) / bins))
    at = np.searchsorted(edges, scores, side="right")
    number = np.bincount(at, minlength=len(edges) + 1)
    share = np.bincount(at, weights=truth, minlength=len(edges) + 1) / np.maximum(number, 1)
    if not number.all():  # an edge at the lowest score leaves nothing below it
        share[number == 0] = truth.mean()
    return np.asarray(share[np.searchsorted(edges, sample.scores[:, 0], side="right")])


def auroc(sample: Sample, resamples: int = RESAMPLES, seed: int = 0) -> Figure:
    """The chance that a right answer scores above a wrong one, equal scores counted half.

    Raises `CascadeError` where all answers are right or all are wrong.
    """
    truth = right(sample)
    if truth.all() or not truth.any():
        kind = "as good as" if truth.all() else "worse than"
        raise CascadeError(
            f"all {len(truth)} answers of the small model are {kind} the large one's, so no score "
            "can tell them apart; judge on more questions."
        )
    by_score = order(sample, sample.scores[:, 0])
    ranked = truth[by_score.rows].astype(np.float64)

    def area(times: Floats) -> Floats:
        mass = by_score.weights(times)
        good = by_score.runs(mass * ranked)
        bad = by_score.runs(mass * (1 - ranked))
        sums = cumulative(bad)
        pairs = good.sum(axis=1) * sums[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(pairs > 0, halfway(good, bad, sums) / pairs, np.nan))

    value = float(area(np.ones((1, len(sample.sizes))))[0])
    draws = np.concatenate([area(times) for times in weights(sample, resamples, seed)])
    return figure(value, draws, signature(sample, resamples, seed))


@dataclass(frozen=True)
class Calibrated:
    """The expected calibration error, and per bin: rows, mean confidence, share of right answers.

    `error` is biased upwards in small samples: also a perfect confidence has some. A bootstrap of
    it is biased once more, so its interval is that of the draws mirrored at the point, not below 0.
    """

    error: Figure
    rows: NDArray[np.intp]
    confidence: Floats
    share: Floats


def ece(
    sample: Sample,
    confidence: ArrayLike,
    bins: int = BINS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Calibrated:
    """Mean distance between confidence [n] and the share of right answers, in bins of equal size.

    Naeini et al. 2015, with bins by rank: those of equal width are empty where confidences crowd.
    Equal confidences share a bin. Raises `CascadeError` for a confidence outside [0, 1].
    """
    values, truth = np.asarray(confidence, dtype=np.float64), right(sample)
    if values.shape != truth.shape:
        raise ValueError(f"confidences of shape {values.shape} for {truth.shape} rows")
    inside = (values >= 0) & (values <= 1)  # false for NaN too
    if not inside.all():
        row = int((~inside).argmax())
        raise CascadeError(
            f"row {sample.log.rows[row].id!r}: {values[row]} is no confidence between 0 and 1; "
            "take exp of a mean log-probability, or bin another score on the fit split."
        )
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    at = np.searchsorted(edges, values, side="left")
    _, at = np.unique(at, return_inverse=True)
    number = np.bincount(at)
    sums = np.zeros((len(sample.sizes), len(number)))
    np.add.at(sums, (sample.index, at), values - truth)

    def error(times: Floats) -> Floats:
        return np.asarray(np.abs(times @ sums).sum(axis=1) / (times @ sample.sizes))

    value = float(error(np.ones((1, len(sample.sizes))))[0])
    draws = np.concatenate([error(times) for times in weights(sample, resamples, seed)])
    found = figure(value, draws, signature(sample, resamples, seed))
    low, high = found.ci95
    return Calibrated(
        replace(found, ci95=(max(0.0, min(value, 2 * value - high)), max(value, 2 * value - low))),
        number,
        np.bincount(at, weights=values) / number,
        np.bincount(at, weights=truth) / number,
    )
