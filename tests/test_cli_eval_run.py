"""`featherweight eval` from the command line: what it prints, leaves and returns."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import ScoringEngine, ScriptedEngine, text_of
from typer.testing import CliRunner, Result

from featherweight.cli import app
from featherweight.engines.types import failed
from featherweight.errors import EngineError, UnknownModelError

SPEC = "openai:http://127.0.0.1:9/v1#m"  # an identity without weights to read


class Opened:
    """Stands in for `load_engine`; keeps the engines that it gave."""

    def __init__(self) -> None:
        self.answer: Any = "They settled the price of the remote control."
        self.engines: list[ScriptedEngine] = []

    def __call__(self, spec: str) -> ScriptedEngine:
        if spec == "nonsense":
            raise UnknownModelError("'nonsense' is no engine; the forms are ...")
        if spec == "broken":
            raise EngineError("broken: the file is damaged; get it again.")
        self.engines.append(ScoringEngine(answer=self.answer, name=spec))
        return self.engines[-1]

    @property
    def asked(self) -> int:
        return sum(len(engine.asked) for engine in self.engines)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    found = Opened()
    monkeypatch.setattr("featherweight.engines.load_engine", found)
    return found


@pytest.fixture
def data(root: Path) -> Path:
    return root / "examples" / "data"


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


def refused(code: int, *arguments: object) -> str:
    """The one sentence on standard error; standard output stays clean."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(".")
    return line


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").open()]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return found


# ---- a run


def qmsum(data: Path, output: Path, *more: object) -> tuple[object, ...]:
    return ("--task", "qmsum", "--data", data, "--model", SPEC, "--output", output, *more)


def test_a_run_over_questions(opened: Opened, data: Path, tmp_path: Path) -> None:
    result = call(*qmsum(data, tmp_path / "run", "--limit", 2, "--words", 60))
    assert (result.exit_code, result.stderr) == (0, "")
    (engine,) = opened.engines
    assert len(engine.asked) == 7 and engine.closed  # limit takes whole meetings
    assert all(request.max_tokens == 192 for request in engine.asked)
    for said in (
        "qmsum",
        SPEC,
        "ROUGE-1",
        "ROUGE-Lsum",
        "words",
        "n 7",
        "1 group",
        "one group: unknown",
    ):
        assert said in result.stdout, said
    assert "Prompt tokens" in result.stdout and "\x1b" not in result.stdout
    assert len(rows(tmp_path / "run")) == 7
    assert manifest(tmp_path / "run")["run"]["settings"]["words"] == 60
    assert (tmp_path / "run" / "references.jsonl").exists()


def test_the_shape_of_json(opened: Opened, data: Path, tmp_path: Path) -> None:
    result = call(*qmsum(data, tmp_path, "--limit", 1, "--json"))
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    counts = {"n", "groups", "missing", "empty", "cut_off"}
    assert set(found) == {*counts, "metrics", "cost", "cost_per_item"}
    assert (found["n"], found["groups"], found["missing"]) == (7, 1, 0)
    named = {"rouge1", "rouge2", "rougeL", "rougeLsum", "words", "compression"}
    assert set(found["metrics"]) == named
    for one in found["metrics"].values():
        assert set(one) == {"mean", "ci95"} and one["ci95"][0] <= one["mean"] <= one["ci95"][1]
    assert found["cost"]["prompt_tokens"] > 0 and found["cost"]["usd"] is None
    assert {key: manifest(tmp_path)[key] for key in found} == found


def test_options_reach_the_run(opened: Opened, data: Path, tmp_path: Path) -> None:
    arguments = ("--limit", 1, "--input", "gold", "--max-tokens", 5, "--seed", 4, "--json")
    result = call(*qmsum(data, tmp_path, *arguments, "--usd-per-hour", 3600))
    found = json.loads(result.stdout)
    assert found["n"] == 6  # no question about the whole meeting
    assert all(request.max_tokens == 5 for request in opened.engines[0].asked)
    assert manifest(tmp_path)["seed"] == 4
    assert found["cost"]["usd"] == pytest.approx(found["cost"]["seconds_total"])


def test_choices_by_generation(opened: Opened, data: Path, tmp_path: Path) -> None:
    opened.answer = lambda request, before: "A" if "?" in text_of(request)[:40] else "Well."
    arguments = ("--task", "creak", "--data", data, "--model", SPEC, "--how", "generation")
    found = json.loads(call(*arguments, "--output", tmp_path, "--json").stdout)
    named = [row for row in rows(tmp_path) if row["picked"] == 0]
    assert 0 < len(named) < 12 == found["n"]
    assert found["metrics"]["unparsed"]["mean"] == pytest.approx(100 * (12 - len(named)) / 12)
    said = call(*arguments, "--output", tmp_path).stdout
    assert "no choice named %" in said and "accuracy %" in said


