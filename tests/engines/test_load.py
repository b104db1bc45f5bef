"""A spec opens the right engine, and only that one is imported."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from featherweight.engines import embedded
from featherweight.engines.load import load_engine
from featherweight.errors import EngineError


class Stub:
    """Stands in for an engine and keeps what it was given."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.args, self.settings = args, settings

    @classmethod
    def open(cls, *args: Any, **settings: Any) -> "Stub":
        return cls(*args, **settings)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    llama: Any = ModuleType("llama")
    llama.LlamaCppEngine = Stub
    hf: Any = ModuleType("hf")
    hf.TransformersEngine = Stub
    monkeypatch.setitem(sys.modules, "featherweight.engines.llama_cpp", llama)
    monkeypatch.setitem(sys.modules, "featherweight.engines.transformers", hf)
    monkeypatch.setattr(embedded, "embedded_model", lambda: Path("embedded.gguf"))


@pytest.mark.parametrize(
    ("spec", "args", "settings"),
    [
        ("smollm2-135m", (Path("embedded.gguf"),), {"name": "smollm2-135m", "adapter": None}),
        (
            "smollm2-135m-meetings",
            (Path("embedded.gguf"),),
            {"name": "smollm2-135m-meetings", "adapter": embedded.meetings_adapter()},
        ),
        ("gguf:a/b.gguf", (Path("a/b.gguf"),), {"name": "gguf:a/b.gguf", "adapter": None}),
        ("gguf:a.gguf+l.gguf", (Path("a.gguf"),), {"adapter": Path("l.gguf")}),
        ("hf:some/dir", ("some/dir",), {}),
        (" hf:owner/name ", ("owner/name",), {}),
    ],
)
def test_a_spec_opens_its_engine(
    stubs: None, spec: str, args: tuple[Any, ...], settings: dict[str, Any]
) -> None:
    engine: Any = load_engine(spec, extra=1)
    assert engine.args == args
    assert engine.settings.items() >= (settings | {"extra": 1}).items()


def test_the_default_is_the_embedded_model(stubs: None) -> None:
    settings = load_engine(parallel=2).settings  # type: ignore[attr-defined]
    assert settings == {
        "name": "smollm2-135m",
        "adapter": None,
        "parallel": 2,
        "context_length": 2048,
    }


def test_a_plus_in_a_files_own_name(stubs: None, tmp_path: Path) -> None:
    path = tmp_path / "a+b.gguf"
    path.touch()
    engine: Any = load_engine(f"gguf:{path}")
    assert engine.args == (path,) and engine.settings["adapter"] is None
    engine = load_engine(f"gguf:{path}+{tmp_path}/c+d.gguf")
    assert engine.args == (path,) and engine.settings["adapter"] == tmp_path / "c+d.gguf"


def test_a_server() -> None:
    engine = load_engine("openai:http://localhost:8000#org/model#2", concurrency=2)
    assert engine.name == "openai:http://localhost:8000/v1#org/model#2"
    assert engine.params is None and engine.attention_width is None
    engine.close()
    with pytest.raises(EngineError, match="names no model"):
        load_engine("openai:http://localhost:8000")


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("models/a.gguf", "did you mean gguf:models/a.gguf?"),
        ("{dir}", "did you mean hf:{dir}?"),
        ("http://localhost:8000", "did you mean openai:http://localhost:8000#MODEL?"),
        ("http://localhost:8000#m", "did you mean openai:http://localhost:8000#m?"),
        ("ggfu:a.bin", "did you mean gguf:a.bin?"),
        ("HF:x", "did you mean hf:x?"),
        ("opnai:http://a#m", "did you mean openai:http://a#m?"),
        ("smollm-135m", "did you mean smollm2-135m?"),
        ("owner/name", "did you mean hf:owner/name?"),
        ("", "the forms are"),
        ("zzz", "the forms are"),
        ("hf:", "names no model"),
        ("gguf: ", "names no model"),
    ],
)
def test_a_spec_that_means_nothing(spec: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        load_engine(spec.replace("{dir}", str(tmp_path)))
    error = str(caught.value)
    assert hint.replace("{dir}", str(tmp_path)) in error and "openai:URL#MODEL" in error


@pytest.mark.parametrize(
    ("spec", "module", "extra"),
    [
        ("hf:x", "featherweight.engines.transformers", "train"),
        ("gguf:x", "featherweight.engines.llama_cpp", "local"),
        ("smollm2-135m", "featherweight.engines.llama_cpp", "local"),
    ],
)
def test_a_missing_package(
    monkeypatch: pytest.MonkeyPatch, spec: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # makes the import fail
    with pytest.raises(EngineError, match=rf"pip install 'featherweight\[{extra}\]'"):
        load_engine(spec)


def test_only_the_chosen_engine_is_imported() -> None:
    code = (
        "import sys; from featherweight.engines.load import load_engine;"
        "assert 'aiohttp' not in sys.modules;"
        "load_engine('openai:http://localhost:1#m');"
        "assert not {'torch', 'transformers', 'xllamacpp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
