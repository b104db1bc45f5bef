"""The data of the study: QMSum with gold spans, and multiple choice answered in the choice's words.

What the large model learns from and what the arms learn from are disjoint: where it is right on its
own training data says nothing about where it is right.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featherweight.tasks import Example, Task, load_task

WORDS = 500  # of a gold span: about 700 tokens
TASKS = ("ecqa", "riddle", "obqa", "arc", "creak", "qmsum")  # those with enough to learn from
STUDIED = ("ecqa", "riddle", "obqa", "creak", "qmsum")  # see pilot.json
ONLINE = ("creak", "strategyqa", "pubmedqa", "bioasq")  # a stream of short answers
HOW = "Choose one, word for word."  # in place of the template's own 17 tokens
MAX_TOKENS = {"qmsum": 160, "choice": 24}
ARM_ITEMS, LARGE_ITEMS = 1000, 1600
QMSUM_ITEMS = 160  # about 100k tokens
LOGGED = {"val": {"qmsum": 120, "choice": 300}, "test": {"qmsum": 120, "choice": 500}}


def part(data: Path, who: str, tasks: Sequence[str] = TASKS) -> Task:
    """What `large` or the `arms` learn from."""
    found: list[Example] = []
    for name in tasks:
        if name == "qmsum":
            queries = shuffled(specific(data, "train"), name)
            size = QMSUM_ITEMS
            found += queries[:size] if who == "arms" else queries[size : 3 * size]
            continue
        items = shuffled(choices(data, name, "train"), name)
        size = min(ARM_ITEMS, len(items) // 2)
        found += items[:size] if who == "arms" else items[size : size + LARGE_ITEMS]
    return Task(f"mix-{who}", "summary", tuple(found))


def logged(data: Path, split: str, tasks: Sequence[str]) -> dict[str, list[Example]]:
    """What is answered for the logs, by task."""
    sizes, found = LOGGED[split], {}
    for name in tasks:
        if name == "qmsum":
            found[name] = shuffled(specific(data, split), name)[: sizes["qmsum"]]
        else:
            found[name] = shuffled(choices(data, name, split), name)[: sizes["choice"]]
    return found


def stream(data: Path, name: str) -> list[dict[str, Any]]:
    """The test questions of a task of `ONLINE`, as rows of a file."""
    return [
        {"id": e.id, "prompt": e.prompt, "target": e.target} for e in choices(data, name, "test")
    ]


def transcripts(data: Path, words: int = 370) -> Task:
    """All of QMSum's train meetings in pieces of about 500 tokens, to heal on: no questions."""
    meetings = load_task("qmsum", data, split="train", words=1).sources
    pieces = []
    for name, text in meetings.items():
        said = text.split()
        for start in range(0, len(said) - words + 1, words):
            piece = " ".join(said[start : start + words])
            pieces.append(Example(f"{name}/{start}", "", piece, group=name))
    return Task("transcripts", "summary", tuple(pieces))


def specific(data: Path, split: str) -> list[Example]:
    task = load_task("qmsum", data, split=split, input="gold", words=WORDS)
    return [e for e in task.examples if len((e.target or "").split()) <= 110]


def choices(data: Path, name: str, split: str) -> list[Example]:
    """The answer is a choice's own words: there is more to be unsure of than a letter."""
    task = load_task(name, data, split=split, how="generation")
    return [
        Example(
            f"{name}/{e.id}",
            [{"role": "system", "content": HOW}, {"role": "user", "content": asked(e)}],
            e.target,
            choices=e.choices,
            meta={**e.meta, "task": name},
        )
        for e in task.examples
    ]


def asked(example: Example) -> str:
    content = example.prompt[-1]["content"]  # type: ignore[index, call-overload]
    question = content.split("\n\nA. ")[0]
    listed = "\n".join(f"- {choice}" for choice in example.choices)
    return f"{question}\n{listed}"


def shuffled(examples: list[Example], name: str) -> list[Example]:
    """The same order for everybody, whatever is taken of it."""
    found = sorted(examples, key=lambda e: e.id)
    random.Random(f"cascade {name}").shuffle(found)
    return found
