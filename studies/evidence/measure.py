"""Bootstrap draws of whole meetings, for figures that are ratios of several counts."""

import numpy as np
from numpy.typing import NDArray


def resamples(clusters: int, n: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """How often each of `clusters` is drawn in each of `n` bootstrap samples. [n, clusters]."""
    draws = np.random.default_rng(seed).integers(clusters, size=(n, clusters))
    return np.stack([np.bincount(draw, minlength=clusters) for draw in draws]).astype(float)


def interval(values: NDArray[np.float64]) -> list[float]:
    """95 % percentile interval over the first axis."""
    return np.percentile(values, [2.5, 97.5], axis=0).T.tolist()
