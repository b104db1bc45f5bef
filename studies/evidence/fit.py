"""Fit the ranker and the support model on the train split; write them as plain numbers.

    python studies/evidence/fit.py --data DIR

Folds are meetings. The second ranking stage learns from out-of-fold opinions of the first, and
both thresholds are set on out-of-fold scores, so nothing is judged by what it was fitted on.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from data import Meeting, load
from points import KINDS, points
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from featherweight.evaluate.evidence import hits, prf
from featherweight.summarize import evidence, ranker
from featherweight.summarize.features import SentenceIndex

OUT = Path(evidence.__file__).with_name("evidence.json")
FOLDS = 5
TOP, REST = 60, 40  # sentences a point to learn from: the best by BM25, and a sample of the others
FALSE_SUPPORT = 0.10
TREES, LEAVES = 60, 8


def fold_of(meetings: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(meetings) % FOLDS


class Point:
    """One answer's columns and which sentences hit which CES."""

    def __init__(self, meeting: int, index: SentenceIndex, text: str, ces: list) -> None:
        self.meeting, self.index, self.gold = meeting, index, len(ces)
        columns = index.columns(text)
        self.names, self.x = list(columns), np.column_stack(list(columns.values()))
        self.x = self.x.astype(np.float32)
        turns = {turn for turn, _, _ in ces}
        near = np.flatnonzero(np.isin(index.turn, list(turns)))
        found = {int(at): np.array([hits(index.spans[at], c) for c in ces]) for at in near}
        self.hit = {at: hit for at, hit in found.items() if hit.any()}
        self.y = np.zeros(index.size, dtype=bool)
        self.y[list(self.hit)] = True

    def counts(self, chosen: Sequence[int]) -> list[float]:
        found = np.zeros(self.gold, dtype=bool)
        for at in chosen:
            found |= self.hit.get(int(at), False)
        return [len(chosen), float(self.y[list(chosen)].sum()), self.gold, float(found.sum())]


def sample(points: list[Point], xs: list[np.ndarray], key: Sequence[int]) -> tuple:
    """Rows to learn from, with weights that make up for the sentences left out."""
    rng = np.random.default_rng(0)
    parts, labels, weights = [], [], []
    for point, x in zip(points, xs, strict=True):
        order = np.argsort(-x[:, key].sum(axis=1), kind="stable")
        top = np.union1d(order[:TOP], np.flatnonzero(point.y))
        rest = np.setdiff1d(order, top)
        drawn = rng.choice(rest, min(REST, len(rest)), replace=False)
        parts += [x[top], x[drawn]]
        labels += [point.y[top], point.y[drawn]]
        weights += [np.ones(len(top)), np.full(len(drawn), len(rest) / max(len(drawn), 1))]
    return np.concatenate(parts), np.concatenate(labels), np.concatenate(weights)


