"""The log of a cascade: what every stage answered, one question a line (docs/cascade-log.md).

The reader is strict: a log that is wrong in one line gives thresholds that are wrong for good.
"""

import gzip
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import orjson

from featherweight.cascade.tokens import ROUNDING
from featherweight.cascade.types import SPLITS, Answer, Log, Metric, Row
from featherweight.errors import DataError
from featherweight.files import sha256, write_atomic
from featherweight.rows import Row as Line
from featherweight.rows import read_rows, what

FORMAT, VERSION = "featherweight-cascade-log", 1
HEADER = ("format", "version", "metric", "models", "rows")
ROW = ("id", "group", "split", "stages", "prompt_sha256")
STAGE = (
    "model text quality token_logprobs usage seconds flops usd margins entropies ended error"
).split()
USAGE = ("prompt_tokens", "completion_tokens")


def read_log(path: Path) -> Log:
    """The log in a file of JSON lines, gzip or not.

    Raises `DataError`, with the line, for all that docs/cascade-log.md rules out.
    """
    lines = read_rows(path)
    first = next(lines, None)
    if first is None or first.data.get("format") != FORMAT:
        raise DataError(
            f'{path}: its first line is no header with "format": "{FORMAT}"; make the log with '
            "`featherweight cascade log`."
        )
    metric, models = _metric(first), _models(first)
    rows = []
    seen: dict[str, str] = {}  # ids and where they stand
    splits: dict[str, tuple[str, str]] = {}  # groups: their split and where it was said
    for line in lines:
        row = _row(line, metric, models)
        if row.id in seen:
            raise DataError(
                f"{line.where}: the id {row.id!r} also stands at {seen[row.id]}; give each "
                "question its own."
            )
        seen[row.id] = line.where
        split, where = splits.setdefault(row.group, (row.split, line.where))
        if split != row.split:
            raise DataError(
                f"{line.where}: the group {row.group!r} is in {row.split!r}, but in {split!r} at "
                f"{where}; put all of a group's rows into one split."
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no rows below the header; log some questions.")
    count = first.data.get("rows", len(rows))
    if count != len(rows):
        raise DataError(
            f"{path}: its header says {_shown(count)} rows, {len(rows):,} are here; copy the whole "
            "log, or take 'rows' out of the header if it was cut on purpose."
        )
    extra = {key: value for key, value in first.data.items() if key not in HEADER}
    return Log(metric, models, tuple(rows), sha256(path), extra)


def write_log(log: Log, path: Path) -> None:
    """Write `log` to `path`, packed where the name ends in `.gz`; equal logs make equal bytes.

    Raises `OutputError` where that fails, `DataError` as `row_json` does.
    """
    extra = {**log.extra, "rows": len(log.rows)}
    lines = [header_json(log.metric, log.models, extra), *map(row_json, log.rows)]
    data = "".join(line + "\n" for line in lines).encode()
    write_atomic(path, gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)


def header_json(metric: Metric, models: Sequence[str], extra: Mapping[str, Any] = {}) -> str:
    """The log's first line, without its end; `extra` holds further keys (engines' identities)."""
    fixed = {
        "format": FORMAT,
        "version": VERSION,
        "metric": {"name": metric.name, "low": metric.low, "high": metric.high},
        "models": list(models),
    }
    return orjson.dumps({**fixed, **extra, **fixed}).decode()


def row_json(row: Row) -> str:
    """One row as a line of JSON, without its end.

    Raises `DataError` for a number that is not finite: JSON has none, and null means "not known".
    """
    stages = [_stage_data(answer) for answer in row.stages]
    for number, stage in enumerate(stages):
        for key, value in stage.items():
            if not all(map(math.isfinite, _numbers(value))):
                raise DataError(
                    f"row {row.id!r}: {key!r} of stage {number} is not a finite number; write "
                    "what is not known as None."
                )
    data = {"id": row.id, "group": row.group, "split": row.split, "stages": stages}
    prompt = {} if row.prompt_sha256 is None else {"prompt_sha256": row.prompt_sha256}
    return orjson.dumps(data | prompt).decode()


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, tuple) else (value,)
    return [number for number in values if isinstance(number, float)]


def _stage_data(answer: Answer) -> dict[str, Any]:
    data: dict[str, Any] = {
        "model": answer.model,
        "text": answer.text,
        "quality": answer.quality,
        "token_logprobs": answer.token_logprobs,
        "usage": {key: getattr(answer, key) for key in USAGE},
        "seconds": answer.seconds,
        "flops": answer.flops,
        "usd": answer.usd,
    }
    optional = ("margins", "entropies", "ended", "error")
    return data | {k: v for k in optional if (v := getattr(answer, k)) not in (None, False)}


# ---- reading


def _metric(line: Line) -> Metric:
    version, metric = line.data.get("version"), line.data.get("metric")
    if version != VERSION or isinstance(version, bool):
        raise DataError(
            f"{line.where}: version {version!r} of the log; this program reads version {VERSION}."
        )
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise DataError(
            f'{line.where}: no metric; write {{"name": "rouge1", "low": 0, "high": 100}}.'
        )
    low, high = metric.get("low"), metric.get("high")
    if not (_is_number(low) and _is_number(high) and 0 < high - low < math.inf):
        raise DataError(
            f"{line.where}: the metric's low and high are no range; write two numbers, low < high."
        )
    return Metric(metric["name"], float(low), float(high))


