"""Two small logistic models, one after the other: how likely is each sentence to be evidence?

The second sees the first one's opinion of the neighbours. Weights are plain numbers in
`evidence.json`, fitted by `studies/evidence/fit.py`.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from .features import Array, SentenceIndex


@cache
def coefficients() -> dict[str, Any]:
    """`first`, `second`, `support`: feature name -> weight, "" -> bias; and two thresholds."""
    text = files(__package__).joinpath("evidence.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def logistic(columns: Mapping[str, Any], weights: Mapping[str, float]) -> Any:
    """1 / (1 + exp(-(bias + columns . weights))), for numbers or for arrays [n]."""
    logit = weights[""] + sum(weights[name] * columns[name] for name in weights if name)
    return 1 / (1 + np.exp(-np.clip(logit, -30, 30)))


def likelihoods(index: SentenceIndex, point: str) -> Array:
    """[n sentences]: the chance that a sentence is central evidence for the point."""
    if not index.size:
        return np.zeros(0)
    columns = index.columns(point)
    first: Array = logistic(columns, coefficients()["first"])
    second: Array = logistic(columns | index.context(first), coefficients()["second"])
    return second
