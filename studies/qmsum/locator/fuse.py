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
from spans import Meeting, load
from train import MAX_TOKENS, WINDOWS, held_out

from featherweight.files import write_atomic
from featherweight.retrieve.columns import context
from featherweight.retrieve.encoder import SETTINGS, EncoderLocator, columns, open_encoder
from featherweight.retrieve.fitted import chance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    args = parser.parse_args()
    blank = {"first": {"": 0.0}, "second": {"": 0.0}}
    settings = {"windows": WINDOWS, "max_tokens": MAX_TOKENS} | blank
    write_atomic(args.encoder / SETTINGS, json.dumps(settings))
    meetings = load(args.data, "train")
    held = held_out(meetings)
    rows, names = opinions(held, open_encoder(args.encoder), lexical_opinion(meetings))
    print("recall at 500, 900, 2000 words on held-out meetings")
    for column, name in enumerate(names):
        print(f"{name} alone:", recall(held, rows, [row.x[:, column] for row in rows]))
    first, opinion = logistic(names, rows), out_of_fold(names, rows)
    print("all:", recall(held, rows, opinion))
    for row, logit in zip(rows, opinion, strict=True):
        nearby = context(chance(logit))
        row.x = np.column_stack([row.x, *nearby.values()])
    names += list(nearby)
    print("all, and nearby:", recall(held, rows, out_of_fold(names, rows)))
    second = logistic(names, rows)
    found = settings | {"first": short(first), "second": short(second)}
    write_atomic(args.encoder / SETTINGS, json.dumps(found, indent=1) + "\n")
    print(f"wrote {args.encoder / SETTINGS}")


def lexical_opinion(meetings: list[Meeting]) -> dict[tuple[str, int], np.ndarray]:
    """Log-odds of each question of train, by models that did not see its meeting."""
    rows, names = questions(meetings, *WINDOWS, rarity(meetings))
    for row, logit in zip(rows, out_of_fold(names, rows), strict=True):
        nearby = context(chance(logit))
        row.x = np.column_stack([row.x, *nearby.values()]).astype(np.float32)
    found: dict[tuple[str, int], np.ndarray] = {}
    for row, logit in zip(rows, out_of_fold(names + list(nearby), rows), strict=True):
        name = meetings[row.meeting].name
        found[name, sum(at == name for at, _ in found)] = logit
    return found


def opinions(
    meetings: list[Meeting], locator: EncoderLocator, lexical: dict[tuple[str, int], np.ndarray]
) -> tuple[list[Question], list[str]]:
    rows = []
    for number, meeting in enumerate(meetings):
        spans, texts = meeting.windows(*WINDOWS)
        words = np.array([meeting.words(range(a, b)) for a, b in spans], float)
        for at, (text, gold) in enumerate(meeting.questions):
            found = columns(locator.meaning(text, texts), lexical[meeting.name, at])
            x = np.column_stack(list(found.values()))
            weight = words / max(1, meeting.words(gold))
            y = meeting.shares(spans, gold)
            rows.append(Question(number, text, gold, spans, x, y, weight))
    return rows, list(found)


def short(weights: dict) -> dict:
    return {name: float(f"{value:.4g}") for name, value in weights.items()}


if __name__ == "__main__":
    main()
