"""The rule file: there and back, by its schema, and what is wrong with one, named by its place."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from featherweight.cascade.learned import Boosting, Learned, Linear, Tree
from featherweight.cascade.rule import Decoding, DeferralRule, StageRule, alternatives
from featherweight.cascade.rule_file import read_rule, rule_json, write_rule
from featherweight.cascade.scores import Score
from featherweight.cascade.tokens import FEATURES
from featherweight.cascade.types import Metric, Threshold
from featherweight.errors import CascadeError, OutputError

A, B = "a" * 64, "b" * 64
SIGNS = tuple(1 if name != "length" else 0 for name in FEATURES)
BOOSTING = Learned(
    "gain",
    Boosting(
        0.25, (Tree((11, -1, -1), (-0.7, 0.0, 0.0), (1, -1, -1), (2, -1, -1), (0.0, -0.1, 0.2)),)
    ),
    SIGNS,
    ((-0.5, 0.1), (0.0, 1.0)),
    end=False,
)
LINEAR = Learned("right", Linear(0.1, (0.5,) * 14, (0.0,) * 14, (2.0,) * 14), (1,) * 14)


def stage(score: str | Learned | None, **changes: Any) -> StageRule:
    found = Score.parse(score) if isinstance(score, str) else score
    known: dict[str, Any] = {
        "model": "hf:small",
        "engine": "hf",
        "identity": {"spec": "hf:small", "weights": A, "config": B, "tokenizer": A},
        "template_sha256": B,
        "dtype": "bfloat16",
        "max_tokens": 64,
        "decoding": Decoding(0.0, ("\n",)),
        "top_logprobs": alternatives(found) if found else 0,
        "score": found,
        "threshold": Threshold(-0.123456789012345678, 0.25, 7) if found else None,
    }
    return StageRule(**known | changes)


SERVER = stage(
    None,
    model="openai:http://gpu:8000/v1#big",
    engine="openai",
    identity={"spec": "openai:http://gpu:8000/v1#big", "weights": None, "note": "by URL and name"},
    template_sha256=None,
    dtype=None,
)


def rule(*stages: StageRule) -> DeferralRule:
    return DeferralRule(
        stages=stages or (stage("quantile:0.2"), SERVER),
        metric=Metric("rouge1", 0, 100),
        promise={"kind": "quality", "epsilon": 2.0, "delta": 0.05, "test": "betting"},
        n=280,
        groups=35,
        data_sha256=A,
        curve=(
            {"threshold": -0.5, "deferral": 0.0, "quality": 21.5, "quality_ci95": [20.0, 23.0]},
            {"threshold": None, "deferral": 1.0, "quality": 25.0, "quality_ci95": None},
        ),
    )


RULES = {
    "quantile": rule(),
    "margin": rule(stage("margin,no-end"), SERVER),
    "entropy": rule(stage("entropy"), SERVER),
    "boosting": rule(stage(BOOSTING), SERVER),
    "linear": rule(stage(LINEAR), stage("min"), SERVER),
    "budget": replace(rule(), promise={"kind": "budget", "deferral": 0.3}, curve=()),
    "embedded": rule(stage("mean", engine="embedded", model="smollm2-135m"), SERVER),
}


@pytest.fixture(scope="module")
def schema(root: Path) -> Draft202012Validator:
    found = json.loads((root / "docs" / "deferral-rule.schema.json").read_bytes())
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


@pytest.mark.parametrize("name", RULES)
def test_there_and_back(tmp_path: Path, schema: Draft202012Validator, name: str) -> None:
    path = tmp_path / "new" / "rule.json"
    write_rule(path, RULES[name])
    schema.validate(json.loads(path.read_bytes()))
    again = read_rule(path)
    assert again == RULES[name]  # every bit of every number
    written = path.read_bytes()
    write_rule(path, again)
    assert path.read_bytes() == written


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rule.json"
    threshold = Threshold(np.float64(-0.5), np.float64(0.25), 7)  # type: ignore[arg-type]
    write_rule(path, rule(stage("mean", threshold=threshold), SERVER))
    assert read_rule(path).stages[0].threshold == Threshold(-0.5, 0.25, 7)


def test_how_many_alternatives_a_score_reads() -> None:
    assert [alternatives(s) for s in map(Score.parse, ("mean", "min", "margin", "entropy"))] == [
        *(0, 0, 2, 2)
    ]
    assert alternatives(LINEAR) == 0


def changed(place: str, value: Any) -> dict[str, Any]:
    """A good rule with one place changed; `...` takes it out."""
    data = copy.deepcopy(rule_json(rule()))
    at: Any = data
    *path, last = [int(p) if p.isdigit() else p for p in place.split(".")]
    for part in path:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return data


WRONG: list[tuple[str, Any, str]] = [
    ("version", 2, r"its version is 2, but this program reads version 1; install the"),
    ("version", ..., r"its version is None"),
    ("version", True, r"its version is True"),
    ("stages", [], r"stages has 0; a cascade has two or more"),
    ("stages", {}, r"stages is an object; write a list"),
    ("stages.0", 1, r"stages\[0\] is 1, no object"),
    ("stages.0.score", None, r"stages\[0\].score is null; only the last stage has none"),
    ("stages.0.threshold", None, r"stages\[0\].threshold is null; only the last"),
    ("stages.0.threshold", ..., r"stages\[0\] has no 'threshold'"),
    ("stages.1.score", "mean", r"stages\[1\].score is there; the last stage passes nothing on"),
    ("stages.0.score", "max", r"stages\[0\].score: there is no score 'max'; choose sum, mean"),
    ("stages.0.score", {"kind": "x"}, r"stages\[0\].score has no 'target'"),
    ("stages.0.score", 3, r"stages\[0\].score is 3, no object"),
    ("stages.0.score", "margin", r"stages\[0\].top_logprobs is 0; write a whole number from 2"),
    ("stages.0.threshold.value", math.nan, r"threshold.value is nan; write a finite number"),
    ("stages.0.threshold.value", None, r"threshold.value is null; write a finite number"),
    ("stages.0.threshold.tie", 1.5, r"threshold.tie is 1.5; write a number from 0 to 1"),
    ("stages.0.threshold.seed", -1, r"threshold.seed is -1; write a whole number from 0"),
    ("stages.0.model", "", r"stages\[0\].model is no text"),
    ("stages.0.engine", "vllm", r"stages\[0\].engine is 'vllm'; write embedded or gguf or hf or"),
    ("stages.0.engine", [], r"stages\[0\].engine is a list"),
    ("stages.0.identity", None, r"stages\[0\].identity is null, no object"),
    ("stages.0.identity.weights", None, r"stages\[0\].identity.weights is no sha256"),
    ("stages.0.identity.spec", ..., r"stages\[0\].identity.spec is no text"),
    ("stages.0.template_sha256", "abc", r"template_sha256 is no sha256"),
    ("stages.0.dtype", "bf16", r"stages\[0\].dtype is 'bf16'; write float32 or bfloat16"),
    ("stages.0.dtype", ..., r"stages\[0\] has no 'dtype'"),
    ("stages.0.decoding.temperature", -1, r"decoding.temperature is -1; write a number from 0"),
    ("stages.0.decoding.temperature", 0.7, r"stages\[1\].decoding differs from stage 0's"),
    ("stages.0.decoding.stop", "\n", r"decoding.stop is no list of texts"),
    ("stages.0.max_tokens", 4, r"stages\[1\].max_tokens differs from stage 0's"),
    ("stages.0.max_tokens", 0, r"max_tokens is 0; write a whole number from 1"),
    ("stages.0.max_tokens", 2.5, r"max_tokens is 2.5; write a whole number"),
    ("stages.0.more", 1, r"stages\[0\] has an unknown 'more'"),
    ("more", 1, r"has an unknown 'more'"),
    ("metric.high", 0, r"metric.high is 0, not above low \(0\)"),
    ("metric.low", math.inf, r"metric.low is inf; write a finite number"),
    ("metric", {"name": "f1", "low": -1e308, "high": 1e308}, r"metric.high is too far above low"),
    ("promise.kind", "quantity", r"promise.kind is 'quantity'; write budget or quality or cost"),
    ("promise.delta", 2, r"promise.delta is 2; write a number from 0 to 1"),
    ("promise.epsilon", ..., r"promise.epsilon is missing"),
    ("promise.extra", {"a": [math.nan]}, r"promise.extra.a\[0\] is nan, not a finite number"),
    ("curve.1.quality", math.nan, r"curve\[1\].quality is nan, not a finite number"),
    ("curve.0", [1], r"curve\[0\] is a list, no object"),
    ("groups", 0, r"groups is 0; write a whole number from 1"),
    ("n", 3, r"n is 3; write a whole number from 35"),
    ("data_sha256", A.upper(), r"data_sha256 is no sha256"),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, place: str, value: Any, message: str) -> None:
    path = tmp_path / "rule.json"
    path.write_text(json.dumps(changed(place, value), allow_nan=True))
    nan = "nan" in message or "inf" in message
    expected = "is not JSON" if nan else message
    with pytest.raises(CascadeError, match=expected) as caught:
        read_rule(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and said.endswith(".") and "\n" not in said
    assert any(advice in said for advice in ("again", "write", "choose"))


def test_nothing_is_written_that_could_not_be_read(tmp_path: Path) -> None:
    """In JSON NaN would become null, and a rule without a threshold."""
    path = tmp_path / "rule.json"
    nan, good = math.nan, rule()
    bad: dict[str, DeferralRule] = {
        "threshold.value is nan": rule(stage("mean", threshold=Threshold(nan)), SERVER),
        "threshold.value is inf": rule(stage("mean", threshold=Threshold(math.inf)), SERVER),
        r"curve\[0\].quality is nan": replace(good, curve=({"quality": nan},)),
        r"promise.budget is nan": replace(good, promise={"kind": "budget", "budget": nan}),
        r"curve\[0\].x is of type object": replace(good, curve=({"x": object()},)),
        "stages has 1": rule(SERVER),
        r"stages\[0\].threshold is null": rule(stage("mean", threshold=None), SERVER),
    }
    for message, wrong in bad.items():
        with pytest.raises(CascadeError, match=message):
            write_rule(path, wrong)
    assert not path.exists()


def test_files_that_are_no_rule(tmp_path: Path) -> None:
    path = tmp_path / "rule.json"
    with pytest.raises(CascadeError, match=r"cannot read .*rule.json: No such file.*calibrate"):
        read_rule(path)
    for text, message in (
        ("", "is not JSON"),
        ('{"version": 1', "is not JSON"),
        ("[]", "is a list, no object"),
        ('{"version": 1e999}', "version|not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(CascadeError, match=message):
            read_rule(path)
    with pytest.raises(OutputError):
        write_rule(path / "below" / "rule.json", rule())


BEYOND = (  # what hangs on two places, or on which stage is the last
    "only the last",
    "the last stage passes",
    "from 2",
    "differs from stage 0",
    "not above low",
    "too far above low",
    "from 35",
)


def test_the_schema_refuses_what_the_reader_refuses(schema: Draft202012Validator) -> None:
    assert schema.is_valid(changed("n", 300))
    for place, value, message in WRONG:
        in_json = not any(text in message for text in ("nan", "inf", *BEYOND))
        assert schema.is_valid(changed(place, value)) is not in_json, (place, value)


def test_what_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    deep: object = 1
    for _ in range(400):
        deep = [deep]
    (tmp_path / "rule.json").write_text(json.dumps(changed("promise.kept", deep)))
    with pytest.raises(CascadeError, match=r"promise\.kept.*more than 50 deep"):
        read_rule(tmp_path / "rule.json")
