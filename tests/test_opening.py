"""`cascade:DIR` from the command line, wherever a model is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamed import StreamedEngine, Token, words
from typer.testing import CliRunner, Result

from featherweight.cascade.rule import Decoding, DeferralRule, StageRule
from featherweight.cascade.rule_file import read_rule, write_rule
from featherweight.cascade.scores import Score
from featherweight.cascade.stages import facts
from featherweight.cascade.types import Metric, Threshold
from featherweight.cli import app
from featherweight.engines import Request
from featherweight.errors import CascadeError, UnknownModelError
from featherweight.opening import model_identity, open_model

SMALL, LARGE = (f"openai:http://127.0.0.1:9/v1#{name}" for name in ("small", "large"))
SENTENCE = "- The price is 19 euros a year."


def said(text: str, chance: float) -> list[Token]:
    return [Token(f" {word}".encode(), (chance, 0.01)) for word in text.split()] + words()


def opened(spec: str) -> StreamedEngine:
    """The small one is sure of short prompts, and of nothing that Bob said."""

    def small(request: Request) -> list[Token]:
        return said(SENTENCE, 0.2 if "Bob" in str(request.prompt) else 0.95)

    if spec == SMALL:
        return StreamedEngine(small, name=spec, params=None)
    return StreamedEngine(lambda request: said(SENTENCE, 0.99), name=spec, params=None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("featherweight.cascade.open.load_engine", opened)
    stages = (
        StageRule(
            **facts(opened(SMALL)),
            max_tokens=64,
            score=Score.parse("mean"),
            threshold=Threshold(-0.5),
        ),
        StageRule(**facts(opened(LARGE)), max_tokens=64),
    )
    rule = DeferralRule(stages, Metric("rouge1", 0.0, 100.0), {"kind": "budget"}, 10, 10, "0" * 64)
    write_rule(tmp_path / "mine" / "rule.json", rule)
    return tmp_path / "mine"


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


def test_any_spec_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_model(f" cascade:{folder} ").name == f"cascade:{folder}"
    monkeypatch.setattr("featherweight.engines.load_engine", lambda spec: spec)
    assert open_model("hf:x") == "hf:x"
    assert model_identity(SMALL)["spec"] == SMALL
    assert set(model_identity(f"cascade:{folder}")) == {"spec", "rule", "stages"}
    for function in (open_model, model_identity):
        with pytest.raises(UnknownModelError, match=r"cascade: names no folder; write cascade:DIR"):
            function("cascade:")
        with pytest.raises(CascadeError, match="there is no such folder"):
            function(f"cascade:{folder}/deeper")


def test_a_summary_says_who_answered(folder: Path, tmp_path: Path) -> None:
    easy, hard = tmp_path / "easy.txt", tmp_path / "hard.txt"
    easy.write_text("Ann: The price is 19 euros a year.\n")
    hard.write_text("Ann: The price is 19 euros a year.\nBob: I'll put it into the store.\n")
    for path, model in ((easy, SMALL), (hard, LARGE)):
        result = call("summarize", path, "--model", f"cascade:{folder}", "--format", "json")
        assert (result.exit_code, result.stderr) == (0, "")
        found = json.loads(result.stdout)
        assert found["model"] == f"cascade:{folder}"
        assert f"answers by model: {model} 1." in found["notes"]
        assert found["points"][0]["text"] == "The price is 19 euros a year."
        result = call("summarize", path, "--model", f"cascade:{folder}")
        assert f"answers by model: {model} 1." in " ".join(result.stdout.split())


def test_a_rule_for_other_decoding_leaves_no_summary(folder: Path, tmp_path: Path) -> None:
    rule = read_rule(folder / "rule.json")
    stages = tuple(replace(stage, decoding=Decoding(0.0, ("\n",))) for stage in rule.stages)
    write_rule(folder / "rule.json", replace(rule, stages=stages))
    talk = tmp_path / "talk.txt"
    talk.write_text("Ann: The price is 19 euros a year.\n")
    result = call("summarize", talk, "--model", f"cascade:{folder}")
    assert result.exit_code == 1 and result.stdout == ""
    assert "the request's stop is [], but its rule was made for" in result.stderr


def test_an_evaluation_is_known_by_its_rule(folder: Path, root: Path, tmp_path: Path) -> None:
    run = ("eval", "--task", "qmsum", "--data", root / "examples" / "data", "--limit", 1)
    output = tmp_path / "run"
    arguments = (*run, "--model", f"cascade:{folder}", "--output", output)
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    manifest = json.loads((output / "manifest.json").read_bytes())
    model: dict[str, Any] = manifest["run"]["model"]
    assert model["spec"] == f"cascade:{folder}" and len(model["rule"]) == 64
    assert [stage["spec"] for stage in model["stages"]] == [SMALL, LARGE]
    answered = {json.loads(line)["model"] for line in (output / "predictions.jsonl").open()}
    assert answered <= {SMALL, LARGE} and answered
    rule = folder / "rule.json"
    rule.write_bytes(rule.read_bytes() + b"\n")  # another file: another run
    result = call(*arguments)
    assert result.exit_code == 1 and "holds another run (model differ)" in result.stderr


def test_wrong_usage_and_what_cannot_be_opened(folder: Path, tmp_path: Path) -> None:
    talk = tmp_path / "talk.txt"
    talk.write_text("Ann: The price is 19 euros a year.\n")
    for model, code, message in (
        ("cascade:", 2, "names no folder"),
        (f"cascade:{tmp_path}", 1, "no rule.json in it"),
        (f"cascade:{tmp_path}/no", 1, "there is no such folder"),
    ):
        result = call("summarize", talk, "--model", model)
        assert result.exit_code == code and result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ") and message in line and line.endswith(".")
    (folder / "rule.json").write_text('{"version": 9}')
    result = call("summarize", talk, "--model", f"cascade:{folder}")
    assert result.exit_code == 1 and "its version is 9" in result.stderr
    assert "cascade:DIR" in call("models").stdout
