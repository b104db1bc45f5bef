"""How likely is each sentence to be evidence: two small logistic models, one after the other.

The second sees the first one's opinion of the neighbours. `trees` judges support. All weights
are plain numbers in `evidence.json`, fitted by `studies/evidence/fit.py`.
"""

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from .features import Array, Columns, SentenceIndex


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


def rank(index: SentenceIndex, point: str) -> tuple[Columns, Array]:
    """First-stage columns, and [n sentences]: the chance to be central evidence for the point."""
    if not index.size:
        return {}, np.zeros(0)
    columns = index.columns(point)
    first: Array = logistic(columns, coefficients()["first"])
    second: Array = logistic(columns | index.context(first), coefficients()["second"])
    return columns, second


def trees(columns: Mapping[str, float], forest: Mapping[str, Any]) -> float:
    """Boosted trees on one row: a chance from 0 to 1.

    A tree is a list of nodes, the root first: a number is a leaf; [column, cut, left, right] goes
    left where the column of that place in `names` is <= cut.
    """
    row = [columns[name] for name in forest["names"]]
    total = float(forest["bias"])
    for tree in forest["trees"]:
        node = tree[0]
        while isinstance(node, list):
            column, cut, left, right = node
            node = tree[left if row[column] <= cut else right]
        total += node
    return 1 / (1 + math.exp(-total))
