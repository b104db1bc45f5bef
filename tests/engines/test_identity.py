"""An identity follows the weights, and nothing but what is read."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from featherweight.engines import embedded
from featherweight.engines.identity import gguf_parts, identity
from featherweight.errors import EngineError, UnknownModelError
from featherweight.files import digest


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def gguf(path: Path, text: str) -> Path:
    path.write_text("GGUF" + text)
    return path


def test_a_gguf_file_and_its_adapter(tmp_path: Path) -> None:
    model, adapter = gguf(tmp_path / "m.gguf", "one"), gguf(tmp_path / "a.gguf", "two")
    spec = f"gguf:{model}+{adapter}"
    assert identity(spec) == {
        "spec": spec,
        "weights": sha("GGUFone"),
        "adapter": sha("GGUFtwo"),
    }
    assert identity(f" gguf:{model} ") == {"spec": f"gguf:{model}", "weights": sha("GGUFone")}


def test_a_split_gguf_is_all_its_parts(tmp_path: Path) -> None:
    first, second = (gguf(tmp_path / f"m-0000{i}-of-00002.gguf", f"{i}") for i in (1, 2))
    assert gguf_parts(second) == [first, second] and gguf_parts(tmp_path / "m.gguf")
    before = identity(f"gguf:{first}")["weights"]
    assert before == digest([second, first])
    gguf(second, "changed")
    assert identity(f"gguf:{first}")["weights"] != before
    second.unlink()
    with pytest.raises(EngineError, match="m-00002-of-00002"):
        identity(f"gguf:{first}")


def test_the_embedded_model_is_the_shipped_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_CACHE", str(tmp_path / "cache"))
    shipped = gguf(tmp_path / "shipped.gguf", "weights")
    monkeypatch.setattr("featherweight.engines.identity.shipped_model", lambda: shipped)
    assert identity("smollm2-135m") == {"spec": "smollm2-135m", "weights": sha("GGUFweights")}
    tuned = identity("smollm2-135m-meetings")
    assert tuned["weights"] == sha("GGUFweights") and len(tuned["adapter"]) == 64
    fast = embedded.fast_copy(shipped)
    fast.parent.mkdir(parents=True)
    fast.touch()
    found = identity("smollm2-135m")
    assert found["weights"] == sha("GGUFweights") and "Q8_0" in found["note"]


def test_a_server_is_known_by_url_and_name() -> None:
    found = identity("openai:http://localhost:1/v1/chat/completions#some/model")
    assert found["spec"] == "openai:http://localhost:1/v1#some/model"
    assert found["weights"] is None and "remote" in found["note"]
    with pytest.raises(EngineError, match="user name or password"):
        identity("openai:http://me:secret@localhost:1#m")


@pytest.mark.parametrize("spec", ["smollm", "gguf:", ""])
def test_a_spec_that_means_nothing(spec: str) -> None:
    with pytest.raises(UnknownModelError, match="the forms are"):
        identity(spec)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="check the path"):
        identity(f"gguf:{tmp_path / 'no.gguf'}")


def test_the_shell_makes_the_same_digest(tmp_path: Path) -> None:
    for name in ("b", "a", "C", "a-2"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    command = "sha256sum *.safetensors | sha256sum"
    try:
        told = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env={"LC_ALL": "C"}, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("no bash")
    if told.returncode:
        pytest.skip("no sha256sum")
    assert told.stdout.split()[0].decode() == digest(tmp_path.glob("*.safetensors"))


def directory(folder: Path) -> Path:
    folder.mkdir()
    for name in ("model-1.safetensors", "model-2.safetensors", "config.json", "tokenizer.json"):
        (folder / name).write_text(name)
    (folder / "README.md").write_text("words")
    return folder


@pytest.mark.model
class TestDirectories:
    """Not a model that runs, but resolving needs the packages of the transformers engine."""

    @pytest.fixture(autouse=True)
    def packages(self) -> None:
        pytest.importorskip("transformers")

    @pytest.mark.parametrize(
        ("file", "changed"),
        [
            ("model-2.safetensors", {"weights"}),
            ("config.json", {"config"}),
            ("generation_config.json", {"config"}),
            ("tokenizer.json", {"tokenizer"}),
            ("chat_template.jinja", {"tokenizer"}),
            ("README.md", set[str]()),
            ("training.log", set[str]()),
        ],
    )
    def test_each_digest_follows_its_files(
        self, tmp_path: Path, file: str, changed: set[str]
    ) -> None:
        folder = directory(tmp_path / "m")
        before = identity(f"hf:{folder}")
        assert set(before) == {"spec", "weights", "config", "tokenizer"}
        assert before["weights"] == digest(folder.glob("*.safetensors"))
        (folder / file).write_text("other")
        after = identity(f"hf:{folder}")
        assert {key for key in before if before[key] != after[key]} == changed

    def test_an_adapter_stands_on_its_base(self, tmp_path: Path) -> None:
        base = directory(tmp_path / "base")
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_text("low rank")
        (adapter / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": str(base)})
        )
        alone, found = identity(f"hf:{base}"), identity(f"hf:{adapter}")
        for key in ("weights", "config", "tokenizer"):
            assert found[key] == alone[key]
        assert found["base"] == str(base)
        (adapter / "adapter_model.safetensors").write_text("trained on")
        (adapter / "tokenizer_config.json").write_text("{}")
        after = identity(f"hf:{adapter}")
        assert {k for k in found if found[k] != after[k]} == {"adapter", "tokenizer"}
        (adapter / "adapter_config.json").write_text("{")
        with pytest.raises(EngineError, match="cannot be read"):
            identity(f"hf:{adapter}")

    def test_no_weights_no_identity(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="holds no model weights"):
            identity(f"hf:{tmp_path}")
