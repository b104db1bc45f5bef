"""QMSum-instruct: short, medium and long summaries of whole meetings.

In the manner of QMSUM-I (Fu et al. 2024, "Tiny Titans"), whose data are not public: every meeting
of the official files with a question about the whole meeting (`qmsum.ODD` left out; the first such
question where there are two) is asked for three lengths. References are written by any engine: a
run's `predictions.jsonl` carries the engine's name, the prompt's hash and the date, and is what
`references` takes. The human answer is kept beside, in `meta["human"]`, and is the target where no
references are given.
"""

from collections.abc import Sequence
from pathlib import Path

from featherweight.engines.types import Message
from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.rows import Row, read_rows
from featherweight.tasks.qmsum import ODD, WORDS, clipped, meetings, queries, spoken, spread
from featherweight.tasks.types import Example, Task

LENGTHS = {"short": (20, 60), "medium": (61, 120), "long": (121, 250)}
"""Words that an answer of each length may have; the prompt says so."""
MAX_TOKENS = 400


def qmsum_instruct(
    data: Path,
    split: str = "val",
    words: int = WORDS,
    references: Path | None = None,
    limit: int | None = None,
) -> Task:
    """Three examples a meeting, `MEETING/short` and so on, at most `words` words of the meeting.

    Raises `DataError` where data is missing, and where `references` misses an example.
    """
    rows, file_hash = meetings(data, split)
    written = {} if references is None else _written(references)
    examples: list[Example] = []
    sources: dict[str, str] = {}
    for row in rows:
        if limit is not None and len(examples) >= limit:
            break
        turns = spoken(row)
        sources[row.key("meeting_id")] = "\n".join(filter(None, turns))
        examples += _examples(row, turns, words, written, references)
    return Task(
        name="qmsum-instruct",
        kind="summary",
        examples=tuple(examples),
        max_tokens=MAX_TOKENS,
        settings={
            "split": split,
            "words": words,
            "lengths": LENGTHS,
            "data_sha256": file_hash,
            "references_sha256": None if references is None else sha256(references),
        },
        sources=sources,
    )


def prompt(text: str, length: str) -> list[Message]:
    """The instruction for one length."""
    low, high = LENGTHS[length]
    content = (
        f"Read these parts of a meeting transcript.\n\n{text}\n\n"
        f"Write a {length} summary of the whole meeting, {low} to {high} words, in one paragraph."
    )
    return [Message(role="user", content=content)]


def _examples(
    row: Row, turns: Sequence[str], words: int, written: dict[str, Row], references: Path | None
) -> list[Example]:
    whole = [
        query
        for query in queries(row, "general_query_list")
        if query["query"].strip().lower() not in ODD
    ]
    if not whole:
        return []
    meeting = row.key("meeting_id")
    text = clipped(turns, spread(turns, words), words)
    found = []
    for length in LENGTHS:
        name = f"{meeting}/{length}"
        human = whole[0]["answer"]
        target, by = human, {"by": "human"}
        if references is not None:
            if name not in written:
                raise DataError(
                    f"{references}: no reference for {name!r}; finish the run that writes them."
                )
            reference = written[name]
            target = reference.text("prediction", "reference")
            by = {
                "by": reference.text("model"),
                "prompt_sha256": reference.text("prompt_sha256"),
                "date": reference.text("date"),
            }
        meta = {"general": True, "length": length, "human": human, "reference": by}
        found.append(Example(name, prompt(text, length), target, meeting, (), meta))
    return found


def _written(path: Path) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in read_rows(path):
        name = row.key("id")
        if name in found:
            raise DataError(f"{row.where}: {name!r} stands at {found[name].where} too; keep one.")
        found[name] = row
    return found
