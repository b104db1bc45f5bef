"""train and teach from the command line: YAML, JSON for machines, wrong usage."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from trainings import arguments, environment, losses, setting

pytestmark = [pytest.mark.e2e, pytest.mark.model]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return setting(tmp_path_factory.mktemp("cli"))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "featherweight", *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_yaml_gives_defaults_and_the_command_line_wins(folder: Path) -> None:
    config = folder / "run.yaml"
    config.write_text(
        f"student: hf:{folder / 'model'}\n"
        f"data: {folder / 'rows.jsonl'}\n"
        "method: sft\nlr: 0.01\nsteps: 7\nmicro-batch: 2\ndtype: fp32\n"
    )
    out = folder / "yaml"
    done = run("train", "--config", str(config), "--steps", "2", "--output", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    settings = json.loads((out / "manifest.json").read_text())["run"]["settings"]
    assert (settings["lr"], settings["steps"], settings["method"]) == (0.01, 2, "sft")
    assert re.search(r"steps +2 of 8 examples +2 at once", done.stderr)
    assert re.search(r"^lr +0\.01", done.stderr, re.MULTILINE) and "float32" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("studnet: x\n", "'studnet' is no option of train"),
        ("- a\n- b\n", "not a list of entries"),
        ("a: [", "cannot read"),
    ],
)
def test_a_wrong_yaml(folder: Path, text: str, words: str) -> None:
    (folder / "wrong.yaml").write_text(text)
    done = run("train", "--config", str(folder / "wrong.yaml"), "--output", str(folder / "w"))
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"batch": 8, "micro-batch": 3}, 2, "no multiple of micro_batch"),
        ({"eval-texts": 2}, 2, "need --val"),
        ({"data": "nothing.jsonl"}, 2, "nothing.jsonl"),
        ({"student": "gpt-7"}, 2, "is no engine"),
        ({"student": "hf:/nowhere"}, 1, "/nowhere"),
        ({"method": "neo"}, 1, "add --teacher"),
        ({"lr": "fast"}, 2, "--lr"),
        ({"val": "validaton"}, 2, "has no part 'validaton'"),
        ({"val": "val"}, 2, "give --val a file"),
        ({"split": "val"}, 2, "split"),
    ],
)
def test_wrong_usage(folder: Path, options: dict, code: int, words: str) -> None:
    done = run(*arguments(folder, "wrong", **options))
    assert done.returncode == code and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_taught_and_learnt(folder: Path) -> None:
    model, rows, cache = f"hf:{folder / 'model'}", str(folder / "rows.jsonl"), folder / "cache"
    told = ["--teacher", model, "--data", rows, "--output", str(cache), "--dtype", "fp32"]
    done = run("teach", *told, "--k", "8", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["examples"] == 20
    again = run("teach", *told, "--k", "8")
    assert again.returncode == 0 and f"--teacher {cache}" in again.stdout.replace("\n", " ")
    done = run(*arguments(folder, "neo", method="neo", teacher=cache, epochs=1))
    assert done.returncode == 0, done.stderr
    assert "kd" in done.stderr and "--model hf:" in done.stdout
    other = run("teach", *told, "--k", "9")
    assert other.returncode == 1 and "another teacher's cache" in other.stderr


@pytest.mark.parametrize("method", ["cat-xent", "cat-dist", "gatekeeper"])
def test_losses_of_a_cascade(folder: Path, method: str) -> None:
    adam = {"optimiser": "adamw_torch", "lr": 0.01, "clip": 1}
    if not (folder / "knowing").exists():  # a teacher that is right now and then
        assert run(*arguments(folder, "knowing", epochs=20, **adam)).returncode == 0
    more = {} if method == "gatekeeper" else {"teacher": f"hf:{folder / 'knowing'}"}
    done = run(*arguments(folder, method, method=method, epochs=6, **adam, **more))
    assert done.returncode == 0, done.stderr
    seen = list(losses(folder / method).values())
    assert 0 < seen[-1] < seen[0] and re.search(rf"method +{method} ", done.stderr)


def test_texts_that_were_all_cut_off_are_no_data(folder: Path) -> None:
    model, rows = f"hf:{folder / 'model'}", str(folder / "rows.jsonl")
    out = folder / "texts"
    told = ["--teacher", model, "--data", rows, "--output", str(out), "--max-tokens", "1"]
    done = run("teach", *told, "--keep", "text")
    assert done.returncode == 1 and "ended no answer" in done.stderr, done.stderr
    assert "raise --max-tokens" in done.stderr and not (out / "rows.jsonl").exists()
