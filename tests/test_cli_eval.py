"""The commands score and compare: the JSON that machines read, exit codes, streams."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import validate
from typer.testing import CliRunner, Result

from featherweight.cli import app
from featherweight.evaluate.score import Cap, compare, score

pytest.importorskip("rouge_score_rs")

ROUGE = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
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


def printed(*arguments: object) -> str:
    result = call(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


WORDS = "we agreed to ship the new remote in march since titanium costs less than rubber".split()


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """Twenty questions about seven meetings; the first of each is about the whole."""
    rng = random.Random(99)
    return write(
        tmp_path / "references.jsonl",
        [
            {
                "query_id": f"q{number}",
                "meeting_id": f"m{number % 7}",
                "general": number < 7,
                "reference": " ".join(rng.choices(WORDS, k=12)) + ".",
            }
            for number in range(20)
        ],
    )


@pytest.fixture
def answers(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, seed: int, words: int = 12, left_out: int = 0) -> Path:
        rng = random.Random(seed)
        rows = [
            {"query_id": f"q{number}", "prediction": " ".join(rng.choices(WORDS, k=words))}
            for number in range(20)
        ]
        return write(tmp_path / name, rows[left_out:])

    return make


Answers = Callable[..., Path]

NUMBER = {"type": "number"}
PAIR = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
COUNT = {"type": "integer", "minimum": 0}


def contract(counts: list[str], **columns: Any) -> dict[str, Any]:
    metric = {"type": "object", "required": list(columns), "properties": columns}
    metrics = dict.fromkeys([*ROUGE, "words"], metric)
    return {
        "type": "object",
        "required": [*counts, "metrics"],
        "properties": {
            **dict.fromkeys(counts, COUNT),
            "metrics": {"type": "object", "required": list(metrics), "properties": metrics},
        },
    }


SCORE = contract(["n", "groups"], mean=NUMBER, ci95=PAIR)
COMPARE = contract(
    ["n", "groups", "missing"], a=NUMBER, b=NUMBER, diff=NUMBER, ci95=PAIR, p=NUMBER, p_holm=NUMBER
)


# ---- score


def test_score_in_json(references: Path, answers: Answers) -> None:
    path = answers("a.jsonl", 1)
    data = json.loads(printed("score", "--predictions", path, "--references", references, "--json"))
    validate(data, SCORE)
    assert (data["n"], data["groups"], data["missing"], data["empty"]) == (20, 7, 0, 0)
    assert list(data["metrics"]) == [*ROUGE, "words"]
    assert data == json.loads(json.dumps(score([path], references).to_json()))
    assert data["metrics"]["words"] == {"mean": 12.0, "ci95": [12.0, 12.0]}
    low, high = data["metrics"]["rouge1"]["ci95"]
    assert 0 < low < data["metrics"]["rouge1"]["mean"] < high < 100  # percent points


def test_score_for_people(references: Path, answers: Answers) -> None:
    path = answers("a.jsonl", 1)
    text = printed("score", "--predictions", path, "--references", references)
    found = score([path], references)
    for name, metric in zip(
        ["ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum", "words"],
        found.metrics.values(),
        strict=True,
    ):
        low, high = metric.ci95
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
        assert line.removeprefix(name).split() == [
            *(f"{metric.mean:.2f}", f"[{low:.2f},", f"{high:.2f}]")
        ]
    assert text.splitlines()[0].endswith("a.jsonl") and "95% CI" in text
    assert text.endswith("n 20 · 7 groups\nSo few groups that the intervals are too narrow.\n")
    for name in ("compression", "BERTScore F1", "faithfulness"):
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
        assert "not measured" in line
    assert not any(word in text for word in ("MISSING", "empty", "cut to", "\x1b"))


def test_score_options_reach_the_figures(references: Path, answers: Answers) -> None:
    path = answers("a.jsonl", 1)
    base = ["score", "--predictions", path, "--references", references]
    found = json.loads(printed(*base, "--json", "--cap-words", "3:7", "--seed", "5"))
    assert found == score([path], references, Cap(3, 7), seed=5).to_json()
    assert found != score([path], references, Cap(3, 7), seed=0).to_json()
    assert found["metrics"]["words"]["mean"] == pytest.approx((13 * 3 + 7 * 7) / 20)
    assert "n 20 · 7 groups · cut to 3:7 words" in printed(*base, "--cap-words", "3:7")
    once, again = (printed(*base, "--json") for _ in range(2))
    assert once == again


def test_score_of_several_runs(references: Path, answers: Answers) -> None:
    runs = [answers(f"{seed}.jsonl", seed) for seed in range(3)]
    base = ["score", "--references", references, *(x for p in runs for x in ("--predictions", p))]
    data = json.loads(printed(*base, "--json"))
    validate(data, SCORE)
    assert len(data["metrics"]["rouge1"]["runs"]) == 3
    assert data["metrics"]["rouge1"]["seed_sd"] > 0
    text = printed(*base)
    assert "SD of seeds" in text and "3 runs (seeds)" in text
    assert f"{data['metrics']['rouge1']['seed_sd']:.2f}" in text


def test_what_is_missing_or_empty_is_said(references: Path, answers: Answers) -> None:
    path = answers("a.jsonl", 1, left_out=2)
    *rows, last = path.read_text().splitlines()
    write(path, [*rows, {**json.loads(last), "prediction": " "}])
    base = ["score", "--predictions", path, "--references", references]
    assert "a.jsonl line 18: 'prediction' is empty" in refused(1, *base)
    base.append("--allow-missing")
    data = json.loads(printed(*base, "--json"))
    assert (data["n"], data["missing"], data["empty"]) == (18, 2, 1)
    assert data["metrics"]["words"]["mean"] == pytest.approx(17 * 12 / 18)
    assert "n 18 · 7 groups · 2 MISSING, left out · 1 empty, scored 0" in printed(*base)


# ---- compare


def test_compare_in_json(references: Path, answers: Answers) -> None:
    a, b = answers("a.jsonl", 1), answers("b.jsonl", 2, words=15)
    data = json.loads(printed("compare", a, b, "--references", references, "--json"))
    validate(data, COMPARE)
    assert (data["n"], data["groups"], data["missing"]) == (20, 7, 0)
    assert list(data["metrics"]) == [*ROUGE, "words"]
    for found in data["metrics"].values():
        assert found["diff"] == pytest.approx(found["a"] - found["b"])
        assert 0 < found["p"] <= found["p_holm"] <= 1
    words = data["metrics"]["words"]
    assert (words["a"], words["b"], words["diff"], words["ci95"]) == (12, 15, -3, [-3, -3])
    assert (words["p"], words["p_holm"]) == (2 / 2**7, 5 * 2 / 2**7)
    assert data == json.loads(json.dumps(compare(a, b, references).to_json()))


def test_compare_for_people(references: Path, answers: Answers) -> None:
    a, b = answers("a.jsonl", 1), answers("b.jsonl", 2, words=15)
    text = printed("compare", a, b, "--references", references)
    first, second, *_ = text.splitlines()
    assert first.startswith("A ") and first.endswith("a.jsonl")
    assert second.startswith("B ") and second.endswith("b.jsonl")
    (line,) = (line for line in text.splitlines() if line.startswith("words"))
    assert line.split()[1:] == ["12.00", "15.00", "-3.00", "[-3.00,", "-3.00]", "0.0156", "0.0781"]
    assert "n 20 · 7 groups · p: sign-flip test over groups" in text
    assert "MISSING" not in text and "\x1b" not in text


def test_compare_options_reach_the_figures(references: Path, answers: Answers) -> None:
    a, b = answers("a.jsonl", 1), answers("b.jsonl", 2, words=15, left_out=1)
    base = ["compare", a, b, "--references", references]
    message = refused(1, *base)
    assert "references.jsonl line 1: 'q0' has no prediction in" in message
    assert "b.jsonl (1 of 20 are missing)" in message and "--allow-missing" in message
    options = ["--allow-missing", "--cap-words", "4", "--seed", "3"]
    data = json.loads(printed(*base, *options, "--json"))
    validate(data, COMPARE)
    assert data == compare(a, b, references, Cap(4, 4), True, 3).to_json()
    assert data != compare(a, b, references, Cap(4, 4), True, 0).to_json()
    assert (data["n"], data["missing"], data["metrics"]["words"]["diff"]) == (19, 1, 0)
    text = printed(*base, *options)
    assert "n 19 · 7 groups · 1 MISSING, left out · cut to 4 words" in text


def test_empty_answers_are_said_of_the_system_that_gave_them(
    references: Path, answers: Answers
) -> None:
    a, b = answers("a.jsonl", 1), answers("b.jsonl", 2, words=0)
    text = printed("compare", a, b, "--references", references, "--allow-missing")
    assert "20 of B empty, scored 0" in text and "of A empty" not in text


# ---- wrong usage and bad data


@pytest.mark.parametrize("cap", ["0", "x:y", "-1", "60:", "60:0", "", "1.5", "9" * 5_000])
@pytest.mark.parametrize("command", ["score", "compare"])
def test_a_limit_that_is_none(references: Path, answers: Answers, command: str, cap: str) -> None:
    path = answers("a.jsonl", 1)
    files = ["--predictions", path] if command == "score" else [path, path]
    for json_too in ([], ["--json"]):
        message = refused(
            2, command, *files, "--references", references, f"--cap-words={cap}", *json_too
        )
        assert "write N or N:M, such as 60 or 60:110." in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["score"],
        ["score", "--predictions", "a"],
        ["score", "--references", "a"],
        ["score", "a", "--references", "a"],
        ["score", "--predictions", "a", "--references", "a", "--seed", "-1"],
        ["score", "--predictions", "a", "--references", "a", "--seed", "x"],
        ["compare", "--references", "a"],
        ["compare", "a", "--references", "a"],
        ["compare", "a", "b", "c", "--references", "a"],
        ["compare", "a", "b", "--references", "a", "--nonsense"],
    ],
)
def test_options_that_mean_nothing(arguments: list[str]) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


GOOD = {"id": "q1", "prediction": "yes"}
BAD: dict[str, tuple[list[Any], str]] = {
    "row without id": ([GOOD, {"prediction": "yes"}], "bad.jsonl line 2: it has no column"),
    "repeated": ([GOOD, GOOD], "bad.jsonl line 2: 'q1' stands at "),
    "unknown": ([GOOD, {"id": "z", "prediction": "yes"}], "bad.jsonl line 2: 'z' is not among"),
    "wrong column": ([{"id": "q1", "summary": "yes"}], "bad.jsonl line 1: it has no column"),
    "empty": ([{"id": "q1", "prediction": ""}], "bad.jsonl line 1: 'prediction' is empty"),
    "null": ([{"id": "q1", "prediction": None}], "bad.jsonl line 1: 'prediction' is missing"),
    "NaN": (['{"id": "q1", "prediction": NaN}'], "bad.jsonl line 1: not JSON"),
    "not JSON": ([GOOD, "q2 yes"], "bad.jsonl line 2: not JSON"),
    "no rows": ([], "bad.jsonl: no predictions in it"),
    "missing": ([GOOD], "(19 of 20 are missing)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_predictions(references: Path, answers: Answers, tmp_path: Path, case: str) -> None:
    rows, holds = BAD[case]
    bad, good = write(tmp_path / "bad.jsonl", rows), answers("good.jsonl", 1)
    to = ["--references", references]
    for arguments in (
        ["score", "--predictions", bad, *to],
        ["score", "--predictions", bad, *to, "--json"],
        ["score", "--predictions", good, "--predictions", bad, *to],
        ["compare", bad, good, *to],
        ["compare", good, bad, *to, "--json"],
    ):
        message = refused(1, *arguments)
        assert holds in message and "; " in message


@pytest.mark.parametrize(
    ("rows", "holds"),
    [
        ([], "bad.jsonl: no references in it"),
        ([{"id": "q1", "reference": "yes"}, {"id": "q2"}], "bad.jsonl line 2: it has no column"),
        ([{"id": "q1", "reference": ""}], "bad.jsonl line 1: 'reference' is empty"),
        ([{"id": "q1", "reference": "yes", "general": "perhaps"}], "bad.jsonl line 1: 'general'"),
        (["{"], "bad.jsonl line 1: not JSON"),
    ],
)
def test_bad_references(answers: Answers, tmp_path: Path, rows: list[Any], holds: str) -> None:
    good, bad = answers("good.jsonl", 1), write(tmp_path / "bad.jsonl", rows)
    assert holds in refused(1, "score", "--predictions", good, "--references", bad)
    assert holds in refused(1, "compare", good, good, "--references", bad, "--json")


def test_files_that_are_not_there(references: Path, answers: Answers, tmp_path: Path) -> None:
    good, none = answers("good.jsonl", 1), tmp_path / "none.jsonl"
    for arguments in (
        ["score", "--predictions", none, "--references", references],
        ["score", "--predictions", good, "--references", none],
        ["compare", good, none, "--references", references],
        ["compare", good, tmp_path, "--references", references],
    ):
        message = refused(1, *arguments)
        assert "error: cannot read " in message and "check the path" in message


def test_names_with_escape_sequences(references: Path, answers: Answers) -> None:
    path = answers("caf\x1b[31m\a.jsonl", 1)
    text = printed("score", "--predictions", path, "--references", references)
    text += printed("compare", path, path, "--references", references)
    assert text.count("caf.jsonl\n") == 3 and "\x1b" not in text and "\a" not in text
    path.write_text("?")
    assert "\x1b" not in refused(1, "score", "--predictions", path, "--references", references)


def choices(tmp_path: Path, name: str, right: list[int], **more: Any) -> Path:
    rows = [{"id": i, "scores": {"accuracy": float(r), **more}} for i, r in enumerate(right)]
    return write(tmp_path / name, rows)


def test_multiple_choice_is_compared_by_its_own_scores(tmp_path: Path) -> None:
    a = choices(tmp_path, "a.jsonl", [1, 1, 1, 0, 1, 1, 1, 1])
    b = choices(tmp_path, "b.jsonl", [0, 1, 0, 0, 0, 0, 0, 0])
    found = json.loads(printed("compare", a, b, "--json"))
    assert (found["n"], found["groups"], found["missing"]) == (8, 8, 0)
    accuracy = found["metrics"]["accuracy"]
    assert (accuracy["a"], accuracy["b"], accuracy["diff"]) == (87.5, 12.5, 75.0)
    assert accuracy["p"] == 2 / 2**6  # six pairs differ, all one way: exact
    assert "accuracy %" in printed("compare", a, b)


def test_multiple_choice_with_groups_counts_groups(tmp_path: Path) -> None:
    rows = [{"id": i, "group": f"g{i % 3}", "scores": {"accuracy": i % 2}} for i in range(9)]
    path = write(tmp_path / "a.jsonl", rows)
    assert json.loads(printed("compare", path, path, "--json"))["groups"] == 3


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    a = choices(tmp_path, "a.jsonl", [1, 1, 0])
    short = choices(tmp_path, "short.jsonl", [1, 1])
    assert "a.jsonl line 3: '2' is not in" in refused(1, "compare", a, short)
    assert json.loads(printed("compare", a, short, "--allow-missing", "--json"))["missing"] == 1
    other = choices(tmp_path, "other.jsonl", [1, 1, 0], accuracy_norm=1.0)
    assert "other.jsonl line 1: its scores are" in refused(1, "compare", a, other)
    texts = write(tmp_path / "texts.jsonl", [{"id": 0, "prediction": "x"}])
    assert "add --references" in refused(1, "compare", texts, texts)
    assert "add --references" in refused(2, "compare", a, a, "--cap-words", "5")