def test_ones_own_rows(opened: Opened, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("prompt,target\nHow much?,19 euros\nHow long?,a year\n")
    result = call("--task", own, "--model", SPEC, "--output", tmp_path / "run", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["n"] == 2


# ---- stopped and continued


def test_interrupted_and_continued(opened: Opened, data: Path, tmp_path: Path) -> None:
    def stopped(request: Any, before: int) -> str:
        if opened.asked == 3:
            raise KeyboardInterrupt
        return "They met."

    opened.answer = stopped
    arguments = qmsum(data, tmp_path / "run", "--limit", 1)
    result = call(*arguments)
    assert result.exit_code == 130 and result.stdout == ""
    assert result.stderr == (
        f"stopped; what was finished is in {tmp_path / 'run'}, the same command goes on from "
        "there.\n"
    )
    assert len(rows(tmp_path / "run")) == 2 and opened.engines[0].closed
    opened.answer = "They met."
    assert call(*arguments).exit_code == 0
    assert len(opened.engines[1].asked) == 5
    again = call(*arguments)
    assert again.exit_code == 0 and "n 7" in again.stdout and opened.engines[2].asked == []


def test_failed_examples_are_exit_code_1(opened: Opened, data: Path, tmp_path: Path) -> None:
    def moody(request: Any, before: int) -> Any:
        return failed("m", "m: too long.") if opened.asked in (2, 3) else "They met."

    opened.answer = moody
    arguments = qmsum(data, tmp_path, "--limit", 1)
    result = call(*arguments)
    assert result.exit_code == 1
    assert result.stderr == "2 failed (m: too long.); run again to retry them.\n"
    assert "n 5" in result.stdout and "2 MISSING, left out" in result.stdout
    opened.answer = "They met."
    result = call(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert (found["n"], found["missing"]) == (7, 0) and len(opened.engines[1].asked) == 2


def test_where_nothing_succeeds(opened: Opened, data: Path, tmp_path: Path) -> None:
    opened.answer = lambda request, before: failed("m", "m: no server.")
    line = refused(1, *qmsum(data, tmp_path, "--limit", 1))
    assert "nothing to score; m: no server" in line and opened.engines[0].closed


def test_another_run_in_the_folder(opened: Opened, data: Path, tmp_path: Path) -> None:
    assert call(*qmsum(data, tmp_path, "--limit", 1)).exit_code == 0
    line = refused(1, *qmsum(data, tmp_path, "--limit", 1, "--words", 70))
    assert "holds another run (prompts_sha256, settings differ)" in line
    assert opened.engines[1].asked == [] and opened.engines[1].closed


# ---- wrong usage


def test_wrong_usage_is_exit_code_2(opened: Opened, data: Path, tmp_path: Path) -> None:
    out = ("--model", SPEC, "--output", tmp_path / "run")
    assert "'qmsun' is neither a task nor a file" in refused(2, "--task", "qmsun", *out)
    assert "add --data DIR" in refused(2, "--task", "creak", *out)
    assert "github.com" in refused(2, "--task", "creak", "--data", tmp_path, *out)
    assert "cannot read" in refused(2, "--task", tmp_path / "own.jsonl", *out)
    assert "no split 'dev'" in refused(2, *qmsum(data, tmp_path / "run", "--split", "dev"))
    assert "'bm52' is no locator" in refused(2, *qmsum(data, tmp_path, "--locator", "bm52"))
    empty = qmsum(data, tmp_path / "run", "--locator", tmp_path)
    assert "it has no locator.json" in refused(2, *empty)
    both = ("--prices", tmp_path / "p.json", "--usd-per-hour", "1")
    assert "leave one out" in refused(2, *qmsum(data, tmp_path / "run", *both))
    unknown = ("--task", "creak", "--data", data, "--model", "nonsense", "--output", tmp_path)
    assert "nonsense" in refused(2, *unknown)
    for wrong in (["--words", "0"], ["--limit", "0"], ["--input", "half"], ["--max-tokens", "0"]):
        assert call(*qmsum(data, tmp_path / "run", *wrong)).exit_code == 2
    assert call("--task", "creak").exit_code == 2
    assert opened.engines == [] and not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_opened(opened: Opened, data: Path, tmp_path: Path) -> None:
    arguments = ("--task", "creak", "--data", data, "--output", tmp_path)
    assert "damaged" in refused(1, *arguments, "--model", "broken")


def test_an_output_that_cannot_be_written(opened: Opened, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused(1, *qmsum(data, tmp_path / "file", "--limit", 1))
    assert "cannot write to" in line and opened.engines[0].asked == []


# ---- real models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    from tiny_llama import save_tiny_llama

    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), context=1024)


METRICS = {
    "creak": {"accuracy", "accuracy_norm"},
    "wikitext2": {"word_perplexity", "byte_perplexity", "bits_per_byte"},
    "wikitext2-tokens": {"token_perplexity"},
}


DTYPES = ("float32", "bfloat16")  # the machine decides


@pytest.mark.model
@pytest.mark.parametrize(("task", "n"), [("creak", 12), ("wikitext2", 1), ("wikitext2-tokens", 2)])
def test_a_tiny_model_on_the_samples(
    data: Path, tiny: Path, tmp_path: Path, task: str, n: int
) -> None:
    limit = [] if task == "creak" else ["--limit", n]
    arguments = ("--task", task, "--data", data, "--model", f"hf:{tiny}", "--output", tmp_path)
    result = call(*arguments, *limit, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["n"] == n and set(found["metrics"]) == METRICS[task]
    assert found["cost"]["params"] > 0 and found["cost"]["prompt_tokens"] > 0
    ran = manifest(tmp_path)["run"]
    assert len(ran["model"]["weights"]) == 64 and ran["model"]["dtype"] in DTYPES
    before = (tmp_path / "predictions.jsonl").read_bytes()
    again = call(*arguments, *limit, "--json")
    assert json.loads(again.stdout)["metrics"] == found["metrics"]
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    assert call(*arguments, *limit).exit_code == 0


@pytest.mark.model
def test_the_embedded_model_on_a_short_meeting(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    one = tmp_path / "data" / "qmsum" / "val.jsonl"
    one.parent.mkdir(parents=True)
    lines = (data / "qmsum" / "val.jsonl").read_text().splitlines(keepends=True)
    one.write_text(next(line for line in lines if '"TS3010a"' in line))
    arguments = ("--task", "qmsum", "--data", tmp_path / "data", "--limit", 2, "--words", 40)
    more = ("--max-tokens", 8, "--output", tmp_path / "run", "--json")
    result = call(*arguments, *more)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["n"] == 3
    assert all(row["model"] == "smollm2-135m" for row in rows(tmp_path / "run"))
