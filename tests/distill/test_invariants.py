"""Equal set-ups follow one trajectory, through the command line (after TRL's invariant tests)."""

from pathlib import Path

import pytest
import torch
from distill.runs import losses, setting, train, weights

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
