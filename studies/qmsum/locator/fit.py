"""Fit the embedded locator's weights on QMSum's train split; write them into the package.

usage: fit.py --data DIR [--windows SIZE STRIDE] [--out FILE]

Two logistic models: the second sees the first one's out-of-fold opinion of the neighbours (folds
of whole meetings). A window counts as positive by the share of its words inside the gold span; a
question's windows weigh one over its gold words, since recall is a mean over questions.
Deterministic, about two minutes on one core. Prints cross-validated recall.
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from spans import Meeting, load

from featherweight import retrieve
from featherweight.retrieve.columns import WindowIndex, context
from featherweight.retrieve.fitted import chance
from featherweight.retrieve.terms import terms

OUT = Path(retrieve.__file__).with_name("fitted.json")
FOLDS = 4
OFTEN = 5  # questions that a term must stand in to have a rarity of its own


@dataclass
class Question:
    meeting: int
    text: str
    gold: frozenset[int]
    spans: list[tuple[int, int]]
    x: np.ndarray  # [windows, columns]
    y: np.ndarray  # [windows], shares in gold
    weight: np.ndarray  # [windows]


def rarity(meetings: list[Meeting]) -> dict[str, float]:
    """Of a term in many questions: log(questions / with it) / log(questions), 0 to 1."""
    asked = [set(terms(text)) for meeting in meetings for text, _ in meeting.questions]
    often = Counter(term for found in asked for term in found)
    most = np.log(len(asked))
    return {
        term: float(np.log(len(asked) / count) / most)
        for term, count in sorted(often.items())
        if count >= OFTEN
    }


def questions(meetings: list[Meeting], size: int, stride: int, rare: dict) -> tuple[list, list]:
    found = []
    for number, meeting in enumerate(meetings):
        spans, texts = meeting.windows(size, stride)
        index = WindowIndex(texts)
        words = np.array([meeting.words(range(a, b)) for a, b in spans], float)
        for text, gold in meeting.questions:
            columns = index.columns(text, rare)
            x = np.column_stack(list(columns.values())).astype(np.float32)
            y = meeting.shares(spans, gold)
            weight = words / max(1, meeting.words(gold))
            found.append(Question(number, text, gold, spans, x, y, weight))
    return found, list(columns)


def logistic(names: list[str], rows: list[Question]) -> dict[str, float]:
    """Fitted on standardised columns, written for raw ones."""
    x, y = np.concatenate([q.x for q in rows]), np.concatenate([q.y for q in rows])
    weight = np.concatenate([q.weight for q in rows])
    weight = weight / weight.mean()
    scaler = StandardScaler().fit(x)
    z = scaler.transform(x)
    model = LogisticRegression(C=1.0, max_iter=400).fit(
        np.concatenate([z, z]),
        np.concatenate([np.ones(len(y)), np.zeros(len(y))]),
        np.concatenate([weight * y, weight * (1 - y)]) + 1e-9,
    )
    slope = model.coef_[0] / scaler.scale_
    bias = float(model.intercept_[0] - slope @ scaler.mean_)
    return {"": bias} | {name: float(value) for name, value in zip(names, slope, strict=True)}


def logits(names: list[str], weights: dict[str, float], question: Question) -> np.ndarray:
    return question.x @ np.array([weights[name] for name in names]) + weights[""]


def out_of_fold(names: list[str], rows: list[Question]) -> list[np.ndarray]:
    number = max(q.meeting for q in rows) + 1
    fold = np.random.default_rng(0).permutation(number) % FOLDS
    fitted = [logistic(names, [q for q in rows if fold[q.meeting] != f]) for f in range(FOLDS)]
    return [logits(names, fitted[fold[q.meeting]], q) for q in rows]


def recall(meetings: list[Meeting], rows: list[Question], scores: list[np.ndarray]) -> str:
    found = [
        [meetings[q.meeting].caught(q.spans, s, q.gold, budget)[0] for budget in (500, 900, 2000)]
        for q, s in zip(rows, scores, strict=True)
    ]
    return " ".join(f"{value:.3f}" for value in np.mean(found, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", type=int, nargs=2, default=(100, 100))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    meetings = load(args.data, "train")
    rare = rarity(meetings)
    rows, names = questions(meetings, *args.windows, rare)
    first = logistic(names, rows)
    opinion = out_of_fold(names, rows)
    print("recall at 500, 900, 2000 words, out of fold; first:", recall(meetings, rows, opinion))
    for question, logit in zip(rows, opinion, strict=True):
        columns = context(chance(logit))
        question.x = np.column_stack([question.x, *columns.values()]).astype(np.float32)
    names += list(columns)
    print("second:", recall(meetings, rows, out_of_fold(names, rows)))
    second = logistic(names, rows)
    write(args.out, {"windows": args.windows, "rarity": rare, "first": first, "second": second})


def write(path: Path, found: dict) -> None:
    """One line for each entry: a change of the fit stays readable in a diff."""
    short = {
        key: {k: float(f"{v:.4g}") for k, v in value.items()} if isinstance(value, dict) else value
        for key, value in found.items()
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in short.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
