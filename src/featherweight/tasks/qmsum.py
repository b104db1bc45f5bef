"""QMSum (Zhong et al. 2021): questions about meetings, with human answers and gold spans.

What a model reads of a meeting is chosen here, the same in training and test:

- `full`: the whole transcript, cleaned;
- `gold`: the turns that the annotators marked (oracle), specific questions only;
- `located`: for a specific question the windows that a locator finds, for one about the whole
  meeting windows spread evenly over it (no place is more relevant than another), to a budget of
  words.

The locator was chosen on val (studies/qmsum/locator). Gold spans longer than the budget are cut to
it by BM25 (62 of val's 237), whichever locator there is. A budget smaller than a locator's windows
makes them smaller.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from featherweight.engines.types import Message
from featherweight.errors import DataError, TranscriptError
from featherweight.files import sha256
from featherweight.retrieve import BM25Locator, FittedLocator, Locator, pack, windows
from featherweight.rows import Row, read_rows
from featherweight.tasks.types import Example, Task
from featherweight.transcript import Transcript, clean, parse_transcript

Input = Literal["located", "gold", "full"]
SPLITS = ("train", "val", "test")
WORDS = 900
EVEN_WINDOW = 150  # words, for the whole meeting
MAX_TOKENS = 192
SOURCE = (
    "QMSum (MIT) is at github.com/Yale-LILY/QMSum: put data/ALL/{train,val,test} into DIR/qmsum, "
    "as folders of JSON or as {split}.jsonl"
)
ODD = frozenset(
    {
        "summarize what was said about digits form",
        "what were the final decisions made by the team?",
        "what's the decision of the whole meeting?",
        "what were the resolutions in the meeting?",
    }
)
"""General queries of the official files that do not ask for a summary of the whole meeting."""


def qmsum(
    data: Path,
    split: str = "val",
    input: Input = "located",
    words: int = WORDS,
    limit: int | None = None,
    locator: Locator | None = None,
) -> Task:
    """The questions of `split` under `data`/qmsum, at most `words` words of each meeting.

    `words` has no effect on `full`. `locator` finds what `located` reads, the embedded one unless
    given. `limit` takes whole meetings until at least so many questions are there. Ids are
    `MEETING/g0` (whole meeting) and `MEETING/s0`. Raises `DataError` where data is missing (and
    says where it comes from), a row is not as in the official files, or a locator is given that
    would not be asked.
    """
    if locator is not None and input != "located":
        raise DataError(f"the input {input} needs no locator; leave it out, or read located.")
    locator = locator or FittedLocator()
    rows, file_hash = meetings(data, split)
    examples: list[Example] = []
    sources: dict[str, str] = {}
    for row in rows:
        if limit is not None and len(examples) >= limit:
            break
        turns = spoken(row)
        sources[row.key("meeting_id")] = "\n".join(filter(None, turns))
        examples += _examples(row, turns, input, words, locator)
    return Task(
        name="qmsum",
        kind="summary",
        examples=tuple(examples),
        max_tokens=MAX_TOKENS,
        settings={
            "split": split,
            "input": input,
            "words": None if input == "full" else words,
            "locator": locator.name if input == "located" else None,
            "data_sha256": file_hash,
        },
        sources=sources,
    )


def meetings(data: Path, split: str) -> tuple[list[Row], str]:
    """The meetings of a split, each a row with `meeting_id`, and the hash of what was read."""
    if split not in SPLITS:
        raise DataError(f"QMSum has no split {split!r}; choose {', '.join(SPLITS)}.")
    folder = data / "qmsum"
    for name in (f"{split}.jsonl.gz", f"{split}.jsonl"):
        if (folder / name).is_file():
            path = folder / name
            rows = [
                Row({"meeting_id": f"{split}_{i}", **row.data}, row.where)
                for i, row in enumerate(read_rows(path))
            ]
            _check_once(rows)
            return rows, sha256(path)
    files = sorted((folder / split).glob("*.json"))
    if not files:
        raise DataError(f"{folder} holds no {split}.jsonl.gz, {split}.jsonl or {split}/; {SOURCE}.")
    rows = [_official(file) for file in files]
    _check_once(rows)
    joined = "".join(map(sha256, files))
    return rows, hashlib.sha256(joined.encode()).hexdigest()


def _official(path: Path) -> Row:
    """One meeting in a file of its own, as the official repository has them."""
    try:
        data = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); get the file again.") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: not a meeting; get the file again.")
    return Row({"meeting_id": path.stem, **data}, str(path))


def _check_once(rows: Sequence[Row]) -> None:
    places: dict[str, str] = {}
    for row in rows:
        meeting = row.key("meeting_id")
        if meeting in places:
            raise DataError(f"{row.where}: {meeting!r} stands at {places[meeting]} too; keep one.")
        places[meeting] = row.where


def _examples(
    row: Row, turns: Sequence[str], input: Input, words: int, locator: Locator
) -> list[Example]:
    meeting = row.key("meeting_id")
    budget = None if input == "full" else words
    found = []
    for kind, tag in (("general_query_list", "g"), ("specific_query_list", "s")):
        for number, query in enumerate(queries(row, kind)):
            general = tag == "g"
            if general and input == "gold":
                continue
            chosen = _chosen(row, turns, query, general, input, words, locator)
            found.append(
                Example(
                    id=f"{meeting}/{tag}{number}",
                    prompt=prompt(clipped(turns, chosen, budget), query["query"]),
                    target=query["answer"],
                    group=meeting,
                    meta={
                        "general": general,
                        "query": query["query"],
                        "turns": chosen,
                        "domain": row.data.get("domain"),
                    },
                )
            )
    return found


def prompt(text: str, query: str) -> list[Message]:
    """The question over a part of a meeting, as every model is asked it."""
    content = (
        f"Read this part of a meeting transcript.\n\n{text}\n\n"
        f"{query.strip()}\n"
        "Answer in one paragraph of about 70 words, with names and facts from the transcript only."
    )
    return [Message(role="user", content=content)]


def spoken(row: Row) -> list[str]:
    """The cleaned turns as a model reads them, `Speaker: text`; a turn of noise is empty."""
    return turn_lines(meeting_transcript(row))


def turn_lines(transcript: Transcript) -> list[str]:
    """`Speaker: text` for each turn, as a model reads it; a turn without text is empty."""
    return [
        f"{turn.speaker}: {turn.text}" if turn.text and turn.speaker else turn.text
        for turn in transcript.turns
    ]


def meeting_transcript(row: Row) -> Transcript:
    """The meeting's turns, cleaned; turn numbers are those of the annotations."""
    turns = row.data.get("meeting_transcripts")
    if not isinstance(turns, list):
        raise DataError(f"{row.where}: it has no list 'meeting_transcripts'; is it of QMSum?")
    try:
        raw = orjson.dumps({"meeting_transcripts": turns})
        return clean(parse_transcript(raw, source=row.where))
    except TranscriptError as error:
        raise DataError(f"{row.where}: no QMSum meeting ({error})") from None


