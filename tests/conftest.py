"""Where things are."""

import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def sample(root: Path) -> Path:
    """A meeting of 62 turns with speakers and times."""
    return root / "tests" / "data" / "product-launch.vtt"


# tests started in the background by a shell inherit that SIGINT is ignored, and so would children
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
