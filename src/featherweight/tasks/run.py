"""Run a model over a task: every answer written as it comes, a stopped run continued.

Examples are sent longest first in one lazy stream, so that the engine always has a full batch of
like lengths and answers come back batch by batch.
"""

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from featherweight.engines.types import Engine, Generation, Request
from featherweight.errors import DataError, EngineError
from featherweight.evaluate.perplexity import CHUNK, chunks, rolling
from featherweight.files import write_atomic
from featherweight.tasks.choice import picked
from featherweight.tasks.store import REFERENCES, SOURCES, Store
from featherweight.tasks.types import Example, Task

Row = dict[str, Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left: its rows by example id, and the examples that failed with the reason.

    `lost` has what those took all the same: tokens, seconds and share of the run's wall time.
    """

    rows: Mapping[str, Row]
    failed: Mapping[str, str]
    lost: Mapping[str, Row] = field(default_factory=dict)


def run_task(
    task: Task,
    engine: Engine,
    store: Store,
    progress: Progress | None = None,
    top_logprobs: int = 0,
    no_repeat: int = 0,
) -> Outcome:
    """Answer what `store` does not hold yet; generated rows keep their log-probabilities.

    With `top_logprobs` also those of so many alternatives a token, largest first; `no_repeat` is
    that of the requests.
    One example that fails does not stop the others; it is not stored, so the next run tries it
    again. Raises `EngineError` where the engine cannot do what the task needs at all.
    """
    items = _chunked(task, engine) if task.name == "wikitext2-tokens" else task.examples
    todo = by_size([example for example in items if example.id not in store.rows])
    if task.kind == "summary":
        write_references(task, store.folder)
    failed: dict[str, str] = {}
    lost: dict[str, Row] = {}
    done = len(items) - len(todo)
    if progress is not None:
        progress(done, len(items))
    asked = Request("", task.max_tokens, top_logprobs=top_logprobs, no_repeat=no_repeat)
    answers = _answers(task, todo, engine, asked)
    last = time.perf_counter()
    for example, row in zip(todo, answers, strict=True):
        now = time.perf_counter()
        if "error" in row:
            failed[example.id] = row.pop("error")
            # where it comes first, the time of its whole batch has passed: the rest is the next's
            wall = min(row["seconds"], now - last)
            lost[example.id] = {**row, "wall": wall}
            last += wall
        else:
            # the share of the run's wall time, so that a run in several parts adds up
            group = {} if example.group is None else {"group": example.group}
            store.add({"id": example.id, **group, **row, "wall": now - last})
            last = now
        done += 1
        if progress is not None:
            progress(done, len(items))
    return Outcome(store.rows, failed, lost)


def prompt_sha256(example: Example) -> str:
    """Hash of what the model was asked."""
    return hashlib.sha256(orjson.dumps(example.prompt)).hexdigest()


def prompts_sha256(task: Task) -> str:
    """Hash of all that is asked, answers to choose among and texts to score included."""
    asked = [
        [e.id, e.prompt, e.choices, e.target if task.kind == "text" else ""] for e in task.examples
    ]
    return hashlib.sha256(orjson.dumps(asked)).hexdigest()


def write_references(task: Task, folder: Path) -> None:
    """Beside the predictions what they are scored against, for `featherweight score`.

    `references.jsonl` has the targets, `sources.jsonl` the whole texts where the task knows them.
    """
    rows = [
        {
            "id": example.id,
            "reference": example.target,
            "group": example.group or example.id,
            "general": example.meta.get("general") is True,
            **{k: example.meta[k] for k in ("query", "length", "human") if k in example.meta},
        }
        for example in task.examples
        if example.target is not None
    ]
    _write_rows(folder / REFERENCES, rows)
    if task.sources:
        sources = [{"group": group, "source": text} for group, text in task.sources.items()]
        _write_rows(folder / SOURCES, sources)


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    write_atomic(path, b"".join(orjson.dumps(row) + b"\n" for row in rows))


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "featherweight": metadata.version("featherweight"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


def _answers(
    task: Task, examples: Sequence[Example], engine: Engine, asked: Request
) -> Iterator[Row]:
    if task.kind == "text":
        return _texts(task, examples, engine)
    if task.kind == "choice" and not task.max_tokens:
        return _likelihoods(examples, engine)
    return _generated(task, examples, engine, asked)


def _generated(
    task: Task, examples: Sequence[Example], engine: Engine, asked: Request
) -> Iterator[Row]:
    requests = (replace(asked, prompt=example.prompt) for example in examples)
    for example, answer in zip(examples, engine.generate(requests), strict=True):
        if answer.error is not None:
            yield {"error": answer.error, **_usage(answer)}
            continue
        row = {
            "prediction": answer.text.strip(),
            "model": answer.model,
            "prompt_sha256": prompt_sha256(example),
            "date": datetime.now(UTC).date().isoformat(),
            **_usage(answer),
            **_logprobs(answer),
        }
        if task.kind == "choice":
            index = picked(answer.text, example.choices)
            right = index is not None and example.choices[index] == example.target
            row |= {"picked": index, "scores": {"accuracy": float(right)}}
        yield row


def _usage(answer: Generation) -> Row:
    return {
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": answer.seconds,
    }


def _logprobs(answer: Generation) -> Row:
    found: Row = {}
    if answer.token_logprobs is not None:
        found["token_logprobs"] = answer.token_logprobs
    if answer.top_logprobs is not None:
        found["top_logprobs"] = [
            sorted((one.logprob for one in token), reverse=True) for token in answer.top_logprobs
        ]
    return found


def _likelihoods(examples: Sequence[Example], engine: Engine) -> Iterator[Row]:
    pairs = ((e.prompt, f" {text.strip()}") for e in examples for text in e.choices)
    scored = engine.score(pairs)
    for example in examples:
        try:
            tokens = [next(scored) for _ in example.choices]
        except EngineError as error:
            if engine.params is not None:  # it is no server, which may not tell them
                raise
            hint = "or have the model name a choice with --how generation"
            raise EngineError(f"{str(error).rstrip('.')}, {hint}.") from error
        sums = np.array([sum(t) for t in tokens])
        lengths = np.array([len(text.strip()) for text in example.choices])
        best = {"accuracy": int(sums.argmax()), "accuracy_norm": int((sums / lengths).argmax())}
        right = {k: float(example.choices[i] == example.target) for k, i in best.items()}
        yield {
            "prediction": example.choices[best["accuracy"]],
            "picked": best["accuracy"],
            "scores": right,
            "logprobs": sums.tolist(),
            "prompt_tokens": engine.count_tokens(example.prompt) if engine.counts_tokens else 0,
            "completion_tokens": sum(map(len, tokens)),
        }


def _texts(task: Task, examples: Sequence[Example], engine: Engine) -> Iterator[Row]:
    if task.name == "wikitext2-tokens":
        known = task.settings.get("prefix") or 1
        rows = engine.score_tokens((example.meta["ids"] for example in examples), known=known)
        for tokens in rows:
            yield {
                "logprob": float(np.sum(tokens)),
                "tokens": len(tokens),
                "prompt_tokens": len(tokens) + known,
            }
        return
    texts = [example.target or "" for example in examples]
    for example, scored in zip(examples, rolling(engine, texts), strict=True):
        yield {
            "logprob": scored.logprob,
            "tokens": scored.tokens,
            "prompt_tokens": scored.tokens,
            "words": example.meta["words"],
            "bytes": example.meta["bytes"],
        }


def _chunked(task: Task, engine: Engine) -> tuple[Example, ...]:
    """Token chunks depend on the model's tokenizer, so they are cut here, not in the task."""
    [whole] = task.examples
    size, limit = min(CHUNK, engine.context_length), task.settings["limit"]
    prefix = task.settings.get("prefix") or 1
    if size <= prefix:
        raise DataError(
            f"a prefix of {prefix} leaves nothing of chunks of {size} tokens to be scored; lower "
            "--prefix."
        )
    return tuple(
        Example(f"{whole.id}/{size}-{number}", "", meta={"ids": ids})
        for number, ids in enumerate(chunks(engine, whole.target or "", size)[:limit])
    )


def by_size(examples: Sequence[Example]) -> list[Example]:
    """Longest first, as they are sent."""
    return sorted(examples, key=_size, reverse=True)


def _size(example: Example) -> int:
    """Characters to read: near enough to tokens for sorting."""
    if isinstance(example.prompt, str):
        asked = len(example.prompt)
    else:
        asked = sum(len(message["content"]) for message in example.prompt)
    return asked + (len(example.target or "") if not example.choices else 0)
