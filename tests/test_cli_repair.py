"""The command repair: what it prints, exit codes, streams; train --tune prompt."""

import json
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from featherweight.cli import app

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_banks import save_tiny_whole  # noqa: E402
from trainings import environment, setting  # noqa: E402

from featherweight.distill.trainer import ObjectiveTrainer  # noqa: E402
from featherweight.engines import Request, load_engine  # noqa: E402
from featherweight.engines.hf_bank import read_bank  # noqa: E402
from featherweight.show_compress import work_progress  # noqa: E402
from featherweight.show_train import TrainView  # noqa: E402

pytestmark = pytest.mark.model


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


def refused(code: int, *arguments: object) -> str:
    """The one sentence on standard error; standard output stays clean."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ") and line.endswith(".")
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = setting(tmp_path_factory.mktemp("cli"))
    save_tiny_whole(found / "whole")
    rows = [json.loads(line) for line in (found / "rows.jsonl").read_text().splitlines()[:5]]
    others = [row | {"target": f"Not that: {row['target']}"} for row in rows]
    (found / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    return found


def asked(folder: Path, output: Path, *more: object) -> list[object]:
    fast = ["--steps", 2, "--batch", 4, "--micro-batch", 4, "--dtype", "fp32"]
    if {"prompts", "idp", "prefix"} & {*more}:
        fast += ["--prompt-tokens", 4]
    data = ("--data", folder / "rows.jsonl", "--output", output)
    return ["repair", f"hf:{folder / 'whole'}", *data, *fast, *more]


def val(folder: Path) -> tuple[object, ...]:
    return ("--val", folder / "val.jsonl", "--val-limit", 5)


def test_a_bank_is_made_and_told(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "bank"
    how = ("--method", "idp", "--prompts", 2, "--seed", 3, "--lr", 0.05, *val(folder))
    result = call(*asked(folder, output, *how))
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((output / "manifest.json").read_text())
    found = manifest["val"]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["no", "prompt", f"{found['none']:.4f}"] in lines
    for k, loss in enumerate(found["each"]):
        best = [",", "the", "best", "single"] if k == found["best"] else []
        words = ["prompt", f"{k}" + best[0], *best[1:]] if best else ["prompt", f"{k}"]
        assert [*words, f"{loss:.4f}", str(manifest["chosen"][k])] in lines
    assert ["the", "best", "for", "each", "(oracle)", f"{found['oracle']:.4f}"] in lines
    ways = found["ways"][:5]
    table = lines[[line[:2] for line in lines].index(["chosen", "by"]) + 1 :][: len(ways)]
    for way, line in zip(ways, table, strict=True):
        how_chosen = way["selection"]
        assert line[:4] == ["layer", f"{how_chosen['layer']},", how_chosen["tokens"], line[3]]
        assert ("without" in line) != how_chosen["first_key"]
        assert ("against" in line) == bool(how_chosen["usual"])
        assert line[-3:] == [f"{way['loss']:.4f}", *map(str, way["wins"])]
    assert ["256", "numbers", "added"] in lines
    assert result.stdout.splitlines()[-1] == f"{output} opens as hf:{output}"
    assert re.search(r"prompt 1, one of 2", result.stderr)
    parts = [json.loads((output / "prompts" / k / "manifest.json").read_text()) for k in "01"]
    assert [part["run"]["settings"]["seed"] for part in parts] == [3, 4]
    engine = load_engine(f"hf:{output}", dtype="fp32")
    assert next(iter(engine.generate([Request("The team", max_tokens=2)]))).error is None
    engine.close()
    # the same command again: the same, at once; as JSON too
    again = call(*asked(folder, output, *how))
    assert (again.exit_code, again.stdout, again.stderr) == (0, result.stdout, "")
    as_json = call(*asked(folder, output, *how, "--json"))
    assert json.loads(as_json.stdout) == manifest and as_json.stderr == ""
    assert "holds another repair (count differ)" in refused(
        1, *asked(folder, output, *how, "--prompts", 3)
    )


def test_an_adapter_is_made_and_told(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "lora"
    result = call(*asked(folder, output, "--method", "lora", "--rank", 2))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{output} opens as hf:{output}\n"
    assert re.search(r"^rank +2", result.stderr, re.MULTILINE)
    assert json.loads((output / "adapter_config.json").read_text())["r"] == 2


def test_a_prefix_as_json(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "prefix"
    result = call(*asked(folder, output, "--method", "prefix", *val(folder), "--json"))
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told == json.loads((output / "manifest.json").read_text())
    assert told["method"] == "prefix" and told["m"] == 1 and told["n"] == 4
    assert told["result"]["steps"] == 2 and told["parameters"] == 2 * 4 * 2 * 4 * 8


def test_refusals(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "o"
    way = ("--method", "idp")
    ask = asked(folder, output)
    assert "name one with --val" in refused(1, *ask, *way)
    assert "give it 2 or more" in refused(1, *ask, *way, "--prompts", 1, *val(folder))
    assert "name it with --teacher" in refused(1, *ask, "--method", "neo")
    assert "choose neo" in refused(1, *ask, "--method", "lora", "--teacher", "hf:x")
    assert "20 rows" in refused(1, *ask, *way, "--prompts", 30, *val(folder))
    assert "is no engine" in refused(2, *ask, "--method", "neo", "--teacher", "gpt-7")
    assert "/nowhere" in refused(1, *ask, "--method", "neo", "--teacher", "hf:/nowhere")
    assert "is a file and has no part 'nothing'" in refused(2, *ask, *way, "--val", "nothing")
    data = ask[ask.index("--data") + 1]
    assert "are learnt, where the best is who" in refused(1, *ask, *way, "--val", data)
    assert "does not read --split" in refused(2, *ask, *way, *val(folder), "--split", "val")
    for method, option in (("lora", "--prompts"), ("neo", "--prompt-tokens"), ("idp", "--rank")):
        line = refused(2, *ask, "--method", method, option, 3)
        assert f"{option} is for " in line and f", not for {method}; leave it out." in line
    assert "nothing.jsonl" in refused(2, *ask, *way, "--data", "nothing.jsonl")
    assert "no multiple of micro_batch" in refused(2, *ask, *way, "--micro-batch", 3)
    assert "lr is 0.0; it must be above 0" in refused(2, *ask, *way, "--lr", 0)
    assert not (output / "bank.json").exists()
    broken = shutil.copytree(folder / "whole", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    nan = [f"hf:{broken}" if one == ask[1] else one for one in ask]
    assert "logits hold NaN or infinity" in refused(1, *nan, "--method", "lora")
    assert "holds no weights that" in refused(1, *ask, "--method", "spp")
    for wrong, word in (("--method", "soup"), ("--seed", "-1"), ("--prompts", "0")):
        result = call(*ask, *way, wrong, word)
        assert result.exit_code == 2 and wrong in result.stderr and result.stdout == ""


def test_tune_prompt_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    model, rows = f"hf:{folder / 'whole'}", folder / "rows.jsonl"
    how = ("--batch", 4, "--micro-batch", 4, "--dtype", "fp32", "--prompt-tokens", 3)
    ask = ("train", "--student", model, "--data", rows, *how)
    for tune, names in (("prompt", {"prompts"}), ("prefix", {"keys", "values"})):
        output = tmp_path / tune
        result = call(*ask, "--tune", tune, "--steps", 2, "--output", output)
        assert result.exit_code == 0, result.stderr
        told = dict(re.findall(r"^(tune|method|places|lr|trained) +(\S+)", result.stderr, re.M))
        count = 3 * 32 if tune == "prompt" else 2 * 4 * 2 * 3 * 8
        assert told == {
            "method": "sft", "tune": tune, "places": "3", "lr": "0.01", "trained": str(count)
        }  # fmt: skip
        assert f"use it with --model hf:{output}" in result.stdout
        stored = read_bank("b", output)
        assert set(stored.tensors) == names and (stored.m, stored.n) == (1, 3)
    line = refused(1, *ask, "--tune", "prompt", "--method", "lora", "--output", tmp_path / "no")
    assert "for --tune prompt say --method sft" in line
    wrong = ("--tune", "prompt", "--gradient-checkpointing", "--output", tmp_path / "no")
    assert "leave --gradient-checkpointing out" in refused(1, *ask, *wrong)


KILLED = """
    import os, signal, sys
    from featherweight.distill.trainer import ObjectiveTrainer as T
    old, begun = T.training_step, []
    def step(self, *a):
        begun.extend([self] * (self.state.global_step == 0))
        if len(begun) == 2 and self.state.global_step == 1:  # in the second prompt
            os.kill(os.getpid(), signal.SIGKILL)
        return old(self, *a)
    T.training_step = step
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the killed process has: the order in which floats are added up is part of a trajectory."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.e2e
@pytest.mark.usefixtures("one_thread")
def test_killed_it_goes_on(folder: Path, tmp_path: Path) -> None:
    how = ("--method", "prompts", "--prompts", 2, "--save-every", 1, *val(folder))
    words = [str(word) for word in asked(folder, tmp_path / "cut", *how)]
    program = f"{textwrap.dedent(KILLED)}\nsys.argv[1:] = {words!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", program + "from featherweight.cli import main\nmain()\n"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "cut" / "bank.json").exists()
    resumed, whole = (call(*asked(folder, tmp_path / name, *how)) for name in ("cut", "whole"))
    assert (resumed.exit_code, whole.exit_code) == (0, 0), resumed.stderr
    assert resumed.stderr.count("going on after step 1") == 1
    assert "going on" not in whole.stderr
    for name in ("prompts.safetensors", "bank.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    strip = str(tmp_path / "whole"), str(tmp_path / "cut")
    assert whole.stdout.replace(*strip) == resumed.stdout


def test_stopped_by_the_user(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C: no traceback, the way on is said."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ObjectiveTrainer, "training_step", stop)
    for method in ("prompts", "lora"):
        result = call(*asked(folder, tmp_path / method, "--method", method, *val(folder)))
        assert (result.exit_code, result.stdout) == (130, "")
        last = result.stderr.splitlines()[-1]
        assert last == "stopped; the same command goes on where it was."
    monkeypatch.undo()
    again = call(*asked(folder, tmp_path / "lora", "--method", "lora", *val(folder)))
    assert again.exit_code == 0, again.stderr


# -- what a terminal shows


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def plan(view: TrainView) -> Any:
    view("plan", {"rows": [("trained", "all", "")], "steps": 2})
    return view._bar


@pytest.mark.usefixtures("terminal")
def test_one_bar_at_a_time() -> None:
    """Two of them would draw over each other."""
    with TrainView(Console()) as view, work_progress() as progress:
        assert progress is not None
        view("prompt", {"number": 0, "of": 3})
        first = plan(view)
        assert first.live.is_started
        view("prompt", {"number": 1, "of": 3})
        assert not first.live.is_started
        second = plan(view)
        assert second.live.is_started
        for step in (1, 2):
            assert second.live.is_started
            view("step", {"step": step, "steps": 2})
        assert not second.live.is_started  # nothing is left to do
        progress("prompts on val", 1, 3)
        third = plan(view)
        assert third.live.is_started
    assert not third.live.is_started
