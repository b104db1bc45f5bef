"""Nine multiple-choice tasks over several domains, scored by log-likelihood or by generation.

Log-likelihood follows lm-evaluation-harness: the question as raw text, each choice after
`Answer:`, the likeliest choice wins. By generation the model is asked for a letter through its
chat template, and what holds no letter is wrong, and counted.
"""

import re
from pathlib import Path
from typing import Literal

from featherweight.engines.types import Message
from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.rows import Row, read_rows
from featherweight.tasks.types import Example, Task

How = Literal["loglikelihood", "generation"]

SETS = {
    "arc": "ARC-Challenge, science exams (github.com/YikunHan42/TinyLLM, datasets)",
    "bioasq": "BioASQ yes/no, biomedicine (github.com/YikunHan42/TinyLLM, datasets)",
    "creak": "CREAK, common sense about entities (github.com/google-research/FLAN, cot_data)",
    "ecqa": "ECQA, common sense (github.com/google-research/FLAN, cot_data)",
    "obqa": "OpenBookQA, elementary science (github.com/YikunHan42/TinyLLM, datasets)",
    "piqa": "PIQA, physical common sense (github.com/YikunHan42/TinyLLM, datasets)",
    "pubmedqa": "PubMedQA, medical abstracts (github.com/YikunHan42/TinyLLM, datasets)",
    "riddle": "RiddleSense, riddles (github.com/YikunHan42/TinyLLM, datasets)",
    "strategyqa": "StrategyQA, implicit reasoning (github.com/google-research/FLAN, cot_data)",
}
"""What each task is and where its data come from."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_TOKENS = 8
_LEAD = re.compile(
    r"[\s*_:>(\[\"'“‘]*"
    r"(?:(?:the )?(?:(?:correct|right) )?(?:answer|choice|option)\b(?: is\b)?[\s*_:(\[\"'“‘]*)?",
    re.IGNORECASE,
)
_LETTER = re.compile(
    r"[A-Z](?:\W*$|[)\]:]|[^\w\s]+\s|\s*\n|\s+[^\w\s]|\s+(?:is|because)\b)", re.IGNORECASE
)
_PAUSE = r"\s*(?:[,.;:!?(\n]|$)"


def choice(
    name: str,
    data: Path,
    split: str = "val",
    how: How = "loglikelihood",
    limit: int | None = None,
) -> Task:
    """The questions of `split` in `data`/tasks/`name`.

    Rows have `id`, `question`, `choices` and `answer` (an index). Questions are independent, so
    none has a group. Raises `DataError` where data is missing or a row is wrong.
    """
    path = _file(name, data, split)
    examples: list[Example] = []
    seen: dict[str, str] = {}
    for row in read_rows(path):
        example = _example(row, how)
        if example.id in seen:
            raise DataError(
                f"{row.where}: {example.id!r} stands at {seen[example.id]} already; keep one."
            )
        seen[example.id] = row.where
        examples.append(example)
        if limit is not None and len(examples) >= limit:
            break
    if not examples:
        raise DataError(f"{path}: no questions in it; get the file again.")
    return Task(
        name=name,
        kind="choice",
        examples=tuple(examples),
        max_tokens=MAX_TOKENS if how == "generation" else 0,
        settings={"split": split, "how": how, "data_sha256": sha256(path)},
    )


def _file(name: str, data: Path, split: str) -> Path:
    folder = data / "tasks" / name
    names = {"val": ("valid", "val"), "valid": ("valid", "val")}.get(split, (split,))
    for stem in names:
        for suffix in (".jsonl.gz", ".jsonl"):
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    there = sorted({file.name.partition(".")[0] for file in folder.glob("*.jsonl*")})
    what = f", only {', '.join(there)}" if there else ""
    raise DataError(
        f"{folder} holds no {names[0]}.jsonl.gz or .jsonl{what}; the task is {SETS[name]}, and a "
        'row of it {"id": ..., "question": ..., "choices": [...], "answer": 0}.'
    )


def _example(row: Row, how: How) -> Example:
    question = row.text("question").strip()
    choices = row.choices("choices")
    answer = row.index("answer", len(choices))
    if how == "generation" and len(choices) > len(LETTERS):
        raise DataError(
            f"{row.where}: {len(choices)} choices, more than letters to ask for; "
            "score them by log-likelihood."
        )
    return Example(
        id=row.key("id"),
        prompt=f"Question: {question}\nAnswer:"
        if how == "loglikelihood"
        else ask(question, choices),
        target=choices[answer],
        choices=choices,
        meta={"answer": answer},
    )


def ask(question: str, choices: tuple[str, ...]) -> list[Message]:
    """The question with lettered choices, for a model that follows instructions."""
    lettered = "\n".join(f"{LETTERS[i]}. {text}" for i, text in enumerate(choices))
    content = f"{question}\n\n{lettered}\n\nAnswer with the letter of the right choice only."
    return [Message(role="user", content=content)]


def picked(answer: str, choices: tuple[str, ...]) -> int | None:
    """The choice that a generated answer names, else None.

    By its letter, alone or set off by a mark or a line's end ("B", "(b)", "The answer is C."), or
    by its text in full, alone or before a mark ("Yes, because"). A word that looks like a letter
    ("A dog", "I think") is none, unless that choice's own text follows it.
    """
    texts = [_plain(text) for text in choices]
    lead = _LEAD.match(answer)
    rest = answer[lead.end() :] if lead else answer
    for said in (_plain(answer), _plain(rest)):
        if len(said) > 1 and texts.count(said) == 1:
            return texts.index(said)
    letter = LETTERS.find(rest[0].upper()) if rest else -1
    if 0 <= letter < len(choices):
        own = rf".\s+{re.escape(texts[letter])}(?!\w)"
        if _LETTER.match(rest) or re.match(own, rest.casefold()):
            return letter
    begun = [text for text in texts if text and re.match(re.escape(text) + _PAUSE, rest.casefold())]
    longest = max(begun, key=len, default=None)
    return texts.index(longest) if longest and texts.count(longest) == 1 else None


def _plain(text: str) -> str:
    """For comparing: neither case nor marks around it count."""
    return text.strip(" \t\r\n.,;:!\"'“”‘’()*_").casefold()
