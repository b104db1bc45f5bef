"""Killed at the worst moments, a training goes on as if nothing had been: one trajectory."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import orjson
import pytest
import torch
from trainings import arguments, environment, losses, setting, train, weights

from featherweight.cli_io import STOPPED
from featherweight.distill import checkpoints

pytestmark = pytest.mark.e2e
OPTIONS = {"method": "lora", "optimiser": "adamw_torch", "schedule": "cosine", "save-every": 2}
SMALL = {**OPTIONS, "micro-batch": 4, "epochs": 3, "lr": 0.01}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return setting(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def never_stopped(folder: Path) -> Path:
    return train(folder, "whole", **SMALL)


def run(folder: Path, out: str, patch: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, `patch` first."""
    program = (
        textwrap.dedent(patch)
        + f"\nsys.argv[1:] = {arguments(folder, out, **options)!r}\n"
        + "from featherweight.cli import main\nmain()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def same(a: Path, b: Path) -> None:
    one, other = weights(a), weights(b)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
    for step, loss in losses(b).items():
        assert losses(a)[step] == pytest.approx(loss, rel=1e-6), step


IN_EPOCH = """
    import os, signal, sys
    from featherweight.distill.trainer import ObjectiveTrainer as T
    old = T.training_step
    def step(self, *a):
        if self.state.global_step == 5:  # in the second epoch; the last checkpoint is of step 4
            os.kill(os.getpid(), signal.SIGKILL)
        return old(self, *a)
    T.training_step = step
"""
BEFORE_MARK = """
    import os, signal, sys
    from featherweight.distill import checkpoints
    old = checkpoints.finish
    def finish(checkpoint, keep):
        if checkpoint.name == "checkpoint-4":  # everything is written, the mark is not
            os.kill(os.getpid(), signal.SIGKILL)
        old(checkpoint, keep)
    checkpoints.finish = finish
"""
IN_WRITE = """
    import os, signal, sys, torch
    old = torch.save
    def save(value, path, *a, **k):
        old(value, path, *a, **k)
        if "checkpoint-4" in str(path) and "optimizer" in str(path):
            with open(path, "r+b") as file:
                file.truncate(100)
            os.kill(os.getpid(), signal.SIGKILL)
    torch.save = save
"""
IN_REMOVAL = """
    import os, signal, sys
    from featherweight.distill import checkpoints
    old = checkpoints.shutil.rmtree
    def rmtree(path, *a, **k):
        if "checkpoint-2" in str(path):  # the new one is complete, the old one half gone
            next(p for p in path.iterdir() if p.name == "optimizer.pt").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        old(path, *a, **k)
    checkpoints.shutil.rmtree = rmtree
"""


@pytest.mark.parametrize(
    ("name", "patch", "left"),
    [
        ("in-epoch", IN_EPOCH, 4),
        ("before-mark", BEFORE_MARK, 2),
        ("in-write", IN_WRITE, 2),
        ("in-removal", IN_REMOVAL, 4),
    ],
)
def test_killed_and_resumed(
    folder: Path, never_stopped: Path, name: str, patch: str, left: int
) -> None:
    assert run(folder, name, patch, **SMALL).returncode == -signal.SIGKILL
    last = checkpoints.newest(folder / name / "checkpoints")
    assert last is not None and checkpoints.step_of(last) == left
    same(train(folder, name, **SMALL), never_stopped)
    assert not (folder / name / "checkpoints").exists()
    result, whole = (
        orjson.loads((path / "manifest.json").read_bytes())["result"]
        for path in (folder / name, never_stopped)
    )
    assert result["steps"] == 9 and result["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    rows = list(map(orjson.loads, (folder / name / "log.jsonl").read_bytes().splitlines()))
    spent = [row["seconds"] for row in rows if row["step"] == left]
    assert result["seconds"] > min(spent) > 0  # the first session counts
    resumed = rows[[row["step"] for row in rows].index(left) + 1 :]
    assert all(row["seconds"] > spent[0] for row in resumed if "seconds" in row)


FULL = """
    import sys, torch
    old = torch.save
    def save(value, path, *a, **k):
        if "checkpoint-4" in str(path):
            raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")
        old(value, path, *a, **k)
    torch.save = save
"""


def test_a_full_disk_keeps_the_last_checkpoint(folder: Path, never_stopped: Path) -> None:
    done = run(folder, "full", FULL, **SMALL)
    assert done.returncode == 1
    error = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "checkpoint-4" in error[0] and "checkpoint-2 is kept" in error[0], done.stderr
    same(train(folder, "full", **SMALL), never_stopped)


def test_stopped_by_the_user(folder: Path, never_stopped: Path) -> None:
    """Control-C: no traceback, the way on is said, and it goes on."""
    patch = textwrap.dedent(IN_EPOCH).replace("SIGKILL", "SIGINT")
    # a background job's children ignore it otherwise
    patch += "\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    done = run(folder, "stopped", patch, **SMALL)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == STOPPED
    same(train(folder, "stopped", **SMALL), never_stopped)


def test_finished_is_finished(folder: Path, never_stopped: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in never_stopped.iterdir()}
    train(folder, "whole", **SMALL)
    assert before == {p.name: p.stat().st_mtime_ns for p in never_stopped.iterdir()}


@pytest.mark.parametrize("kept", ["best", "none"])
def test_only_complete_checkpoints_count(tmp_path: Path, kept: str) -> None:
    for step in (2, 10, 9):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "x").write_text("x")
    assert checkpoints.newest(tmp_path) is None
    best = {tmp_path / "checkpoint-2"} if kept == "best" else set()
    checkpoints.finish(tmp_path / "checkpoint-9", best)
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-9"
    assert set(tmp_path.iterdir()) == {tmp_path / "checkpoint-9"} | best
    checkpoints.begin(tmp_path / "checkpoint-9")
    assert checkpoints.newest(tmp_path) is None
    assert set(tmp_path.iterdir()) == best
