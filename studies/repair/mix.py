"""What repairs learn from, what is chosen on, and what is scored: never a test file before the end.

Prompt k learns part k: articles (WikiText-2 validation), meetings (QMSum train), questions with
their answers (the nine tasks' train splits, raw, as they are scored; without those that are asked
again in a test split), and a third of each. LoRA and NEO learn the last part. All parts have as
many pieces, of about 260 tokens.
"""

import random
import sys
from collections.abc import Sequence
from pathlib import Path

from featherweight.tasks import Example, Task, load_task
from featherweight.tasks.choice import SETS

sys.path.append(str(Path(__file__).parent.parent / "compress"))
from texts import CALIBRATED, articles, meetings, pieces

WORDS, PIECES, VAL_PIECES = 180, 580, 48
PARTS = ("articles", "meetings", "questions", "mixed")


def learnt(data: Path) -> Task:
    """All four parts in their order, as `repair` deals them out."""
    parts = [*_kinds(data, "train"), _mixed(_kinds(data, "train"))]
    return _task("learn", [piece for part in parts for piece in part])


def mixed(data: Path) -> Task:
    """The last part alone."""
    return _task("mixed", _mixed(_kinds(data, "train")))


def val(data: Path) -> Task:
    """As many of each kind, of other articles, meetings and questions."""
    return _task("val", [piece for part in _kinds(data, "val") for piece in part[:VAL_PIECES]])


def questions(data: Path, split: str) -> list[str]:
    """Questions and answers as one text each, joined to pieces; seeded, all tasks alike."""
    items = []
    for name in SETS:
        if split == "train" and name == "piqa":
            continue  # it has no train split here
        asked = {str(one.prompt) for one in load_task(name, data, split="test").examples}
        found = [
            one
            for one in load_task(name, data, split=split).examples
            if str(one.prompt) not in asked
        ]
        random.Random(name).shuffle(found)
        rows = [f"{one.prompt} {one.target}" for one in found if one.target]
        items.append([row for row in rows if len(row.split()) <= 2 * WORDS])
    dealt = zip(*(_again(one, 400) for one in items), strict=True)
    joined, piece = [], ""
    for row in (text for several in dealt for text in several):
        if piece and len(piece.split()) + len(row.split()) > WORDS:
            joined.append(piece)
            piece = ""
        piece = f"{piece}\n\n{row}" if piece else row
    return joined


def _again(items: Sequence[str], count: int) -> list[str]:
    return [items[i % len(items)] for i in range(count)]


def _kinds(data: Path, split: str) -> list[list[str]]:
    wiki = articles(data, 0, CALIBRATED) if split == "train" else articles(data, CALIBRATED, None)
    said = meetings(data, split)
    found = [pieces(wiki, WORDS), pieces(said, WORDS), questions(data, split)]
    for part in found:
        random.Random(len(part)).shuffle(part)
    return [part[:PIECES] for part in found]


def _mixed(kinds: Sequence[Sequence[str]]) -> list[str]:
    third = PIECES // len(kinds)
    found = [piece for part in kinds for piece in part[-third - 1 :]][:PIECES]
    random.Random(0).shuffle(found)
    return found


def _task(name: str, texts: Sequence[str]) -> Task:
    rows = tuple(Example(f"{name}/{i}", "", text) for i, text in enumerate(texts))
    return Task(name, "text", rows, settings={"study": "repair", "pieces": len(rows)})