def _models(line: Line) -> tuple[str, ...]:
    models = line.data.get("models")
    if not isinstance(models, list) or not all(isinstance(m, str) and m.strip() for m in models):
        raise DataError(f"{line.where}: 'models' is {what(models)}; write the stages' names.")
    if len(models) < 2:
        raise DataError(f"{line.where}: {len(models)} in 'models'; a cascade has two or more.")
    return tuple(models)


def _row(line: Line, metric: Metric, models: Sequence[str]) -> Row:
    _only(line.data, ROW, line.where)
    split = line.text("split")
    if split not in SPLITS:
        raise DataError(f"{line.where}: unknown split {split!r}; write {_or(SPLITS)}.")
    stages = line.data.get("stages")
    if not isinstance(stages, list):
        raise DataError(f"{line.where}: 'stages' is {what(stages)}; write one answer a model.")
    if len(stages) != len(models):
        raise DataError(
            f"{line.where}: {len(stages)} stages, but the header names {len(models)} models; log "
            "every question with all of them."
        )
    answers = []
    for number, (stage, model) in enumerate(zip(stages, models, strict=True)):
        where = f"{line.where}, stage {number}"
        if not isinstance(stage, dict):
            _fail(where, f"it is {what(stage)}", "write an object")
        answers.append(_answer(Line(stage, where), metric, model))
    prompt = line.data.get("prompt_sha256")
    if prompt is not None and not re.fullmatch("[0-9a-f]{64}", str(prompt)):
        _fail(line.where, "'prompt_sha256' is no sha256", "write 64 hexadecimal digits or null")
    return Row(line.key("id"), line.key("group"), split, tuple(answers), prompt)


def _answer(stage: Line, metric: Metric, model: str) -> Answer:
    data, where = stage.data, stage.where
    _only(data, STAGE, where)
    error = data.get("error")
    if error is not None:
        error = stage.text("error")
    if stage.text("model") != model:
        _fail(where, f"the model is {data['model']!r}", f"the header says {model!r}, correct one")
    usage = data.get("usage")
    if not isinstance(usage, dict):
        _fail(where, f"'usage' is {what(usage)}", "write an object with " + " and ".join(USAGE))
    _only(usage, USAGE, where)
    counts = []
    for key in USAGE:
        count = usage.get(key)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            _fail(where, f"{key!r} is {_shown(count)}", "write a whole number from 0")
        counts.append(count)
    ended = data.get("ended", False)
    if not isinstance(ended, bool):
        _fail(where, f"'ended' is {what(ended)}", "write true or false")
    logprobs = _list(stage, "token_logprobs")
    if logprobs and max(logprobs) > ROUNDING:  # engines round, but a probability is no rounding
        _fail(where, f"'token_logprobs' holds {max(logprobs)}", "write natural logs, at most 0")
    lists = {key: _list(stage, key) for key in ("margins", "entropies")}
    for key, found in lists.items():
        if found is not None and (logprobs is None or len(found) != len(logprobs)):
            _fail(where, f"{key!r} does not go with 'token_logprobs'", "write one number a token")
    return Answer(
        model=model,
        text=""
        if error is not None and data.get("text") is None
        else stage.text("text", empty=True),
        quality=_quality(stage, metric, error),
        token_logprobs=logprobs,
        margins=lists["margins"],
        entropies=lists["entropies"],
        ended=ended,
        prompt_tokens=counts[0],
        completion_tokens=counts[1],
        seconds=_cost(stage, "seconds") or 0.0,
        flops=_cost(stage, "flops"),
        usd=_cost(stage, "usd"),
        error=error,
    )


def _quality(stage: Line, metric: Metric, error: str | None) -> float | None:
    value = stage.data.get("quality")
    if value is None and error is not None:
        return None
    if error is not None:
        _fail(stage.where, "it has an error and a quality", "take one out")
    if not _is_number(value):
        _fail(stage.where, f"'quality' is {what(value)}", f"write its {metric.name}")
    if not metric.low <= value <= metric.high:
        _fail(
            stage.where,
            f"the quality {value:g} is outside {metric.name}'s {metric.low:g} to {metric.high:g}",
            "correct it or the header's range",
        )
    return float(value)


def _cost(stage: Line, key: str) -> float | None:
    value = stage.data.get(key)
    if value is None and key != "seconds":
        return None
    if not _is_number(value) or value < 0:
        _fail(stage.where, f"{key!r} is {_shown(value)}", "write a number from 0")
    return float(value)


def _list(stage: Line, key: str) -> tuple[float, ...] | None:
    values = stage.data.get(key)
    if values is None:
        return None
    if not isinstance(values, list):
        _fail(stage.where, f"{key!r} is {what(values)}", "write a list of numbers or null")
    for value in values:
        if not _is_number(value):
            _fail(stage.where, f"{key!r} holds {what(value)}", "write numbers only")
    return tuple(map(float, values))


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and math.isfinite(value)


def _only(data: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    unknown = [name for name in data if name not in names]
    if unknown:
        _fail(where, f"unknown {unknown[0]!r}", f"known are {_or(names)}; take it out")


def _or(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _shown(value: Any) -> str:
    return str(value) if _is_number(value) else what(value)


def _fail(where: str, wrong: str, advice: str) -> NoReturn:
    raise DataError(f"{where}: {wrong}; {advice}.")
