"""Where things are."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trained_t5 import TrainedT5


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def sample(root: Path) -> Path:
    """A meeting of 62 turns with speakers and times."""
    return root / "tests" / "data" / "product-launch.vtt"


@pytest.fixture(scope="session")
def trained_t5(root: Path, tmp_path_factory: pytest.TempPathFactory) -> "TrainedT5":
    from trained_t5 import train_t5

    return train_t5(root / "tests" / "data" / "qmsum-pairs.jsonl", tmp_path_factory.mktemp("t5"))


# tests started in the background by a shell inherit that SIGINT is ignored, and so would children
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