def queries(row: Row, kind: str) -> list[dict[str, Any]]:
    """The entries of `general_query_list` or `specific_query_list`, checked."""
    found = row.data.get(kind)
    if not isinstance(found, list):
        raise DataError(f"{row.where}: it has no list {kind!r}; is it a file of QMSum?")
    for query in found:
        if not isinstance(query, dict):
            raise DataError(f"{row.where}: an entry of {kind} is no object; get the file again.")
        for column in ("query", "answer"):
            Row(query, f"{row.where}, {kind}").text(column)
    return found


def _chosen(
    row: Row,
    turns: Sequence[str],
    query: dict[str, Any],
    general: bool,
    input: Input,
    words: int,
    locator: Locator,
) -> list[int]:
    """Turn numbers that the model reads, ascending."""
    if input == "full":
        return list(range(len(turns)))
    if input == "gold":
        spans = gold_turns(row, query, len(turns))
        return located(turns, query["query"], words, spans, BM25Locator())
    if general:
        return spread(turns, words)
    return located(turns, query["query"], words, locator=locator)


def gold_turns(row: Row, query: dict[str, Any], turns: int) -> list[int]:
    """The turns of a specific question's gold spans, which are inclusive in the files."""
    try:
        spans = [(int(first), int(last)) for first, last in query["relevant_text_span"]]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{row.where}: a specific query has no relevant_text_span; get the file again."
        ) from None
    if any(not 0 <= first <= last < turns for first, last in spans):
        raise DataError(f"{row.where}: a gold span lies outside the meeting; get the file again.")
    return sorted({turn for first, last in spans for turn in range(first, last + 1)})


def located(
    turns: Sequence[str],
    query: str,
    words: int,
    among: Sequence[int] | None = None,
    locator: Locator | None = None,
) -> list[int]:
    """Turns of the best windows, to a budget of words; of `among` only if given.

    The embedded locator finds them unless another one is given.
    """
    locator = locator or FittedLocator()
    numbers = list(range(len(turns)) if among is None else among)
    texts = [turns[i] for i in numbers]
    lengths = [len(text.split()) for text in texts]
    if sum(lengths) <= words:
        return numbers
    spans = windows(lengths, min(locator.window, words), min(locator.stride, words))
    scores = locator.scores(query, ["\n".join(texts[a:b]) for a, b in spans])
    packed = pack(spans, scores, lengths, words)
    # no window fits where one turn is longer than the budget: its beginning is read (`clipped`)
    return [numbers[i] for i in packed] or [numbers[spans[int(np.argmax(scores))][0]]]


def spread(turns: Sequence[str], words: int) -> list[int]:
    """Turns of as many windows as fit, at even distances from the first to the last."""
    lengths = [len(turn.split()) for turn in turns]
    if sum(lengths) <= words:
        return list(range(len(turns)))
    size = max(1, min(EVEN_WINDOW, words // 2))  # beginning and end at least
    spans = windows(lengths, size, size)
    for count in range(max(1, words // size), 0, -1):
        picked = np.unique(np.linspace(0, len(spans) - 1, count).round().astype(int))
        chosen = sorted({turn for i in picked for turn in range(*spans[i])})
        if sum(lengths[turn] for turn in chosen) <= words:
            return chosen
    return list(range(*spans[0]))


def clipped(turns: Sequence[str], chosen: Sequence[int], words: int | None) -> str:
    """The chosen turns, a line each; the last one is cut where it would exceed the budget."""
    lines: list[str] = []
    left = words
    for text in (turns[i] for i in chosen if turns[i]):
        parts = text.split()
        if left is not None and len(parts) > left:
            text = " ".join(parts[:left])
        if left is not None:
            left -= min(left, len(parts))
        if text:
            lines.append(text)
    return "\n".join(lines)
