"""One run from beginning to end: the folder that is left, and the report."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from scripted import ScoringEngine, ScriptedEngine, text_of

from featherweight.engines import Request
from featherweight.engines.types import failed
from featherweight.errors import DataError, EngineError, OutputError
from featherweight.evaluate.cost import Price
from featherweight.tasks import evaluate
from featherweight.tasks.report import Report
from featherweight.tasks.run import prompts_sha256
from featherweight.tasks.types import Example, Task

SPEC = "openai:http://127.0.0.1:9/v1#m"  # known by name only, so that nothing is opened
EXAMPLES = tuple(
    Example(f"M{n // 2}/{n}", f"question {n}", f"answer {n}", f"M{n // 2}") for n in range(4)
)
TASK = Task("t", "summary", EXAMPLES, 7, {"split": "val", "lengths": (1, 2)})


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return found


def ran(folder: Path, engine: ScriptedEngine | None = None, **more: Any) -> Report:
    return evaluate(TASK, engine or ScriptedEngine("answer 1"), SPEC, folder, **more)


def test_the_manifest_says_what_ran_and_what_came_out(tmp_path: Path) -> None:
    report = ran(tmp_path, ScriptedEngine("answer 1", attention_width=64), seed=3)
    found = manifest(tmp_path)
    model = {**found["run"].pop("model")}
    assert (model.pop("spec"), model.pop("weights"), model.pop("dtype")) == (SPEC, None, None)
    assert "remote server" in model.pop("note") and model == {}
    assert found["run"] == {
        "command": "eval",
        "task": "t",
        "settings": {"split": "val", "lengths": [1, 2]},
        "examples": 4,
        "max_tokens": 7,
        "prompts_sha256": prompts_sha256(TASK),
    }
    (part,) = found["parts"]
    assert part["answered"] == 4
    assert set(part["versions"]) == {"featherweight", "python", "numpy", "machine"}
    age = datetime.now(UTC) - datetime.fromisoformat(part["ended"])
    assert abs(age.total_seconds()) < 600
    assert found["seed"] == 3
    assert (found["n"], found["groups"], found["missing"]) == (4, 2, 0)
    assert found["metrics"]["words"] == {"mean": 2.0, "ci95": [2.0, 2.0]}
    assert 50 < found["metrics"]["rouge1"]["mean"] < 100
    cost = found["cost"]
    assert cost["params"] == 3_000_000_000 and cost["flops"] > 0 and cost["flops_attention"]
    assert cost["completion_tokens"] == 8 and cost["usd"] is None
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    assert cost["prompt_tokens"] == sum(row["prompt_tokens"] for row in rows) > 0
    assert cost["seconds_total"] == pytest.approx(sum(row["wall"] for row in rows))
    told = json.loads(json.dumps(report.to_json()))
    assert set(told) >= {"n", "groups", "missing", "metrics", "cost", "cost_per_item"}
    assert told == {key: found[key] for key in told}


def test_the_dtype_belongs_to_the_model(tmp_path: Path) -> None:
    engine = ScriptedEngine("answer 1")
    engine.dtype = "float32"  # type: ignore[attr-defined]
    ran(tmp_path, engine)
    assert manifest(tmp_path)["run"]["model"]["dtype"] == "float32"
    with pytest.raises(OutputError, match=r"holds another run \(model differ\)"):
        ran(tmp_path)


def test_run_again_nothing_is_asked(tmp_path: Path) -> None:
    first = ran(tmp_path)
    engine = ScriptedEngine("something else")
    again = ran(tmp_path, engine)
    assert engine.asked == [] and again.results == first.results
    assert again.cost.seconds_total == first.cost.seconds_total


@pytest.mark.parametrize(
    ("task", "differs"),
    [
        (Task("u", "summary", EXAMPLES, 7, TASK.settings), "task"),
        (Task("t", "summary", EXAMPLES, 8, TASK.settings), "max_tokens"),
        (Task("t", "summary", EXAMPLES, 7, {"split": "test"}), "settings"),
        (Task("t", "summary", EXAMPLES[:3], 7, TASK.settings), "examples, prompts_sha256"),
        (
            Task(
                "t", "summary", (*EXAMPLES[:3], Example("M1/3", "?", "x", "M1")), 7, TASK.settings
            ),
            "prompts_sha256",
        ),
    ],
)
def test_another_task_is_another_run(tmp_path: Path, task: Task, differs: str) -> None:
    ran(tmp_path)
    before = (tmp_path / "predictions.jsonl").read_bytes()
    engine = ScriptedEngine("answer")
    with pytest.raises(OutputError, match=rf"\({differs} differ\)"):
        evaluate(task, engine, SPEC, tmp_path)
    assert engine.asked == [] and (tmp_path / "predictions.jsonl").read_bytes() == before


def test_another_model_is_another_run(tmp_path: Path) -> None:
    ran(tmp_path)
    with pytest.raises(OutputError, match=r"\(model differ\)"):
        evaluate(TASK, ScriptedEngine("x"), SPEC + "2", tmp_path)


def test_failed_examples_are_missing_until_they_succeed(tmp_path: Path) -> None:
    def moody(request: Request, before: int) -> Any:
        bad = "question 2" in text_of(request) and not before
        return failed("scripted", "too long.") if bad else "answer 1"

    engine = ScriptedEngine(moody)
    report = ran(tmp_path, engine)
    assert report.failed == {"M1/2": "too long."} and report.results.missing == 1
    assert report.results.n == report.cost.n == 3 and manifest(tmp_path)["missing"] == 1
    report = ran(tmp_path, engine)
    assert report.failed == {} and report.results.n == 4 and len(engine.asked) == 5
    assert manifest(tmp_path)["missing"] == 0


def test_where_all_fails_nothing_is_scored(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda request, before: failed("scripted", "no server."))
    with pytest.raises(DataError, match="t: nothing to score; no server"):
        ran(tmp_path, engine)
    assert set(manifest(tmp_path)) == {"run"}  # no figures from nothing
    assert ran(tmp_path).results.n == 4


def test_the_folder_is_free_after_an_error(tmp_path: Path) -> None:
    def broken(request: Request, before: int) -> str:
        raise EngineError("gone; start it again.")

    with pytest.raises(EngineError):
        ran(tmp_path, ScriptedEngine(broken))
    assert ran(tmp_path).results.n == 4


def test_dollars(tmp_path: Path) -> None:
    report = ran(tmp_path, price=Price(1.0, 3.0, "2026-01-31"))
    cost = report.cost
    assert cost.prompt_tokens is not None and cost.completion_tokens is not None
    assert cost.usd == pytest.approx((cost.prompt_tokens + 3 * cost.completion_tokens) / 1e6)
    assert "2026-01-31" in manifest(tmp_path)["cost"]["usd_basis"]
    hourly = ran(tmp_path, usd_per_hour=2.0).cost  # priced anew, not asked anew
    assert hourly.usd == pytest.approx(hourly.seconds_total * 2 / 3600)


def test_tokens_that_nobody_counted_are_not_measured(tmp_path: Path) -> None:
    examples = (Example("q", "Is it?", "yes", None, ("yes", "no"), {"answer": 0}),)
    task = Task("creak", "choice", examples)
    cost = evaluate(task, ScoringEngine(counts_tokens=False), SPEC, tmp_path / "a").cost
    assert (cost.prompt_tokens, cost.completion_tokens, cost.flops) == (None, None, None)
    cost = evaluate(task, ScoringEngine(), SPEC, tmp_path / "b").cost
    assert (cost.prompt_tokens, cost.completion_tokens) == (6, 2)
    assert cost.seconds_p50 is None  # questions are only timed together


def test_texts_count_their_tokens(tmp_path: Path) -> None:
    task = Task("wikitext2", "text", (Example("a", "", "four", meta={"words": 1, "bytes": 4}),))
    report = evaluate(task, ScoringEngine(), SPEC, tmp_path)
    assert (report.cost.prompt_tokens, report.cost.completion_tokens) == (4, 0)
    assert not (tmp_path / "references.jsonl").exists()


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    ran(tmp_path, progress=lambda *pair: seen.append(pair))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