def logistic(names: list[str], x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> dict:
    """Fitted on standardised columns, written for raw ones."""
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(scaler.transform(x), y, weight)
    slope = model.coef_[0] / scaler.scale_
    bias = float(model.intercept_[0] - slope @ scaler.mean_)
    return {"": bias} | {name: float(value) for name, value in zip(names, slope, strict=True)}


def apply(names: list[str], weights: dict, x: np.ndarray) -> np.ndarray:
    logit = x @ np.array([weights[name] for name in names]) + weights[""]
    return 1 / (1 + np.exp(-np.clip(logit, -30, 30)))


def stage(points: list[Point], xs: list[np.ndarray], names: list[str], key: Sequence[int]) -> tuple:
    """(weights fitted on all, out-of-fold probabilities a point)."""
    fold = fold_of(max(point.meeting for point in points) + 1)
    where = np.array([fold[point.meeting] for point in points])
    out: list = [None] * len(points)
    for held in range(FOLDS):
        kept = np.flatnonzero(where != held)
        weights = logistic(names, *sample([points[i] for i in kept], [xs[i] for i in kept], key))
        for i in np.flatnonzero(where == held):
            out[i] = apply(names, weights, xs[i])
    return logistic(names, *sample(points, xs, key)), out


def ranker_rows(meetings: list[Meeting]) -> list[Point]:
    rows = []
    for number, meeting in enumerate(meetings):
        index = SentenceIndex(meeting.transcript)
        rows += [Point(number, index, a.text, a.ces) for a in meeting.answers]
    return rows


def scored(rows: list[Point], final: list[np.ndarray]) -> tuple[float, dict]:
    """The find threshold with the best F1, and F1 at fixed k and at that threshold."""
    report = {}
    orders = [np.argsort(-p, kind="stable")[: evidence.MOST] for p in final]
    for k in (1, 3, 5, 10):
        total = np.sum([row.counts(o[:k]) for row, o in zip(rows, orders, strict=True)], axis=0)
        report[f"F1 at {k}"] = round(float(prf(total)[2]), 4)
    curve = {}
    for threshold in np.arange(0.10, 0.60, 0.02):
        total = np.sum(
            [
                row.counts([a for n, a in enumerate(o) if n == 0 or p[a] >= threshold])
                for row, o, p in zip(rows, orders, final, strict=True)
            ],
            axis=0,
        )
        curve[round(float(threshold), 2)] = float(prf(total)[2])
    best = max(curve, key=lambda threshold: curve[threshold])
    report["F1 at threshold"] = round(curve[best], 4)
    return best, report


def fit_ranker(meetings: list[Meeting]) -> tuple[dict, dict]:
    rows = ranker_rows(meetings)
    names, xs = rows[0].names, [row.x for row in rows]
    key = [names.index("sentence, of best"), names.index("around 3, of best")]
    first, opinion = stage(rows, xs, names, key)
    context = [row.index.context(p) for row, p in zip(rows, opinion, strict=True)]
    more = list(context[0])
    xs = [
        np.column_stack([x, *columns.values()]).astype(np.float32)
        for x, columns in zip(xs, context, strict=True)
    ]
    second, final = stage(rows, xs, names + more, [len(names) + more.index("first stage")])
    best, report = scored(rows, final)
    return {"first": first, "second": second, "find threshold": best}, report


# Columns where more can only speak against the point; the fitted trees keep to it.
AGAINST = frozenset(
    [
        "numbers",
        "names",
        "names near",
        "names anywhere",
        "denial unheard",
        "denial far",
        "denial alone",
        "denial ignored",
        "denied elsewhere",
        "affirmed elsewhere",
        "unheard",
        "others",
        "others by far",
        "never said",
    ]
)
FOR = frozenset(["best", "expected", "covered", "covered around", "best covered", "letters"])


def boosted(names: list[str], x: np.ndarray, y: np.ndarray, weight: np.ndarray):
    direction = [-1 if name in AGAINST else 1 if name in FOR else 0 for name in names]
    return HistGradientBoostingClassifier(
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        learning_rate=0.1,
        min_samples_leaf=60,
        l2_regularization=5.0,
        monotonic_cst=direction,
        early_stopping=False,
        random_state=0,
    ).fit(x, y, weight)


def written(names: list[str], model: HistGradientBoostingClassifier) -> dict:
    """The trees as plain numbers, in the form that `ranker.trees` reads."""
    forest = []
    for (predictor,) in model._predictors:
        nodes: list = []
        for node in predictor.nodes:
            if node["is_leaf"]:
                nodes.append(float(f"{node['value']:.4g}"))
            else:
                cut = float(f"{node['num_threshold']:.6g}")
                column = int(node["feature_idx"])
                nodes.append([column, cut, int(node["left"]), int(node["right"])])
        forest.append(nodes)
    bias = float(model._baseline_prediction.item())
    return {"names": names, "bias": round(bias, 5), "trees": forest}


def support_rows(meetings: list[Meeting]) -> tuple:
    rows, kinds, where, finder, at = [], [], [], None, -1
    fold = fold_of(len(meetings))
    for number, _, kind, text in points(meetings, seed=0):
        if number != at:
            finder, at = evidence.EvidenceFinder(meetings[number].transcript), number
        if cited := finder.find(text):
            columns = finder.support_columns(text, cited)
            rows.append(list(columns.values()))
            kinds.append(kind)
            where.append(fold[number])
    return list(columns), np.array(rows), np.array(kinds), np.array(where)


def kind_weights(kind: np.ndarray) -> np.ndarray:
    """True and false points weigh the same; a kind of false ones by the root of its number."""
    weight = np.zeros(len(kind))
    root = {name: np.sqrt((kind == name).sum()) for name in KINDS}
    for name in KINDS:
        weight[kind == name] = root[name] / sum(root.values()) / max((kind == name).sum(), 1)
    weight[kind == "true"] = 1 / (kind == "true").sum()
    return weight * len(kind) / 2


def judged(fit, names: list[str], x: np.ndarray, kind: np.ndarray, where: np.ndarray) -> tuple:
    """Out of fold: the lowest threshold that keeps the aim over all false points, and rates."""
    y, weight = kind == "true", kind_weights(kind)
    score = np.zeros(len(y))
    for held in range(FOLDS):
        kept = where != held
        score[~kept] = fit(names, x[kept], y[kept], weight[kept]).predict_proba(x[~kept])[:, 1]
    threshold = float(np.quantile(score[~y], 1 - FALSE_SUPPORT))
    rates = {name: round(float((score[kind == name] >= threshold).mean()), 4) for name in KINDS}
    recall = round(float((score[y] >= threshold).mean()), 4)
    return threshold, {"recall": recall, "false support": rates}


def fit_support(meetings: list[Meeting]) -> tuple[dict, dict]:
    names, x, kind, where = support_rows(meetings)
    y, weight = kind == "true", kind_weights(kind)
    threshold, report = judged(boosted, names, x, kind, where)
    support = written(names, boosted(names, x, y, weight))
    return {"support": support, "support threshold": threshold}, report


def rounded(value: object) -> object:
    if isinstance(value, dict) and "trees" in value:
        return value
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write(coefficients: dict) -> None:
    """One line for each entry: a change of the fit stays readable in a diff."""
    lines = [f"{json.dumps(k)}: {json.dumps(rounded(v))}" for k, v in coefficients.items()]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    meetings = load(args.data, "train")
    found, report = fit_ranker(meetings)
    print("finding, out of fold:", json.dumps(report))
    write(found)
    ranker.coefficients.cache_clear()
    support, report = fit_support(meetings)
    print("checking, out of fold:", json.dumps(report))
    write(found | support)


if __name__ == "__main__":
    main()
