"""What each idea is worth, out of fold on train; the ones that did not help included.

python studies/evidence/tried.py --data DIR
"""

import argparse
from pathlib import Path

import numpy as np
from data import load
from fit import (
    FOLDS,
    Point,
    apply,
    fold_of,
    judged,
    logistic,
    ranker_rows,
    sample,
    scored,
    stage,
    support_rows,
)
from fit import boosted as monotone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

GROUPS = {
    "letters": ("letters",),
    "speakers": ("speaker", "some speaker"),
    "feedback": ("feedback",),
    "neighbours": ("around", "covered within"),
    "turn": ("turn",),
    "sentence shape": ("words", "terms", "weight", "rarity", "place in turn", "sentences in turn"),
}
SHOWN = ("F1 at 1", "F1 at 3", "F1 at 10", "F1 at threshold")


def line(name: str, report: dict) -> None:
    print(f"| {name} | " + " | ".join(f"{report[k]:.4f}" for k in SHOWN) + " |", flush=True)


def forest(rows: list[Point], xs: list[np.ndarray], key: list[int]) -> list[np.ndarray]:
    """Boosted trees on the first stage's columns, out of fold."""
    fold = fold_of(max(row.meeting for row in rows) + 1)
    where = np.array([fold[row.meeting] for row in rows])
    out: list = [None] * len(rows)
    for held in range(FOLDS):
        kept = np.flatnonzero(where != held)
        x, y, weight = sample([rows[i] for i in kept], [xs[i] for i in kept], key)
        model = HistGradientBoostingClassifier(
            max_iter=150, max_leaf_nodes=7, learning_rate=0.06, l2_regularization=10.0,
            min_samples_leaf=100, random_state=0,
        ).fit(x, y, weight)  # fmt: skip
        for i in np.flatnonzero(where == held):
            out[i] = model.predict_proba(xs[i])[:, 1]
    return out


def unweighted(rows: list[Point], xs: list[np.ndarray], key: list[int]) -> list[np.ndarray]:
    """The logistic model, without making up for the sentences that the sample left out."""
    fold = fold_of(max(row.meeting for row in rows) + 1)
    where = np.array([fold[row.meeting] for row in rows])
    out: list = [None] * len(rows)
    for held in range(FOLDS):
        kept = np.flatnonzero(where != held)
        x, y, _ = sample([rows[i] for i in kept], [xs[i] for i in kept], key)
        weights = logistic(rows[0].names, x, y, np.ones(len(y)))
        for i in np.flatnonzero(where == held):
            out[i] = apply(rows[0].names, weights, xs[i])
    return out


def plain(names: list[str], x: np.ndarray, y: np.ndarray, weight: np.ndarray):
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return model.fit(x, y, logisticregression__sample_weight=weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    meetings = load(parser.parse_args().data, "train")
    rows = ranker_rows(meetings)
    names, xs = rows[0].names, [row.x for row in rows]
    key = [names.index("sentence, of best"), names.index("around 3, of best")]
    print("| finding | " + " | ".join(SHOWN) + " |\n|---|---|---|---|---|")
    line("first stage alone", scored(rows, stage(rows, xs, names, key)[1])[1])
    for group, starts in GROUPS.items():
        kept = [at for at, name in enumerate(names) if not name.startswith(starts)]
        kept = sorted({*kept, *key})
        fewer, part = [names[at] for at in kept], [x[:, kept] for x in xs]
        out = stage(rows, part, fewer, [kept.index(at) for at in key])[1]
        line(f"... without {group}", scored(rows, out)[1])
    line("... sample not weighted", scored(rows, unweighted(rows, xs, key))[1])
    line("... as boosted trees", scored(rows, forest(rows, xs, key))[1])
    for name, fit in (("monotone trees (shipped)", monotone), ("logistic", plain)):
        if fit is monotone:
            data = support_rows(meetings)
        print(f"checking, {name}:", judged(fit, *data)[1], flush=True)


if __name__ == "__main__":
    main()
