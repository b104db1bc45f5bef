"""A learned post-hoc rule as plain numbers: read from JSON, evaluated with numpy alone.

Gupta et al. 2024 (2404.10136) learn when to defer from quantiles of token log-probabilities. Here
the model over `FEATURES` is linear with signs fixed, or boosted trees; `fit` makes it with
scikit-learn. Rows are added up feature by feature and tree by tree, never by a matrix product: a
row's bits must not depend on the rows beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.reader import Reader
from featherweight.cascade.tokens import FEATURES, LENGTH
from featherweight.cascade.types import Floats
from featherweight.errors import CascadeError

Target = Literal["gain", "right"]
DEEPEST = 64
CELLS = 1 << 20  # (row, tree) pairs walked at once


@dataclass(frozen=True, slots=True)
class Linear:
    """intercept + sum of coefficients * (feature - mean) / scale."""

    intercept: float
    coefficients: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def predict(self, features: Floats) -> Floats:
        found = np.full(len(features), self.intercept)
        terms = zip(self.coefficients, self.mean, self.scale, strict=True)
        for column, (coefficient, mean, scale) in enumerate(terms):
            if coefficient:
                found += coefficient * ((features[:, column] - mean) / scale)
        return found

    def used(self) -> set[int]:
        return {column for column, c in enumerate(self.coefficients) if c}


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes of one tree, the root first and children behind their parents.

    A row whose `feature` is at most `threshold` goes `left`. A leaf has feature, left and right -1
    and its `value`, the learning rate in it; other nodes' values say nothing.
    """

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]


