"""The user's own rows as a task: JSON lines, CSV or Parquet, .gz too.

| column | holds | needed |
| --- | --- | --- |
| `prompt` | text, or a list of {role, content} messages | always |
| `id` | text or whole number, each once | in every row or in none: then rows are numbered from 1 |
| `target` or `reference` | the good answer | no |
| `group` or `meeting_id` | what belongs together (the meeting) | no |
| `choices`, `answer` | a list of texts, and the right one's index from 0 | for multiple choice |

Where a format has no lists (CSV), lists are written as JSON. Other columns go to `meta`. A prompt
is used as it is: no template is put around it, but for choices that are to be named by generation,
which follow it with letters.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from featherweight.engines.types import Message, Prompt
from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.rows import Row, read_rows, what
from featherweight.tasks.choice import MAX_TOKENS as CHOICE_TOKENS
from featherweight.tasks.choice import How, ask
from featherweight.tasks.types import Example, Task

ROLES = ("system", "user", "assistant")
TARGET, GROUP = ("target", "reference"), ("group", "meeting_id")
MAX_TOKENS = 256
COLUMNS = frozenset({"id", "prompt", "choices", *TARGET, *GROUP})


def own_task(path: Path, limit: int | None = None, how: How = "loglikelihood") -> Task:
    """The rows of a file, or its first `limit` rows, as a task.

    Its kind is choice where rows have choices, else summary. `settings["rows"]` counts the rows
    taken. Raises `DataError` for a file or a row that is not as described above; rows after
    `limit` are not looked at.
    """
    rows = list(islice(read_rows(path), limit))
    if not rows:
        raise DataError(f"{path} has no rows; write one example a row.")
    choice = _has(rows[0], "choices")
    scored = _named(rows[0], TARGET) is not None
    for row in rows:
        if _has(row, "choices") != choice:
            raise DataError(
                f"{row.where}: it has {'no' if choice else 'the'} column 'choices', unlike "
                f"{rows[0].where}; put multiple choice in a file of its own."
            )
        if not choice and (_named(row, TARGET) is not None) != scored:
            raise DataError(
                f"{row.where}: it has {'no' if scored else 'a'} target, unlike {rows[0].where}; "
                "give every row one, or none."
            )
    make = _choice if choice else _summary
    examples = tuple(make(row, id) for row, id in zip(rows, _ids(rows), strict=True))
    settings = {"file": path.name, "sha256": sha256(path), "rows": len(rows)}
    if not choice:
        return Task(path.name, "summary", examples, MAX_TOKENS, settings)
    settings["how"] = how
    if how == "loglikelihood":
        return Task(path.name, "choice", examples, 0, settings)
    lettered = tuple(replace(example, prompt=_lettered(example)) for example in examples)
    return Task(path.name, "choice", lettered, CHOICE_TOKENS, settings)


def _lettered(example: Example) -> Prompt:
    """The choices with letters, after the question; messages are asked in their last one."""
    if isinstance(example.prompt, str):
        return ask(example.prompt, example.choices)
    *before, last = example.prompt
    [asked] = ask(last["content"], example.choices)
    return [*before, Message(role=last["role"], content=asked["content"])]


def _summary(row: Row, id: str) -> Example:
    return Example(id, _prompt(row), _target(row), _group(row), meta=_meta(row))


def _choice(row: Row, id: str) -> Example:
    choices, target = row.choices("choices"), _target(row)
    answer = row.index("answer", len(choices))
    if target is not None and target.strip() != choices[answer].strip():
        raise DataError(
            f"{row.where}: the target is not choice {answer}, which 'answer' names; correct one "
            "or leave the target out."
        )
    meta = _meta(row) | {"answer": answer}
    return Example(id, _prompt(row), choices[answer], _group(row), choices, meta)


def _ids(rows: Sequence[Row]) -> list[str]:
    """Every row's identifier, each once; numbers from 1 where no row has one."""
    named = next((row for row in rows if _has(row, "id")), None)
    if named is None:
        return [str(number) for number in range(1, len(rows) + 1)]
    places: dict[str, str] = {}
    for row in rows:
        if not _has(row, "id"):
            raise DataError(
                f"{row.where}: it has no 'id', unlike {named.where}; give every row one, or none."
            )
        id = row.key("id")
        if id in places:
            raise DataError(
                f"{row.where}: the id {id!r} stands at {places[id]} too; give each row its own."
            )
        places[id] = row.where
    return list(places)


def _prompt(row: Row) -> Prompt:
    value = row.data.get("prompt")
    if isinstance(value, str):
        # a cell of CSV can hold messages only as JSON; other text in brackets is just text
        parsed = _parsed(value)
        if isinstance(parsed, list) and any(isinstance(m, dict) and "role" in m for m in parsed):
            value = parsed
    if not isinstance(value, list):
        return row.text("prompt")
    if not value:
        raise DataError(f"{row.where}: 'prompt' is an empty list; write its messages.")
    return [_message(row, number, message) for number, message in enumerate(value, 1)]


def _message(row: Row, number: int, message: object) -> Message:
    where = f"{row.where}: message {number} of 'prompt'"
    if not isinstance(message, dict):
        raise DataError(f"{where} is {what(message)}; write an object with role and content.")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise DataError(f"{where} has the role {role!r}; write one of {', '.join(ROLES)}.")
    if not isinstance(content, str):
        raise DataError(f"{where}: its content is {what(content)}; write text.")
    if not content.strip():
        raise DataError(f"{where} is empty; fill it in or take it out.")
    # Parquet gives every message all keys, empty ones too
    more = [key for key in message if key not in ("role", "content") and message[key] is not None]
    if more:
        raise DataError(f"{where} has the key {more[0]!r} too; keep role and content alone.")
    return Message(role=role, content=content)


def _target(row: Row) -> str | None:
    name = _named(row, TARGET)
    return None if name is None else row.text(name)


def _group(row: Row) -> str | None:
    name = _named(row, GROUP)
    return None if name is None else row.key(name)


def _meta(row: Row) -> dict[str, Any]:
    meta = {name: value for name, value in row.data.items() if name not in COLUMNS}
    return meta | {"general": row.flag("general")} if "general" in meta else meta


def _named(row: Row, names: tuple[str, ...]) -> str | None:
    """Which of the synonyms this row fills in."""
    there = [name for name in names if _has(row, name)]
    if len(there) > 1:
        raise DataError(f"{row.where}: both {' and '.join(map(repr, there))}; keep one.")
    return there[0] if there else None


def _has(row: Row, name: str) -> bool:
    """Whether the row fills a column in: null and a blank cell are how tables say "nothing"."""
    value = row.data.get(name)
    return value is not None and not (isinstance(value, str) and not value.strip())


def _parsed(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
