"""compare --judge, and tradeoff: what they print and when they refuse."""

import json
from pathlib import Path

import pytest
from scripted import ScriptedEngine, text_of
from typer.testing import CliRunner, Result

from featherweight.cli import app
from featherweight.engines import Request

pytest.importorskip("rouge_score_rs")


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    """A says the better thing about six meetings; arguments of compare."""
    ids = range(6)
    a = [{"id": i, "prediction": f"GOOD answer {i}"} for i in ids]
    b = [{"id": i, "prediction": f"poor long answer number {i} of them"} for i in ids]
    references = [{"id": i, "reference": "good", "group": f"m{i}", "query": "Why?"} for i in ids]
    return [
        write(tmp_path / "a.jsonl", a),
        write(tmp_path / "b.jsonl", b),
        "--references",
        write(tmp_path / "r.jsonl", references),
    ]


def with_judge(monkeypatch: pytest.MonkeyPatch, engine: ScriptedEngine) -> None:
    monkeypatch.setattr("featherweight.engines.load_engine", lambda spec: engine)


def sees_quality(request: Request, before: int) -> str:
    text = text_of(request)
    return "A" if text.index("GOOD") < text.index("poor") else "B"


def test_a_judge_that_sees_quality(files: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(sees_quality)
    with_judge(monkeypatch, engine)
    found = json.loads(call("compare", *files, "--judge", "any", "--json").stdout)
    judge = found["judge"]
    assert judge["win_share"]["mean"] == 1 and judge["ties"] == 0 and judge["judged"] == 6
    assert judge["consistency"] == 1 and judge["first_place"] == 0.5
    assert judge["longer"]["mean"] == 0  # A is shorter
    assert len(engine.asked) == 12 and engine.closed
    assert set(found["metrics"]) == {"rouge1", "rouge2", "rougeL", "rougeLsum", "words"}


def test_a_judge_that_likes_the_first_place_makes_ties(
    files: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_judge(monkeypatch, ScriptedEngine("A"))
    text = call("compare", *files, "--judge", "any").stdout
    assert "0, 6, 0 of 6" in text and "first place wins" in text and "100.0 %" in text


def test_a_model_that_is_no_judge_is_told_so(
    files: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_judge(monkeypatch, ScriptedEngine("Both are fine answers."))
    text = call("compare", *files, "--judge", "any").stdout
    assert "this model is no judge" in text and "not measured" in text


def test_an_unknown_judge_is_wrong_usage(files: list[object]) -> None:
    result = call("compare", *files, "--judge", "nonsense")
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: 'nonsense' is no engine")


def run(
    folder: Path, quality: float, seconds: float | None, data: str = "d", missing: int = 0
) -> Path:
    folder.mkdir(parents=True)
    per_item = {}
    if seconds is not None:
        per_item["seconds"] = {"mean": seconds, "ci95": [seconds * 0.9, seconds * 1.1]}
    metrics = {"rougeLsum": {"mean": quality, "ci95": [quality - 1, quality + 1]}}
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "run": {"task": "t", "settings": {"data_sha256": data}},
                "n": 9,
                "groups": 9,
                "missing": missing,
                "metrics": metrics,
                "cost_per_item": per_item,
            }
        )
    )
    return folder


def test_tradeoff_marks_what_is_not_beaten(tmp_path: Path) -> None:
    runs = [run(tmp_path / n, q, s) for n, q, s in (("a", 20, 1), ("b", 25, 4), ("c", 19, 2))]
    runs.append(run(tmp_path / "d", 30, None))
    result = call("tradeoff", *runs)
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()[1:5]}
    assert "n 9 · 9 groups" in result.stdout
    assert list(lines) == ["d", "b", "a", "c"]  # best quality first
    assert [name for name, line in lines.items() if line.endswith("yes")] == ["b", "a"]
    assert "not measured" in lines["d"] and "[24.00, 26.00]" in lines["b"]


def test_tradeoff_as_csv_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [run(tmp_path / "a", 20, 1), run(tmp_path / "b", 25, 4)]
    picture = tmp_path / "t.svg"
    result = call("tradeoff", *runs, "--csv", "--plot", picture)
    assert result.exit_code == 0 and picture.read_text().lstrip().startswith("<?xml")
    header, *rows = result.stdout.splitlines()
    assert header.startswith("system,") and len(rows) == 2 and "seconds an item" in rows[0]


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda folder: None, "cannot read"),
        (lambda folder: (folder / "manifest.json").write_text('{"run": {}}'), "not finished"),
        (lambda folder: (folder / "manifest.json").write_text("?"), "cannot read"),
    ],
)
def test_tradeoff_refuses_what_is_no_finished_run(tmp_path: Path, prepare, says: str) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    prepare(folder)
    result = call("tradeoff", folder)
    assert result.exit_code == 1 and result.stdout == ""
    assert says in result.stderr and "manifest.json" in result.stderr


def test_tradeoff_names_the_metrics_that_there_are(tmp_path: Path) -> None:
    result = call("tradeoff", run(tmp_path / "a", 20, 1), "--quality", "accuracy")
    assert result.exit_code == 1 and "rougeLsum" in result.stderr


def test_tradeoff_compares_like_with_like(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", 20, 1), run(tmp_path / "b", 20, 1, data="other")]
    result = call("tradeoff", *runs)
    assert result.exit_code == 1 and "not runs of one task on the same data" in result.stderr


def test_tradeoff_says_what_is_missing(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", 20, 1), run(tmp_path / "b", 20, 1, missing=3)]
    assert "b: 3 MISSING" in call("tradeoff", *runs).stdout


def test_tradeoff_tells_folders_of_one_name_apart(tmp_path: Path) -> None:
    runs = [run(tmp_path / "x" / "a", 20, 1), run(tmp_path / "y" / "a", 21, 2)]
    text = call("tradeoff", *runs).stdout
    assert "x/a" in text and "y/a" in text
    again = call("tradeoff", runs[0], runs[0])
    assert again.exit_code == 1 and "stands twice" in again.stderr


def test_tradeoff_refuses_a_metric_of_which_less_is_better(tmp_path: Path) -> None:
    result = call("tradeoff", run(tmp_path / "a", 20, 1), "--quality", "word_perplexity")
    assert result.exit_code == 1 and "more is not better" in result.stderr
