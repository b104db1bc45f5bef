"""Does confidence mean what it says? The expected calibration error (ECE).

An answer is right as in `curve.right`. ECE needs a confidence in [0, 1]. For the mean
log-probability that is its exponential, the geometric mean of the tokens' probabilities; for any
other score `binned`, made on the fit split.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherweight.cascade.curve import right
from featherweight.cascade.draws import RESAMPLES, Figure, Part, drawn, figure
from featherweight.cascade.sample import Sample
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError

BINS = 15


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
    one: Calibrated = drawn(sample, [ece_of(sample, confidence, bins)], resamples, seed)[0]
    return one


def ece_of(sample: Sample, confidence: ArrayLike, bins: int = BINS) -> Part:
    """`ece` as a part of `drawn`."""
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

    def make(point: Floats, draws: Floats, rows: str) -> Calibrated:
        value = float(point[0])
        found = figure(value, draws, rows)
        low, high = found.ci95
        mirrored = max(0.0, min(value, 2 * value - high)), max(value, 2 * value - low)
        return Calibrated(
            replace(found, ci95=mirrored),
            number,
            np.bincount(at, weights=values) / number,
            np.bincount(at, weights=truth) / number,
        )

    return error, make
