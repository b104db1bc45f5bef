"""A file of questions in, a file of answers out: which stage gave each, and what it took.

Answers are appended as they come, so a stopped one goes on where it was.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from featherweight.cascade.asking import prompt_key
from featherweight.cascade.trace import Trace
from featherweight.engines.types import Generation, Prompt, Request
from featherweight.errors import DataError, OutputError
from featherweight.files import output_errors, write_atomic
from featherweight.rows import Row, read_rows, what

BEGINS = b'{"id":'  # every line
KEYS = {"id", "error", "attempts", "prompt_sha256", "run"}

Answered = tuple[Generation, Trace]
Answerer = Callable[[Iterable[Request]], Iterator[Answered]]


def read_questions(path: Path) -> dict[str, Prompt]:
    """Prompts by id: rows with `prompt` (text, or a list of messages) and `id` (else the place).

    Raises `DataError` with the line.
    """
    found: dict[str, Prompt] = {}
    for number, row in enumerate(read_rows(path), 1):
        name = row.key("id") if "id" in row.data else str(number)
        if name in found:
            raise DataError(f"{row.where}: the id {name!r} stands twice; give each its own.")
        found[name] = _prompt(row)
    if not found:
        raise DataError(f"{path}: no questions in it; write a row for each.")
    return found


def _prompt(row: Row) -> Prompt:
    value = row.data.get("prompt")
    if not isinstance(value, list):
        return row.text("prompt")
    roles = ("system", "user", "assistant")
    for message in value:
        kept = isinstance(message, dict) and message.get("role") in roles
        if not kept or not isinstance(message.get("content"), str):
            raise DataError(
                f"{row.where}: a message of 'prompt' is {what(message)} or incomplete; write "
                '{"role": "user", "content": "..."}.'
            )
    if not value:
        raise DataError(f"{row.where}: 'prompt' is an empty list; write a message.")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def answer_file(
    run: Mapping[str, Any],
    answer: Answerer,
    questions: Mapping[str, Prompt],
    output: Path,
    max_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Answer what `output` does not hold yet; all its rows, in its order.

    `run` says who answers and how (plain JSON), and stands in every row: a file of another run is
    not gone on with. A question whose prompt is another by now, or that failed, is asked again; its
    row stays until its new answer is there, which keeps what its failed attempts took. Raises
    `OutputError`, and `DataError` for a file that is no such output.
    """
    before = _before(output, run)
    hashes = {id: prompt_key(prompt) for id, prompt in questions.items()}
    rows = {  # what is asked no more stays as it is, so that what it took is not forgotten
        id: row
        for id, row in before.items()
        if id not in hashes or (row["error"] is None and hashes[id] == row["prompt_sha256"])
    }
    todo = [id for id in questions if id not in rows]
    paid = {
        id: before[id]["attempts"]
        for id in todo
        if id in before and before[id]["prompt_sha256"] == hashes[id]
    }
    if progress is not None:
        progress(len(questions) - len(todo), len(questions))
    with output_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        _write(output, before)  # without a last line that was cut off
        requests = (Request(questions[id], max_tokens=max_tokens) for id in todo)
        with output.open("ab") as file:
            for number, (id, (generation, trace)) in enumerate(
                zip(todo, answer(requests), strict=True), 1
            ):
                row = _row(id, generation, trace)
                row["attempts"] = [*paid.get(id, []), *row["attempts"]]
                rows[id] = {**row, "prompt_sha256": hashes[id], "run": dict(run)}
                file.write(orjson.dumps(rows[id]) + b"\n")
                file.flush()
                if progress is not None:
                    progress(len(questions) - len(todo) + number, len(questions))
        _write(output, rows)  # what was asked again had two rows till here
    return list(rows.values())


def _write(output: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows.values())
    if not output.exists() or output.read_bytes() != lines:
        write_atomic(output, lines)


def _row(id: str, generation: Generation, trace: Trace) -> dict[str, Any]:
    answered = trace.answered
    return {
        "id": id,
        "text": generation.text,
        "model": None if answered is None else answered.model,
        "stage": None if answered is None else answered.stage,
        "finish_reason": generation.finish_reason,
        "error": generation.error,
        "attempts": [asdict(attempt) for attempt in trace.attempts],
    }


def _is_row(row: Any) -> bool:
    """Whether it is a row that `_row` may have made."""
    if not isinstance(row, dict) or not row.keys() >= KEYS:
        return False
    types = {"id": str, "attempts": list, "prompt_sha256": str, "run": dict}
    return all(isinstance(row[name], kind) for name, kind in types.items())


def _before(output: Path, run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of an earlier session; a last line that was cut off is left out."""
    if not output.exists():
        return {}
    with output_errors(output):
        lines = output.read_bytes().split(b"\n")
    rows = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            if number == len(lines) and line[: len(BEGINS)] == BEGINS[: len(line)]:
                break  # no line end after it: cut off
            raise DataError(f"{output} line {number}: not JSON; choose another file.") from None
        if not _is_row(row):
            raise DataError(
                f"{output} line {number}: no answer of a cascade; choose another output."
            )
        if row["run"] != run:
            other = [key for key in run if row["run"].get(key) != run[key]]
            raise OutputError(
                f"{output} holds answers of another run ({', '.join(other) or 'other settings'} "
                "differ); choose another output."
            )
        rows[row["id"]] = row
    return rows
