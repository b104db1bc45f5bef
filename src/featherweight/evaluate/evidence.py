"""Is the evidence that is shown the evidence that people marked? Precision, recall and F1.

Counts are added up over all points before dividing (micro average), since a point has a handful of
evidence sentences at most; intervals draw whole meetings and divide what was drawn.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.evaluate.statistics import Estimate, Floats, bootstrap_means, interval

Span = tuple[int, int, int]
"""Turn number, first character in the turn, end."""


def overlap(a: Span, b: Span) -> int:
    """Characters that two spans share."""
    return max(0, min(a[2], b[2]) - max(a[1], b[1])) if a[0] == b[0] else 0


def hits(predicted: Span, gold: Span) -> bool:
    """At least half of the gold sentence's characters are in the predicted one, in one turn."""
    return 2 * overlap(predicted, gold) >= gold[2] - gold[1]


def sentence_counts(predicted: Sequence[Span], gold: Sequence[Span]) -> list[int]:
    """[predicted, of them right, gold, of them found], by sentence."""
    right = sum(any(hits(p, g) for g in gold) for p in predicted)
    found = sum(any(hits(p, g) for p in predicted) for g in gold)
    return [len(predicted), right, len(gold), found]


def turn_counts(predicted: Sequence[Span], gold: Sequence[Span]) -> list[int]:
    """[predicted, of them right, gold, of them found], by turn."""
    p, g = {s[0] for s in predicted}, {s[0] for s in gold}
    return [len(p), len(p & g), len(g), len(p & g)]


def prf(counts: Floats) -> Floats:
    """Counts [..., 4] to (precision, recall, F1) [..., 3]; nothing predicted is precision 0."""
    predicted, right, gold, found = np.moveaxis(counts.astype(float), -1, 0)
    precision = right / np.maximum(predicted, 1e-12)
    recall = found / np.maximum(gold, 1e-12)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return np.stack([precision, recall, f1], axis=-1)


@dataclass(frozen=True, slots=True)
class EvidenceScore:
    """Precision, recall and F1 between 0 and 1, each with its interval."""

    precision: Estimate
    recall: Estimate
    f1: Estimate


def evidence_score(
    predicted: Sequence[Sequence[Span]],
    gold: Sequence[Sequence[Span]],
    groups: Sequence[Hashable],
    seed: int = 0,
) -> EvidenceScore:
    """Score the evidence of n points, by sentence; `groups` are their meetings.

    Raises `ValueError` where no point has gold evidence, or the lists differ in length.
    """
    counts = np.array(
        [sentence_counts(p, g) for p, g in zip(predicted, gold, strict=True)], dtype=np.float64
    )
    if not len(counts) or not counts[:, 2].any():
        raise ValueError("no point has gold evidence to be compared with")
    means = prf(counts.mean(axis=0))
    bounds = interval(prf(bootstrap_means(counts, groups, seed=seed))).T
    scores = [
        Estimate(float(mean), (float(low), float(high)))
        for mean, (low, high) in zip(means, bounds, strict=True)
    ]
    return EvidenceScore(*scores)
