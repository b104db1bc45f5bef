"""Fitting a learned rule on the fit split of a log, with scikit-learn.

What is estimated is what a deferral gives up or wins: E[q - q of the next stage | features]
(Jitkrittum et al. 2023, "When does confidence-based cascade deferral suffice?": deferring where it
is lowest is optimal at any share; for answers that are right or wrong it is a difference of two
probabilities). The control, E[q | features], defers hopeless questions too. Both are least squares,
monotone in every feature: more confidence never means less trust, and an unfinished answer has a
bound. How strongly to regularise is chosen by cross-validation over groups.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.learned import Boosting, Learned, Linear, Target, Tree
from featherweight.cascade.sample import hashed_order
from featherweight.cascade.scores import features
from featherweight.cascade.tokens import FEATURES, LENGTH
from featherweight.cascade.types import Floats, Log
from featherweight.errors import CascadeError
from featherweight.evaluate.statistics import group_index

Kind = Literal["linear", "boosting"]

FOLDS = 5
ROWS, GROUPS = 40, 2  # the fewest to choose anything by cross-validation
SIGNS = tuple(-1 if column == LENGTH else 1 for column in range(len(FEATURES)))
PENALTIES = tuple(float(x) for x in np.logspace(2, -3, 11))  # per row, of standardised features
LEAVES, ITERATIONS, RATE, L2 = (2, 4, 8), 100, 0.1, 1.0

Model = Linear | Boosting
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Data:
    x: Floats  # [n, 14]
    y: Floats  # [n]
    folds: NDArray[np.intp]  # [n], a group is in one fold

    def splits(self) -> Iterator[tuple[Indices, Indices]]:
        """Rows to fit on and rows to look at."""
        for fold in range(self.folds.max() + 1):
            yield np.flatnonzero(self.folds != fold), np.flatnonzero(self.folds == fold)


def fit_rule(
    part: Log,
    stage: int,
    kind: Kind,
    target: Target = "gain",
    end: bool = True,
    calibrate: bool = False,
) -> Learned:
    """The rule for trusting stage `stage` (from 0), learned on the rows of `part`.

    `gain`: its quality less the next stage's; `right`: its quality. `linear` is a ridge regression
    with signs fixed, `boosting` monotone trees. Rows where one of these stages failed are left out:
    a failed answer is passed on anyway. `calibrate` adds isotonic knots, fitted on out-of-fold
    predictions; equal scores become common then. Folds are dealt in `hashed_order`, so that
    equal data give equal numbers and no seed can be tried until it proves something.

    Raises `CascadeError` where there is no next stage, a quality or log-probabilities are missing,
    rows or groups are too few, or there is nothing to learn.
    """
    _need_sklearn()
    data = _data(part, stage, target, end)
    fitted = _linear(data) if kind == "linear" else _boosting(data)
    model = fitted(np.arange(len(data.y)))
    knots = None
    if calibrate and model.used():
        knots = _knots(data, fitted)
    rule = Learned(target, model, SIGNS, knots, end)
    if not model.used() or np.ptp(rule.predict(data.x)) == 0:
        raise CascadeError(
            f"{part.models[stage]}: nothing in its token log-probabilities foretells its "
            f"{'gain' if target == 'gain' else 'quality'} in {len(data.y)} rows; use a plain score "
            "(mean, quantile:0.1), or log more questions."
        )
    return Learned.from_json(rule.to_json())  # what could not be read again must not be written


def _data(part: Log, stage: int, target: Target, end: bool) -> _Data:
    """Features and targets of the rows that can be used, checked."""
    if not 0 <= stage < len(part.models) - 1:
        raise CascadeError(
            f"stage {stage} of {len(part.models)} has no next stage to pass a question on to; learn"
            " a rule for one before the last."
        )
    needed = (stage, stage + 1) if target == "gain" else (stage,)
    known = [r for r in part.rows if all(r.stages[i].error is None for i in needed)]
    rows = [r for r in known if not r.stages[stage].failed]
    for row in rows:
        for i in needed:
            found = row.stages[i].quality
            if found is None or not np.isfinite(found):
                raise CascadeError(
                    f"row {row.id}: the answer of {part.models[i]} has quality {found}; score it "
                    "or take the row out."
                )
    name = part.models[stage]
    groups = {row.group for row in rows}
    if len(rows) < ROWS or len(groups) < GROUPS:
        raise CascadeError(
            f"{name}: {len(rows)} rows of {len(groups)} groups to learn a rule from, and at least "
            f"{ROWS} rows of {GROUPS} groups are needed (some hundred are better); log more "
            "questions in the split 'fit', or use a plain score."
        )
    x = features([r.stages[stage] for r in rows], end, [r.id for r in rows])
    quality = np.array([[r.stages[i].quality for i in needed] for r in rows], dtype=np.float64)
    y = quality[:, 0] - quality[:, 1] if target == "gain" else quality[:, 0]
    if np.ptp(y) == 0:
        what = f"gain over {part.models[stage + 1]}" if target == "gain" else "quality"
        raise CascadeError(
            f"{name}: its {what} is {y[0]:g} in all {len(y)} rows, so there is nothing to learn; "
            "log questions on which it varies."
        )
    if not np.ptp(x, axis=0).any():
        raise CascadeError(
            f"{name}: the token log-probabilities of all {len(y)} answers are the same, so there is"
            " nothing to learn from; check that the engine gives the model's own."
        )
    names = [row.group for row in rows]
    place = np.argsort(hashed_order(names))
    return _Data(x, y, (place % min(FOLDS, len(groups)))[group_index(names)])


# ---- linear


def _linear(data: _Data) -> Callable[[Indices], Model]:
    """How to fit on some rows: with the penalty of the lowest cross-validated squared error."""
    errors = np.zeros(len(PENALTIES))
    for inside, outside in data.splits():
        for number, penalty in enumerate(PENALTIES):
            found = _ridge(data, inside, penalty).predict(data.x[outside])
            errors[number] += ((found - data.y[outside]) ** 2).sum()
    best = PENALTIES[int(errors.argmin())]  # the strongest of equals
    return lambda rows: _ridge(data, rows, best)


def _ridge(data: _Data, rows: Indices, penalty: float) -> Linear:
    """Least squares with coefficients of fixed sign on standardised features; the penalty, times
    the number of rows, stands below them as rows of its own."""
    from sklearn.linear_model import LinearRegression

    x, y = data.x[rows], data.y[rows]
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale < 1e-12 * (1 + abs(mean))] = 1.0
    oriented = (x - mean) / scale * SIGNS
    size = len(SIGNS)
    below = np.sqrt(penalty * len(rows)) * np.eye(size)
    solver = LinearRegression(positive=True, fit_intercept=False)
    solver.fit(np.vstack([oriented, below]), np.concatenate([y - y.mean(), np.zeros(size)]))
    signed = [
        float(c * sign) if c > 0 else 0.0 for c, sign in zip(solver.coef_, SIGNS, strict=True)
    ]
    return Linear(float(y.mean()), tuple(signed), tuple(mean.tolist()), tuple(scale.tolist()))


# ---- boosted trees


def _boosting(data: _Data) -> Callable[[Indices], Model]:
    """How to fit on some rows: with the size and number of trees that cross-validation chose."""
    errors = np.zeros((ITERATIONS, len(LEAVES)))
    for inside, outside in data.splits():
        for number, leaves in enumerate(LEAVES):
            model = _trees(data, inside, leaves, ITERATIONS)
            for i, found in enumerate(model.staged_predict(data.x[outside])):
                errors[i, number] += ((found - data.y[outside]) ** 2).sum()
    best, number = divmod(int(errors.argmin()), len(LEAVES))  # the fewest trees of equals

    def fitted(rows: Indices) -> Boosting:
        model = _trees(data, rows, LEAVES[number], best + 1)
        plain = _plain(model)
        x = data.x[rows]
        import sklearn

        if not np.allclose(plain.predict(x), model.predict(x), rtol=0, atol=1e-9):
            raise CascadeError(
                f"scikit-learn {sklearn.__version__} keeps its trees otherwise than this version "
                "reads them; install scikit-learn 1.9, or fit a linear rule."
            )
        return plain

    return fitted


def _trees(data: _Data, rows: Indices, leaves: int, iterations: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        learning_rate=RATE,
        max_iter=iterations,
        max_leaf_nodes=leaves,
        min_samples_leaf=max(5, len(rows) // 20),
        l2_regularization=L2,
        monotonic_cst=SIGNS,
        early_stopping=False,
        random_state=0,
    )
    return model.fit(data.x[rows], data.y[rows])


def _plain(model: Any) -> Boosting:
    """The trees as plain numbers; there is no public way, so `fitted` compares predictions."""
    trees = []
    for (predictor,) in model._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            Tree(
                tuple(np.where(leaf, -1, nodes["feature_idx"]).tolist()),
                tuple(np.where(leaf, 0.0, nodes["num_threshold"]).tolist()),
                tuple(np.where(leaf, -1, nodes["left"].astype(np.int64)).tolist()),
                tuple(np.where(leaf, -1, nodes["right"].astype(np.int64)).tolist()),
                tuple(nodes["value"].tolist()),
            )
        )
    return Boosting(float(np.ravel(model._baseline_prediction)[0]), tuple(trees))


# ---- calibration


def _knots(
    data: _Data, fitted: Callable[[Indices], Model]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Isotonic regression of the target on predictions for groups that were not fitted on."""
    from sklearn.isotonic import IsotonicRegression

    unseen = np.zeros(len(data.y))
    for inside, outside in data.splits():
        unseen[outside] = fitted(inside).predict(data.x[outside])
    isotonic = IsotonicRegression(out_of_bounds="clip").fit(unseen, data.y)
    x, y = isotonic.X_thresholds_, isotonic.y_thresholds_
    return tuple(x.tolist()), tuple(y.tolist())


def _need_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise CascadeError(
            "a learned rule is fitted with scikit-learn, which is not installed; "
            "run `pip install 'featherweight[eval]'`."
        ) from None
