"""Hits, micro precision, recall and F1, and bootstrap intervals over meetings."""

from collections.abc import Sequence

import numpy as np
from data import Span
from numpy.typing import NDArray

COUNTS = ("predicted", "right", "gold", "found")


def overlap(a: Span, b: Span) -> int:
    return max(0, min(a[2], b[2]) - max(a[1], b[1])) if a[0] == b[0] else 0


def hits(predicted: Span, gold: Span) -> bool:
    """At least half of the gold sentence's characters are in the predicted one, in one turn."""
    return 2 * overlap(predicted, gold) >= gold[2] - gold[1]


def sentence_counts(predicted: Sequence[Span], gold: Sequence[Span]) -> list[int]:
    right = sum(any(hits(p, g) for g in gold) for p in predicted)
    found = sum(any(hits(p, g) for p in predicted) for g in gold)
    return [len(predicted), right, len(gold), found]


def turn_counts(predicted: Sequence[Span], gold: Sequence[Span]) -> list[int]:
    p, g = {s[0] for s in predicted}, {s[0] for s in gold}
    return [len(p), len(p & g), len(g), len(p & g)]


def prf(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts [..., 4] to (precision, recall, F1) [..., 3]."""
    predicted, right, gold, found = np.moveaxis(counts.astype(float), -1, 0)
    precision = right / np.maximum(predicted, 1)
    recall = found / np.maximum(gold, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return np.stack([precision, recall, f1], axis=-1)


def resamples(clusters: int, n: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """How often each of `clusters` is drawn in each of `n` bootstrap samples. [n, clusters]."""
    draws = np.random.default_rng(seed).integers(clusters, size=(n, clusters))
    return np.stack([np.bincount(draw, minlength=clusters) for draw in draws]).astype(float)


def interval(values: NDArray[np.float64]) -> list[float]:
    """95 % percentile interval over the first axis."""
    return np.percentile(values, [2.5, 97.5], axis=0).T.tolist()
