"""Where things are."""

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
