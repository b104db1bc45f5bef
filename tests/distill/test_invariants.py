"""Equal set-ups follow one trajectory, through the command line (after TRL's invariant tests)."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainings import environment, losses, other_weights, setting, train, weights

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return setting(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def once(folder: Path) -> Path:
    """All eight examples of a step at once."""
    return train(folder, "1x8")


def same(a: Path, b: Path, close: float = 1e-5) -> None:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=close, atol=close, msg=name)
    for step, loss in losses(a).items():
        assert losses(b)[step] == pytest.approx(loss, rel=1e-4), step


def test_it_learns_and_the_last_window_is_short(once: Path, folder: Path) -> None:
    start, end = weights(folder / "model"), weights(once)
    assert max(float((start[k] - end[k]).abs().max()) for k in end) > 0.01
    assert sorted(losses(once)) == list(range(1, 7))  # 20 rows: 8, 8, 4, twice


def test_accumulation_is_no_other_training(once: Path, folder: Path) -> None:
    same(once, train(folder, "8x1", **{"micro-batch": 1}))


def test_two_processes_are_no_other_training(once: Path, folder: Path) -> None:
    same(once, train(folder, "2 processes x 4", processes=2, **{"micro-batch": 4}))
    same(once, train(folder, "2 processes x 1", processes=2, **{"micro-batch": 1}))


# -- with a teacher


@pytest.fixture(scope="module")
def teacher(folder: Path) -> str:
    return other_weights(folder / "model", folder / "teacher")


@pytest.fixture(scope="module")
def neo(folder: Path, teacher: str) -> Path:
    return train(folder, "neo", method="neo", teacher=teacher)


def test_neo_in_two_processes_is_no_other_training(folder: Path, teacher: str, neo: Path) -> None:
    same(neo, train(folder, "neo 2x4", 2, method="neo", teacher=teacher, **{"micro-batch": 4}))


@pytest.mark.parametrize("kept", [("hidden",), ("topk", "--k", "360", "--store", "float32")])
def test_a_teacher_on_disk_is_the_one_in_memory(
    folder: Path, teacher: str, neo: Path, kept: tuple[str, ...]
) -> None:
    cache = folder / kept[0]
    words = ["--teacher", teacher, "--data", str(folder / "rows.jsonl"), "--output", str(cache)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "featherweight",
            "teach",
            *words,
            "--dtype",
            "fp32",
            "--keep",
            *kept,
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    same(neo, train(folder, f"neo {kept[0]}", method="neo", teacher=cache))


def test_a_teacher_that_weighs_nothing_is_none(folder: Path, teacher: str, once: Path) -> None:
    same(once, train(folder, "kd 0", method="kd", teacher=teacher, **{"kd-weight": 0}))


def test_cat_without_a_mask_is_lora(folder: Path, teacher: str) -> None:
    plain = train(folder, "lora", method="lora")
    same(plain, train(folder, "cat, all", method="cat-xent", mask="all", teacher=teacher))
