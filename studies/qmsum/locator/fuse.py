"""Make a locator of a trained encoder: how its word and the embedded locator's go together.

usage: fuse.py --data DIR --encoder DIR

The two logistic models of `locator.json` are fitted on the meetings of train that `train.py` held
out, on what the encoder says there. The embedded locator's word is taken out of fold, since its own
weights saw these meetings. Writes `locator.json` into the directory. Prints out-of-fold recall.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from fit import Question, logistic, out_of_fold, questions, rarity, recall
from spans import load
from train import MAX_TOKENS, WINDOWS, held_out

from featherweight.files import write_atomic
from featherweight.retrieve.columns import context
from featherweight.retrieve.cross import SETTINGS, CrossLocator, open_cross
from featherweight.retrieve.fitted import chance

BLANK = {"": 0.0, "cross": 1.0, "lexical": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    args = parser.parse_args()
    settings = {"windows": WINDOWS, "max_tokens": MAX_TOKENS, "first": BLANK, "second": {"": 0.0}}
    write_atomic(args.encoder / SETTINGS, json.dumps(settings))
    meetings = load(args.data, "train")
    lexical = lexical_opinion(meetings)
    held = held_out(meetings)
    rows = cross_opinion(held, open_cross(args.encoder))
    wanted = {meeting.name for meeting in held}
    of_held = [logit for name, logit in lexical if name in wanted]
    for row, logit in zip(rows, of_held, strict=True):
        row.x = np.column_stack([row.x, logit])
    names = ["cross", "lexical"]
    print("recall at 500, 900, 2000 words, held out, cross:", alone(held, rows, 0))
    print("lexical:", alone(held, rows, 1))
    first, opinion = logistic(names, rows), out_of_fold(names, rows)
    print("both:", recall(held, rows, opinion))
    for row, logit in zip(rows, opinion, strict=True):
        columns = context(chance(logit))
        row.x = np.column_stack([row.x, *columns.values()])
    names += list(columns)
    print("both, and nearby:", recall(held, rows, out_of_fold(names, rows)))
    second = logistic(names, rows)
    found = settings | {"first": short(first), "second": short(second)}
    write_atomic(args.encoder / SETTINGS, json.dumps(found, indent=1) + "\n")
    print(f"wrote {args.encoder / SETTINGS}")


def lexical_opinion(meetings) -> list[tuple[str, np.ndarray]]:
    """Meeting and log-odds of each question of train, by models that did not see its meeting."""
    rows, names = questions(meetings, *WINDOWS, rarity(meetings))
    opinion = out_of_fold(names, rows)
    for row, logit in zip(rows, opinion, strict=True):
        columns = context(chance(logit))
        row.x = np.column_stack([row.x, *columns.values()]).astype(np.float32)
    found = out_of_fold(names + list(columns), rows)
    return [(meetings[row.meeting].name, logit) for row, logit in zip(rows, found, strict=True)]


def cross_opinion(meetings, locator: CrossLocator) -> list[Question]:
    rows = []
    for number, meeting in enumerate(meetings):
        spans, texts = meeting.windows(*WINDOWS)
        words = np.array([meeting.words(range(a, b)) for a, b in spans], float)
        for text, gold in meeting.questions:
            x = locator.cross(text, texts)[:, None]
            weight = words / max(1, meeting.words(gold))
            y = meeting.shares(spans, gold)
            rows.append(Question(number, text, gold, spans, x, y, weight))
    return rows


def alone(meetings, rows: list[Question], column: int) -> str:
    return recall(meetings, rows, [row.x[:, column] for row in rows])


def short(weights: dict) -> dict:
    return {name: float(f"{value:.4g}") for name, value in weights.items()}


if __name__ == "__main__":
    main()
