"""The public interface: every name there, nothing imported before it is used."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import featherweight


def run(code: str, root: Path) -> str:
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=root / "src", text=True
    )
    return found.stdout.strip()


def test_every_name_is_there() -> None:
    assert sorted(featherweight.__all__) == featherweight.__all__
    for name in featherweight.__all__:
        assert getattr(featherweight, name) is not None
    scope: dict[str, object] = {}
    exec("from featherweight import *", scope)
    assert set(featherweight.__all__) <= scope.keys()


def test_type_checkers_see_the_same_names(root: Path) -> None:
    source = (root / "src" / "featherweight" / "__init__.py").read_text()
    block = source.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    named = set(re.findall(r"\b(?!from|import|featherweight)[A-Za-z]\w+\b(?!\.)", block))
    rooms = {"engines", "errors", "retrieve", "summarize", "tasks", "transcript"}
    assert named - rooms == set(featherweight.__all__) - {"__version__"}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = featherweight.nonsense
    with pytest.raises(ImportError):
        exec("from featherweight import nonsense")


def test_errors_need_no_numpy(root: Path) -> None:
    code = "from featherweight import EngineError, Turn; import sys; print('numpy' in sys.modules)"
    assert run(code, root) == "False"


def test_the_version_is_the_installed_one(root: Path) -> None:
    source = (root / "src" / "featherweight" / "__init__.py").read_text()
    assert f'\n__version__ = "{featherweight.__version__}"\n' in source  # what the build reads
    try:
        assert metadata.version("featherweight") == featherweight.__version__
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