@dataclass(frozen=True)
class Boosting:
    """base + sum of the trees."""

    base: float
    trees: tuple[Tree, ...]

    @cached_property
    def _flat(self) -> tuple[NDArray[Any], ...]:
        """All nodes in one row, leaves leading to themselves; roots; the depth of the deepest."""
        sizes = [len(tree.feature) for tree in self.trees]
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
        start = np.repeat(roots, sizes)
        own = np.arange(len(start))

        def column(name: str, kind: Any) -> NDArray[Any]:
            return np.concatenate([np.array(getattr(t, name), dtype=kind) for t in self.trees])

        feature = column("feature", np.intp)
        leaf = feature < 0
        left = np.where(leaf, own, column("left", np.intp) + start)
        right = np.where(leaf, own, column("right", np.intp) + start)
        deepest = max(max(depths(tree)) for tree in self.trees)
        return (
            roots,
            np.where(leaf, 0, feature),
            column("threshold", np.float64),
            left,
            right,
            column("value", np.float64),
            np.array(deepest),
        )

    def predict(self, features: Floats) -> Floats:
        if not self.trees:
            return np.full(len(features), self.base)
        step = max(1, CELLS // len(self.trees))
        parts = [features[i : i + step] for i in range(0, len(features), step)]
        return np.concatenate([self._walk(part) for part in parts]) if parts else np.empty(0)

    def _walk(self, features: Floats) -> Floats:
        roots, feature, threshold, left, right, value, deepest = self._flat
        node = np.repeat(roots[:, None], len(features), axis=1)  # [trees, rows]
        row = np.arange(len(features))
        for _ in range(int(deepest)):
            goes_left = features[row, feature[node]] <= threshold[node]
            node = np.where(goes_left, left[node], right[node])
        terms = np.vstack([np.full((1, len(features)), self.base), value[node]])
        return np.asarray(np.cumsum(terms, axis=0)[-1])  # tree after tree; `sum` is not sequential

    def used(self) -> set[int]:
        return {f for tree in self.trees for f in tree.feature if f >= 0}

    def thresholds(self, column: int) -> set[float]:
        """Where the trees split a feature."""
        return {
            at
            for tree in self.trees
            for f, at in zip(tree.feature, tree.threshold, strict=True)
            if f == column
        }


@dataclass(frozen=True)
class Learned:
    """Estimates E[q - q of the next stage | features] (`gain`) or E[q | features] (`right`).

    `monotone` has +1, -1 or 0 (not known to be) for each of `FEATURES`. `knots` x, y calibrate what
    the model says: linear between, constant outside. `end`: whether the end token counts.
    """

    target: Target
    model: Linear | Boosting
    monotone: tuple[int, ...]
    knots: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    end: bool = True

    def predict(self, features: Floats) -> Floats:
        """[n, 14] -> [n]; equal to scikit-learn's prediction to 1e-9.

        Raises `CascadeError` where numbers are so large that none comes out.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            found = self.model.predict(features)
            if self.knots is not None:
                found = interpolate(found, *map(np.asarray, self.knots))
        if not np.isfinite(found).all():
            raise CascadeError(
                "the learned rule gives no finite number for an answer; its numbers are too large, "
                "so fit it again."
            )
        return found + 0.0

    @cached_property
    def stops_early(self) -> bool:
        """Whether an unfinished answer has an upper bound: no token can be better than certain, so
        everything but the length, which is tried out, has to be increasing."""
        return all(self.monotone[f] == 1 for f in self.model.used() if f != LENGTH)

    def lengths(self, least: int, most: int) -> NDArray[np.int64]:
        """The lengths of a longer answer, `least` to `most`, at which the bound can be highest.

        With the length everything else grows. Where the length itself does not matter from one to
        the next, only the longer one is needed.
        """
        if LENGTH not in self.model.used():
            return np.array([most])
        if isinstance(self.model, Linear):
            return np.arange(least, most + 1)
        ends = {int(min(max(at, 0), most)) for at in self.model.thresholds(LENGTH)}
        return np.array(sorted({n for n in ends if n >= least} | {most}))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data: floats keep their bits through their shortest text."""
        model: dict[str, Any]
        if isinstance(self.model, Linear):
            model = {"kind": "linear", "intercept": self.model.intercept}
            model |= {k: list(getattr(self.model, k)) for k in ("coefficients", "mean", "scale")}
        else:
            names = ("feature", "threshold", "left", "right", "value")
            trees = [{k: list(getattr(tree, k)) for k in names} for tree in self.model.trees]
            model = {"kind": "boosting", "base": self.model.base, "trees": trees}
        knots = None if self.knots is None else {"x": [*self.knots[0]], "y": [*self.knots[1]]}
        return {
            "target": self.target,
            "end": self.end,
            "features": list(FEATURES),
            "monotone": list(self.monotone),
            "model": model,
            "knots": knots,
        }

    @classmethod
    def from_json(cls, data: object, where: str = "learned") -> "Learned":
        """The rule in plain JSON data, thoroughly checked: the file may be anybody's.

        `where` begins the place that an error names. Raises `CascadeError` for anything missing,
        unknown, out of range or not finite, for trees that are none, unsorted knots, and a model
        that is not as monotone as it says.
        """
        top = Reader(data, where)
        top.keys("target", "end", "features", "monotone", "model", "knots")
        target = cast(Target, top.one_of("target", ("gain", "right")))
        top.same("features", list(FEATURES))
        monotone = top.integers("monotone", len(FEATURES), -1, 1)
        part = top.part("model")
        model: Linear | Boosting
        if part.one_of("kind", ("linear", "boosting")) == "linear":
            model = _linear(part, monotone)
        else:
            model = _boosting(part, monotone)
        knots = None
        if top.data["knots"] is not None:
            inner = top.part("knots")
            inner.keys("x", "y")
            x = inner.numbers("x", None)
            knots = (x, inner.numbers("y", len(x)))
            if not x:
                raise inner.wrong("x", "is empty", "give at least one knot")
            inner.rising("x", x, strictly=True)
            inner.rising("y", knots[1], strictly=False)
        return cls(target, model, monotone, knots, top.flag("end"))


def interpolate(at: Floats, x: Floats, y: Floats) -> Floats:
    """Piecewise linear through knots, constant outside: [n]. Never decreasing where `y` is not,
    in floating point too: each operation is monotone, and a piece ends where the next begins."""
    at = np.clip(at, x[0], x[-1])
    if len(x) == 1:
        return np.full(len(at), y[0])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    share = (at - x[i]) / (x[i + 1] - x[i])
    return np.asarray(np.minimum(y[i] + share * (y[i + 1] - y[i]), y[i + 1]))


def depths(tree: Tree) -> list[int]:
    """How far each node is from the root; children stand behind their parents."""
    found = [0] * len(tree.feature)
    for node, (left, right) in enumerate(zip(tree.left, tree.right, strict=True)):
        if left >= 0:
            found[left] = found[right] = found[node] + 1
    return found


# ---- reading


def _linear(part: Reader, monotone: Sequence[int]) -> Linear:
    part.keys("kind", "intercept", "coefficients", "mean", "scale")
    number = len(FEATURES)
    found = Linear(
        part.number("intercept"),
        part.numbers("coefficients", number),
        part.numbers("mean", number),
        part.numbers("scale", number),
    )
    for i, (coefficient, scale, sign) in enumerate(
        zip(found.coefficients, found.scale, monotone, strict=True)
    ):
        if scale <= 0:
            raise part.wrong(f"scale[{i}]", f"is {scale:g}", "write a number above 0")
        if sign * coefficient < 0:
            raise part.wrong(
                f"coefficients[{i}]",
                f"is {coefficient:g} where monotone[{i}] is {sign:+d}",
                "give both the same sign",
            )
    return found


def _boosting(part: Reader, monotone: Sequence[int]) -> Boosting:
    part.keys("kind", "base", "trees")
    return Boosting(part.number("base"), tuple(_tree(p, monotone) for p in part.parts("trees")))


def _tree(part: Reader, monotone: Sequence[int]) -> Tree:
    part.keys("feature", "threshold", "left", "right", "value")
    threshold = part.numbers("threshold", None)
    size = len(threshold)
    if not size:
        raise part.wrong("threshold", "is empty", "give every tree at least a leaf")
    tree = Tree(
        part.integers("feature", size, -1, len(FEATURES) - 1),
        threshold,
        part.integers("left", size, -1, size - 1),
        part.integers("right", size, -1, size - 1),
        part.numbers("value", size),
    )
    parents = [0] * size
    for node in range(size):
        for side in ("left", "right"):
            child = getattr(tree, side)[node]
            if (child < 0) != (tree.feature[node] < 0):
                raise part.wrong(
                    f"{side}[{node}]",
                    f"is {child} where feature[{node}] is {tree.feature[node]}",
                    "a leaf has -1 in all three, another node in none",
                )
            if 0 <= child <= node:
                raise part.wrong(
                    f"{side}[{node}]", f"is {child}", "children stand behind their parents"
                )
            if child >= 0:
                parents[child] += 1
    for node, count in enumerate(parents[1:], 1):
        if count != 1:
            raise part.wrong(f"feature[{node}]", f"has {count} parents", "write a tree")
    if max(depths(tree)) > DEEPEST:
        raise part.wrong("left", f"goes deeper than {DEEPEST}", "fit smaller trees")
    for node, sign in _not_monotone(tree, monotone):
        raise part.wrong(
            f"feature[{node}]",
            f"splits {FEATURES[tree.feature[node]]} against its sign {sign:+d} in monotone",
            "correct the values or write 0 there",
        )
    return tree


def _not_monotone(tree: Tree, monotone: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Nodes that split a monotone feature and have, on the lower side, a leaf above one on the
    higher side. None of them means a monotone tree."""
    low, high = list(tree.value), list(tree.value)
    for node in reversed(range(len(low))):
        if tree.feature[node] < 0:
            continue
        left, right = tree.left[node], tree.right[node]
        sign = monotone[tree.feature[node]]
        if (sign > 0 and high[left] > low[right]) or (sign < 0 and low[left] < high[right]):
            yield node, sign
        low[node], high[node] = min(low[left], low[right]), max(high[left], high[right])
