"""The rule of a cascade as a JSON file (docs/cascade-rule.md, docs/deferral-rule.schema.json).

It holds numbers only, so reading one runs nobody's code; what does not belong in it is refused with
its place.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any, cast, get_args

import orjson

from featherweight.cascade.learned import Learned
from featherweight.cascade.reader import AGAIN, Reader
from featherweight.cascade.rule import Decoding, DeferralRule, StageRule, alternatives
from featherweight.cascade.scores import Score
from featherweight.cascade.types import Metric, Threshold
from featherweight.engines.load import Kind
from featherweight.errors import CascadeError
from featherweight.files import write_atomic

VERSION = 1
DEEPEST = 50  # of what is only kept for people
STAGE = "model engine identity template_sha256 dtype decoding max_tokens top_logprobs".split()
DTYPES = ("float32", "bfloat16")
EQUAL = "one request goes to all, so make them equal"
PROMISES = ("budget", "quality", "cost")


def write_rule(path: Path, rule: DeferralRule) -> None:
    """Write `rule` as JSON.

    Raises `CascadeError` for a rule that `read_rule` would refuse, `OutputError` where the file
    cannot be written.
    """
    data = rule_json(rule)
    rule_from(data, str(path))  # before it is JSON, where NaN would have become null
    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
    write_atomic(path, orjson.dumps(data, option=option) + b"\n")


def read_rule(path: Path) -> DeferralRule:
    """The rule in a file; raises `CascadeError`, with the place, for anything that is not one."""
    try:
        data = orjson.loads(path.read_bytes())
    except OSError as error:
        raise CascadeError(f"cannot read {path}: {error.strerror or error}; {AGAIN}.") from None
    except orjson.JSONDecodeError as error:
        raise CascadeError(
            f"{path} is not JSON ({error}), which knows no NaN and no infinity; {AGAIN}."
        ) from None
    return rule_from(data, str(path))


def rule_json(rule: DeferralRule) -> dict[str, Any]:
    """`rule` as plain JSON data."""
    return {
        "version": VERSION,
        "stages": [_stage_json(stage) for stage in rule.stages],
        "metric": {
            "name": rule.metric.name,
            "low": float(rule.metric.low),
            "high": float(rule.metric.high),
        },
        "promise": dict(rule.promise),
        "n": rule.n,
        "groups": rule.groups,
        "data_sha256": rule.data_sha256,
        "curve": [dict(point) for point in rule.curve],
    }


def _stage_json(stage: StageRule) -> dict[str, Any]:
    score, threshold = stage.score, stage.threshold
    return {
        "model": stage.model,
        "engine": stage.engine,
        "identity": dict(stage.identity),
        "template_sha256": stage.template_sha256,
        "dtype": stage.dtype,
        "decoding": {
            "temperature": stage.decoding.temperature,
            "stop": list(stage.decoding.stop),
        },
        "max_tokens": stage.max_tokens,
        "top_logprobs": stage.top_logprobs,
        "score": score.to_json() if isinstance(score, Learned) else score and str(score),
        "threshold": threshold and asdict(threshold),
    }


# ---- reading


def rule_from(data: object, where: str) -> DeferralRule:
    """The rule in plain JSON data; `where` begins the place that an error names."""
    top = Reader(data, where)
    if top.data.get("version") != VERSION or top.data["version"] is True:
        raise CascadeError(
            f"{where}: its version is {top.data.get('version')!r}, but this program reads "
            f"version {VERSION}; install the featherweight that wrote it, or {AGAIN}."
        )
    top.keys(*"version stages metric promise n groups data_sha256 curve".split())
    parts = list(top.parts("stages"))
    if len(parts) < 2:
        raise top.wrong("stages", f"has {len(parts)}", "a cascade has two or more")
    stages = tuple(read_stage(part, last=part is parts[-1]) for part in parts)
    for part, stage in zip(parts, stages, strict=True):
        if stage.decoding != stages[0].decoding:
            raise part.wrong("decoding", "differs from stage 0's", EQUAL)
        if stage.max_tokens != stages[0].max_tokens:
            raise part.wrong("max_tokens", "differs from stage 0's", EQUAL)
    promise = top.part("promise")
    kind = promise.one_of("kind", PROMISES)
    _plain(promise.data, promise.where)
    if kind == "quality":
        promise.within("epsilon", 0)
        promise.within("delta", 0, 1)
    curve = tuple(point.data for point in top.parts("curve"))
    _plain(list(curve), f"{where}.curve")
    groups = top.count("groups", 1)
    return DeferralRule(
        stages,
        _metric(top.part("metric")),
        promise.data,
        top.count("n", groups),
        groups,
        top.sha256("data_sha256"),
        curve,
    )


def read_stage(part: Reader, last: bool) -> StageRule:
    """One stage; raises `CascadeError` with the place of what is wrong."""
    part.keys(*STAGE, "score", "threshold")
    engine = cast(Kind, part.one_of("engine", get_args(Kind)))
    identity = part.part("identity")
    identity.text("spec")
    _plain(identity.data, identity.where)
    if engine != "openai":  # a server tells no weights; all others are known by theirs
        identity.sha256("weights")
    decoding = part.part("decoding")
    decoding.keys("temperature", "stop")
    score, threshold, template = (part.data[k] for k in ("score", "threshold", "template_sha256"))
    found: Score | Learned | None = None
    if last:
        for name in ("score", "threshold"):
            if part.data[name] is not None:
                raise part.wrong(name, "is there", "the last stage passes nothing on, write null")
    else:
        for name in ("score", "threshold"):
            if part.data[name] is None:
                raise part.wrong(name, "is null", "only the last stage has none, so calibrate")
        found = _score(part, score)
    top_logprobs = part.count("top_logprobs", 0 if found is None else alternatives(found))
    return StageRule(
        model=part.text("model"),
        engine=engine,
        identity=identity.data,
        template_sha256=None if template is None else part.sha256("template_sha256"),
        max_tokens=part.count("max_tokens", 1),
        dtype=None if part.data["dtype"] is None else part.one_of("dtype", DTYPES),
        decoding=Decoding(decoding.within("temperature", 0), decoding.texts("stop")),
        top_logprobs=top_logprobs,
        score=found,
        threshold=None if threshold is None else _threshold(part.part("threshold")),
    )


def _score(part: Reader, data: object) -> Score | Learned:
    if not isinstance(data, str):
        return Learned.from_json(data, f"{part.where}.score")
    try:
        return Score.parse(data)
    except CascadeError as error:
        raise CascadeError(f"{part.where}.score: {error}") from None


def _threshold(part: Reader) -> Threshold:
    part.keys("value", "tie", "seed")
    value = part.number("value")
    return Threshold(value, part.within("tie", 0, 1), part.count("seed", 0))


def _metric(part: Reader) -> Metric:
    part.keys("name", "low", "high")
    low, high = part.number("low"), part.number("high")
    if not low < high:
        raise part.wrong(
            "high", f"is {high:g}, not above low ({low:g})", "write the metric's range"
        )
    if not math.isfinite(high - low):
        raise part.wrong("high", f"is too far above low ({low:g})", "write the metric's range")
    return Metric(part.text("name"), low, high)


def _plain(value: object, where: str, depth: int = 0) -> None:
    """Raise `CascadeError` unless `value` is JSON data without NaN and infinity."""
    if depth > DEEPEST:
        place = where.partition("[")[0][:300]
        raise CascadeError(f"{place} is nested more than {DEEPEST} deep; {AGAIN}.")
    if isinstance(value, Mapping):
        for name, item in value.items():
            _plain(item, f"{where}.{name}", depth + 1)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _plain(item, f"{where}[{number}]", depth + 1)
    elif isinstance(value, Real):
        if not math.isfinite(value):
            raise CascadeError(f"{where} is {value}, not a finite number; {AGAIN}.")
    elif value is not None and not isinstance(value, str):
        raise CascadeError(f"{where} is of type {type(value).__name__}; write plain numbers.")
