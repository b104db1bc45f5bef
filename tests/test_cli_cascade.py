"""cascade log, calibrate, curve, run from the command line, with real (tiny) models."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cascade_logs import told
from tiny_llama import TEXTS, save_tiny_llama

from featherweight.cascade.log import write_log
from featherweight.show_cascade import faults, run_json

pytestmark = [pytest.mark.e2e, pytest.mark.model]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "featherweight", "cascade", *map(str, words)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, thirty rows, and the log and the cascade that are made of them."""
    folder = tmp_path_factory.mktemp("cascade")
    save_tiny_llama(folder / "small", num_hidden_layers=1)
    save_tiny_llama(folder / "large")
    rows = [
        {"id": f"q{i}", "prompt": TEXTS[i % 3][: 20 + i], "target": TEXTS[i % 3], "group": f"g{i}"}
        for i in range(30)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages = ("--stage", f"hf:{folder / 'small'}", "--stage", f"hf:{folder / 'large'}")
    done = run("log", "--task", folder / "rows.jsonl", *stages, "--max-tokens", 10,
               "--margins", "--output", folder / "logged")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "n = 30 questions in 30 groups: 8 fit, 14 calibrate, 8 test" in done.stdout
    done = run("calibrate", "--log", folder / "logged" / "log.jsonl", "--budget", 0.4,
               "--score", "entropy", "--output", folder / "made")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "at most 40.0% of a new group's questions are passed on" in done.stdout
    manifest = json.loads((folder / "made" / "manifest.json").read_text())
    assert (
        manifest["run"]["command"] == "cascade calibrate"
        and manifest["run"]["task"] == "rows.jsonl"
    )
    assert manifest["run"]["scores"] == ["entropy"] and manifest["result"]["promise"]["n"] == 14
    return folder


def test_a_cascade_answers_wherever_a_model_does(folder: Path) -> None:
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS[:3]))
    out = folder / "answers.jsonl"
    done = run("run", folder / "made", "--questions", questions, "--output", out)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"] and "wrote 3 answers" in done.stdout
    assert all(row["attempts"][0]["model"] == f"hf:{folder / 'small'}" for row in rows)
    again = run("run", folder / "made", "--questions", questions, "--output", out, "--json")
    told_ = json.loads(again.stdout)
    assert told_["n"] == 3 and sum(told_["answered"].values()) == 3
    words = ["eval", "--task", str(folder / "rows.jsonl"), "--max-tokens", "10"]
    words += ["--model", f"cascade:{folder / 'made'}"]
    done = subprocess.run(
        [sys.executable, "-m", "featherweight", *words, "--output", str(folder / "run"), "--json"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 30
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    assert len(manifest["run"]["model"]["stages"]) == 2


def test_a_stage_that_failed_is_told_of() -> None:
    """It was passed over, so every question has an answer, and a bill."""
    failed = {"stage": 0, "model": "gguf:small", "outcome": "failed", "error": "it is down"}
    taken = {"stage": 1, "model": "gguf:large", "outcome": "answered", "error": None}
    took = {"prompt_tokens": 2, "completion_tokens": 1, "seconds": 0.5, "saved_tokens": 0}
    row = {"id": "1", "model": "gguf:large", "error": None}
    rows = [{**row, "attempts": [{**failed, **took}, {**taken, **took}]}] * 3
    assert faults(rows) == {0: "3 times of 3 questions (it is down)"}
    assert run_json(rows)["failed_attempts"] == {"gguf:small": 3, "gguf:large": 0}
    assert faults([{**row, "attempts": [{**taken, **took}]}]) == {}


def test_learning_on_the_way(folder: Path) -> None:
    questions, state = folder / "more.jsonl", folder / "state.json"
    rows = [{"prompt": f"{TEXTS[i % 3][:30]} {i}"} for i in range(6)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("run", folder / "made", "--questions", questions, "--max-tokens", 4, "--learn", state)
    done = run(*words, "--output", folder / "learned.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    # nothing is known yet, so all stages are asked
    told_ = json.loads(done.stdout)
    assert told_["answered"] == {f"hf:{folder / 'large'}": 6}
    assert told_["audit"] == {"n": 0, "agreement": None}
    before = state.read_bytes()
    done = run(*words, "--output", folder / "again.jsonl")
    assert done.returncode == 0 and state.read_bytes() != before  # it goes on from there
    assert "agree with the last stage: not known yet" in done.stdout
    done = run(*words, "--output", folder / "x.jsonl", "--price", 0.3)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "price" in done.stderr
    assert not (folder / "x.jsonl").exists()
    assert run(*words, "--output", folder / "x.jsonl", "--price", 0).returncode == 2
    done = run(*words, "--output", state)
    assert done.returncode == 2 and "name two files" in done.stderr
    before = questions.read_bytes()
    done = run("run", folder, "--questions", questions, "--output", questions)
    assert done.returncode == 2 and "name two files" in done.stderr
    assert questions.read_bytes() == before


def test_another_model_under_the_rule_is_refused(folder: Path) -> None:
    rule = json.loads((folder / "made" / "rule.json").read_text())
    rule["stages"][0]["identity"]["weights"] = "0" * 64
    (folder / "other").mkdir()
    (folder / "other" / "rule.json").write_text(json.dumps(rule))
    questions = folder / "one.jsonl"
    questions.write_text('{"prompt": "x"}\n')
    done = run("run", folder / "other", "--questions", questions, "--output", folder / "o.jsonl")
    assert done.returncode == 1 and "not the weights that the rule was made for" in done.stderr
    assert "Traceback" not in done.stderr and not (folder / "o.jsonl").exists()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    write_log(told(450), path)
    return path


def test_quality_says_first_what_the_data_can_support(log: Path, tmp_path: Path) -> None:
    done = run("calibrate", "--log", log, "--quality", 1, "--output", tmp_path / "a")
    assert done.returncode == 1 and not (tmp_path / "a").exists()
    first, error = done.stderr.splitlines()
    assert first.startswith("75 groups can prove a drop of 4.2 accuracy") and "0.95" in first
    assert error.startswith("error: 75 groups can prove") and "needs 321 groups" in error
    done = run("calibrate", "--log", log, "--quality", 25, "--delta", 0.1, "--json",
               "--output", tmp_path / "a")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["promise"]["epsilon"] == 25 and found["promise"]["groups"] == 75
    assert json.loads((tmp_path / "a" / "rule.json").read_text())["promise"]["kind"] == "quality"


@pytest.mark.parametrize("delta", [0, 1, 1.5])
def test_a_delta_that_is_no_risk(log: Path, tmp_path: Path, delta: float) -> None:
    done = run("calibrate", "--log", log, "--quality", 5, "--delta", delta,
               "--output", tmp_path / "a")  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"a delta of {delta:g} is no risk; give one between 0 and 1" in done.stderr


def test_a_folder_in_use_is_left_alone(log: Path, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    done = run("calibrate", "--log", log, "--budget", 0.3, "--output", tmp_path)
    assert done.returncode == 2 and "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.mark.parametrize(
    "words", [(), ("--budget", "0.3", "--quality", "5"), ("--usd", "1", "--seconds", "2")]
)
def test_one_target(log: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run("calibrate", "--log", log, "--output", tmp_path / "a", *words)
    assert done.returncode == 2 and "name one target" in done.stderr


def test_a_mean_cost(log: Path, tmp_path: Path) -> None:
    words = ("calibrate", "--log", log, "--output", tmp_path / "a")
    for bad in ("inf", "nan", "-1", "0"):
        done = run(*words, "--seconds", bad)
        assert done.returncode == 2 and f"--seconds {bad} is no cost" in done.stderr
    done = run(*words, "--seconds", 5)
    assert done.returncode == 0, done.stderr
    assert re.match(r"a mean of 4\.\d+ \[\d.*, .*\] seconds a question here; nothing", done.stdout)
    done = run(*words[:-1], tmp_path / "b", "--seconds", 100)
    assert "the first stage answers all of them" not in done.stdout
    done = run(*words[:-1], tmp_path / "c", "--budget", 0.0135)
    assert "the first stage answers all of them: no other was asked" in done.stdout


def test_a_home_that_the_shell_did_not_expand(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "home.jsonl").write_text('{"prompt": "easy"}\n')
    done = run(
        "run", "~/made", "--questions", folder / "home.jsonl", "--output", folder / "h.jsonl"
    )
    assert done.returncode == 0, done.stderr


def test_curves(log: Path, tmp_path: Path) -> None:
    picture = tmp_path / "c.svg"
    done = run("curve", "--log", log, "--score", "mean", "--score", "min", "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert "n = 150 questions in 75 groups, accuracy" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("m")] == [
        "mean",
        "min",
    ]
    assert picture.read_text().startswith("<?xml")
    assert done.stderr == f"wrote {picture}\n"
    rows = run("curve", "--log", log, "--csv").stdout.splitlines()
    assert len(rows) == 102 and rows[0].startswith("curve,deferral,seconds")
    found = json.loads(run("curve", "--log", log, "--json").stdout)
    assert 0 < found["scores"]["mean"]["s_d"]["value"] < 1
    done = run("curve", "--log", log, "--plot", tmp_path / "c.pdf")
    assert done.returncode == 1 and "end its name in .png" in done.stderr


def test_a_log_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"id": "a"}\n')
    for words in (("calibrate", "--budget", "0.3", "--output", tmp_path / "a"), ("curve",)):
        done = run(*words, "--log", path)
        assert done.returncode == 1 and "its first line is no header" in done.stderr
        assert "Traceback" not in done.stderr


def test_one_stage_is_no_cascade(folder: Path) -> None:
    done = run("log", "--task", folder / "rows.jsonl", "--stage", f"hf:{folder / 'small'}",
               "--output", folder / "x")  # fmt: skip
    assert done.returncode == 1 and "name the large one too" in done.stderr
