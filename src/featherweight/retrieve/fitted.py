"""The embedded locator: two small logistic models over lexical columns, one after the other.

The second sees the first one's opinion of the neighbours. All weights are plain numbers in
`fitted.json`, fitted on QMSum's train split by `studies/qmsum/locator/fit.py`: no torch, no
download.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import Array, Columns, WindowIndex, context


class FittedLocator:
    """Scores are log-odds that a window belongs to the answer's place.

    Columns look at neighbours, so texts should come in reading order, about `window` words each,
    a line a turn, `Speaker: text`.
    """

    def __init__(self) -> None:
        raw = _raw()
        self.name = f"fitted:{hashlib.sha256(raw).hexdigest()}"
        self.window, self.stride = (int(n) for n in coefficients()["windows"])

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts)], higher is better."""
        if not texts:
            return np.zeros(0, np.float32)
        fitted = coefficients()
        columns = _index(tuple(texts)).columns(query, fitted["rarity"])
        return staged(columns, fitted["first"], fitted["second"]).astype(np.float32)


@cache
def coefficients() -> dict[str, Any]:
    """`windows`, `rarity` of query terms, `first` and `second`: column -> weight, "" -> bias."""
    found: dict[str, Any] = json.loads(_raw())
    return found


@cache
def _raw() -> bytes:
    return files(__package__).joinpath("fitted.json").read_bytes()


# Questions about one meeting come one after the other.
@lru_cache(maxsize=2)
def _index(texts: tuple[str, ...]) -> WindowIndex:
    return WindowIndex(texts)


def staged(columns: Columns, first: Mapping[str, float], second: Mapping[str, float]) -> Array:
    """[n] log-odds: a model over `columns`, then one that also sees what it says nearby."""
    opinion = chance(logit(columns, first))
    return logit(columns | context(opinion), second)


def logit(columns: Columns, weights: Mapping[str, float]) -> Array:
    """[n]: bias + columns . weights."""
    total = weights[""] + sum(weights[name] * columns[name] for name in weights if name)
    return np.asarray(total)


def chance(logit: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))))
