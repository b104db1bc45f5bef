"""What lands on the disk, what does not, and that nothing is ever half there."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

from safetensors import SafetensorError  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_llama import save_tiny_llama, save_tiny_lora, tiny_tokenizer  # noqa: E402

from featherweight.distill import (  # noqa: E402
    Exported,
    export,
    export_adapter,
    export_gguf,
    export_safetensors,
)
from featherweight.engines import load_engine  # noqa: E402
from featherweight.engines.identity import identity  # noqa: E402
from featherweight.engines.llama_cpp import LlamaCppEngine  # noqa: E402
from featherweight.errors import EngineError, FeatherweightError, OutputError  # noqa: E402

pytestmark = pytest.mark.model
Write = Callable[..., Exported]
ALL: list[Write] = [export_safetensors, export_gguf, export_adapter]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bfloat16, as most models are."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("base"), tie_word_embeddings=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_lora(tmp_path_factory.mktemp("lora"), base)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where llama.cpp is not installed."""
    monkeypatch.setattr(export, "can_check", lambda: False)


# ---- safetensors


def test_a_merged_directory(base: Path, lora: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    found = export_safetensors(str(lora), out)
    assert found.type == "bf16" and found.format == "safetensors" and found.path == out
    assert found.merge_difference is not None and found.merge_difference < 1e-3
    # the cast costs more than the merge, and is measured on what lies there
    assert found.written_difference is not None
    assert found.merge_difference < found.written_difference < 0.5
    weights = load_file(out / "model.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights  # tied
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["tie_word_embeddings"] is True
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert identity(f"hf:{out}")["tokenizer"] == identity(f"hf:{base}")["tokenizer"]
    mode = 0o666 & ~umask()
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {mode}
    assert found.bytes == sum(path.stat().st_size for path in out.iterdir())
    # and it answers as the adapter does
    pairs = [("The team", " asked for a remote control")]
    ours, theirs = (
        next(load_engine(f"hf:{folder}", dtype="fp32").score(pairs)) for folder in (out, lora)
    )
    assert ours == pytest.approx(theirs, abs=0.2)
    assert ours != pytest.approx(theirs, abs=1e-6)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_manifest_says_where_it_came_from(lora: Path, tmp_path: Path) -> None:
    found = export_safetensors(str(lora), tmp_path / "out", "f16")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["command"] == "export" and manifest["type"] == "f16"
    assert manifest["model"] == identity(f"hf:{lora}")
    assert manifest["merge_difference"] == found.merge_difference
    assert manifest["written_difference"] == found.written_difference
    assert set(manifest["versions"]) == {"featherweight", "torch", "transformers", "safetensors"}


@pytest.mark.parametrize(
    ("type", "dtype"), [(None, torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_a_whole_model_in_another_type(tmp_path: Path, type: str | None, dtype: Any) -> None:
    model = save_tiny_llama(tmp_path / "model")
    found = export_safetensors(str(model), tmp_path / "out", type)
    before, after = (load_file(tmp_path / one / "model.safetensors") for one in ("model", "out"))
    assert before.keys() == after.keys()
    for key, weight in before.items():
        assert torch.equal(after[key], weight.to(dtype))
    assert found.merge_difference is None
    assert (found.written_difference == 0) is (type is None)


def test_a_trained_head_leaves_its_ties(base: Path, tmp_path: Path) -> None:
    lora = save_tiny_lora(
        tmp_path / "lora", base, target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    export_safetensors(str(lora), tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    old = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(weights["model.embed_tokens.weight"], old)


def test_an_adapter_with_a_tokenizer_of_its_own(base: Path, tmp_path: Path) -> None:
    lora = save_tiny_lora(tmp_path / "lora", base)
    own = tiny_tokenizer()
    own.chat_template = "{{ messages[0]['content'] }}"
    own.save_pretrained(lora)
    export_safetensors(str(lora), tmp_path / "out")
    template = tmp_path / "out" / "chat_template.jinja"
    assert template.read_text() == own.chat_template


def test_other_decoders_can_be_merged_but_not_written_as_gguf(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = transformers.Qwen2Config(
        vocab_size=360,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path / "qwen")
    tiny_tokenizer().save_pretrained(tmp_path / "qwen")
    lora = save_tiny_lora(tmp_path / "lora", tmp_path / "qwen")
    assert export_safetensors(str(lora), tmp_path / "out").merge_difference is not None
    for model in (tmp_path / "qwen", lora):
        with pytest.raises(EngineError, match="is a Qwen2ForCausalLM, but GGUF is written for"):
            export_gguf(str(model), tmp_path / "out.gguf")
    with pytest.raises(EngineError, match="is a Qwen2ForCausalLM"):
        export_adapter(str(lora), tmp_path / "out.gguf")


# ---- gguf


def fields(path: Path) -> dict[str, Any]:
    return {name: one.contents() for name, one in gguf.GGUFReader(path).fields.items()}


@pytest.mark.usefixtures("unchecked")
def test_what_a_gguf_file_says(base: Path, tmp_path: Path) -> None:
    found = export_gguf(str(base), tmp_path / "out.gguf")
    assert (found.type, found.check) == ("f16", None)
    assert found.notes == (export.NOT_CHECKED,)
    says = fields(found.path)
    assert says["general.architecture"] == "llama" and says["general.type"] == "model"
    assert says["general.name"] == base.name and says["general.file_type"] == 1
    assert says["tokenizer.ggml.pre"] == "gpt-2" and len(says["tokenizer.ggml.tokens"]) == 360
    assert says["llama.block_count"] == 2
    names = {one.name for one in gguf.GGUFReader(found.path).tensors}
    assert "output.weight" not in names and "token_embd.weight" in names


@pytest.mark.usefixtures("unchecked")
def test_end_tokens_of_the_generation_config(base: Path, tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "model")
    path = model / "generation_config.json"
    for ends, wanted in (([1, 5], (1, 5)), (1, (1, None)), (None, (1, None))):
        path.write_text(json.dumps({"eos_token_id": ends}))
        out = tmp_path / f"{wanted[1]}-{ends is None}.gguf"
        says = fields(export_gguf(str(model), out).path)
        end, other = (says.get(f"tokenizer.ggml.{one}_token_id") for one in ("eos", "eot"))
        assert (end, other) == wanted
    path.unlink()
    export_gguf(str(model), tmp_path / "none.gguf")
    path.write_text("{")
    with pytest.raises(EngineError, match="cannot be opened"):
        export_gguf(str(model), tmp_path / "bad.gguf")


@pytest.mark.usefixtures("unchecked")
def test_numbers_that_no_f16_holds(tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "model")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        loaded.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    loaded.save_pretrained(model)
    with pytest.raises(EngineError, match=r"blk\.0\.ffn_up\.weight holds 1e\+06, too large.*bf16"):
        export_gguf(str(model), tmp_path / "out.gguf", "f16")
    with pytest.raises(EngineError, match=r"up_proj\.weight that are not finite.*bf16"):
        export_safetensors(str(model), tmp_path / "out", "f16")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    export_gguf(str(model), tmp_path / "out.gguf", "bf16")


def test_a_whole_model_is_no_adapter(base: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is a whole model, not a LoRA adapter"):
        export_adapter(str(base), tmp_path / "out.gguf")


@pytest.mark.usefixtures("unchecked")
def test_an_adapter_without_a_check(lora: Path, tmp_path: Path) -> None:
    found = export_adapter(str(lora), tmp_path / "out.gguf")
    assert found.notes == (export.NOT_CHECKED,) and found.type == "f32"
    says = fields(found.path)
    assert (says["general.type"], says["adapter.type"]) == ("adapter", "lora")
    assert says["adapter.lora.alpha"] == 6.0


def test_types_that_a_format_has_not(base: Path, lora: Path, tmp_path: Path) -> None:
    for write, type in (
        (export_safetensors, "q8_0"),
        (export_gguf, "f32"),
        (export_adapter, "q8_0"),
    ):
        with pytest.raises(EngineError, match=f"is not written as {type}; choose .*f16, bf16"):
            write(str(lora), tmp_path / "out", type)


# ---- the place it is written to


@pytest.mark.parametrize("write", ALL)
def test_what_is_there_is_never_touched(write: Write, lora: Path, tmp_path: Path) -> None:
    folder, file, link = tmp_path / "folder", tmp_path / "file", tmp_path / "link"
    folder.mkdir()
    (folder / "work").write_text("of years")
    file.write_text("old")
    link.symlink_to(tmp_path / "nowhere")
    for path in (folder, file, link):
        with pytest.raises(OutputError, match=f"{path.name} is there already; remove it"):
            write(str(lora), path)
    assert (folder / "work").read_text() == "of years" and file.read_text() == "old"
    with pytest.raises(OutputError, match="there already"):
        write(str(lora), lora)


def test_an_empty_folder_is_free(lora: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "out").mkdir()
    export_safetensors(str(lora), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="there already"):
        export_gguf(str(lora), Path())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("write", ALL)
def test_somebody_else_was_faster(
    write: Write, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    saved, written = export._save, export.write_gguf

    def slow_save(*given: Any) -> None:
        saved(*given)
        out.write_text("theirs")

    def slow_write(*given: Any) -> None:
        written(*given)
        out.write_text("theirs")

    monkeypatch.setattr(export, "_save", slow_save)
    monkeypatch.setattr(export, "write_gguf", slow_write)
    with pytest.raises(OutputError, match="there already"):
        write(str(lora), out)
    assert out.read_text() == "theirs" and [p.name for p in tmp_path.iterdir()] == ["out"]


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def full_safetensors(*_: Any, **__: Any) -> None:
    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("failure", [full, full_safetensors, "stopped"])
@pytest.mark.parametrize("write", ALL)
def test_a_full_disk_or_an_impatient_user(
    write: Write, failure: Any, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if failure is full_safetensors and write is not export_safetensors:
        pytest.skip("no safetensors are written")

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    does = stopped if failure == "stopped" else failure
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", does)
    written = gguf.GGUFWriter.write_tensor_data
    count = [0]

    def third(self: Any, *tensor: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            does()
        written(self, *tensor)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", third)
    error: Any = KeyboardInterrupt if failure == "stopped" else OutputError
    message = "" if failure == "stopped" else "cannot write .*out: .*No space left.*has room"
    with pytest.raises(error, match=message):
        write(str(lora), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", ALL)
def test_places_that_cannot_be_written(write: Write, lora: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "out", Path("/proc/nowhere/out"), tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="cannot write"):
            write(str(lora), path)


def test_a_written_directory_that_answers_otherwise(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = export._save

    def spoiled(opened: Any, folder: Path) -> None:
        with torch.no_grad():
            opened.model.model.layers[0].self_attn.v_proj.weight.mul_(-3)
        saved(opened, folder)

    monkeypatch.setattr(export, "_save", spoiled)
    with pytest.raises(EngineError, match=r"as written differs by .* nothing was written"):
        export_safetensors(str(lora), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_the_gguf_package(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(EngineError, match=r"featherweight\[local\]"):
        export_gguf(str(base), tmp_path / "out.gguf")


def test_every_refusal_is_one_of_ours(base: Path, tmp_path: Path) -> None:
    for name in ("", "nowhere/at/all", str(tmp_path), str(base / "config.json"), "~nobody-/x"):
        for write in ALL:
            with pytest.raises(FeatherweightError):
                write(name, tmp_path / "out")


# ---- the real SmolLM2


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a transformers directory, its tokenizer put right.

    transformers reads the tokenizer out of the GGUF file without the rule that cuts digits apart.
    """
    pytest.importorskip("xllamacpp")
    from tokenizers import pre_tokenizers

    from featherweight.engines.embedded import shipped_model

    try:
        shipped = shipped_model()
    except EngineError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("smollm2")
    source = {"pretrained_model_name_or_path": shipped.parent, "gguf_file": shipped.name}
    read = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del read.config.quantization_config  # of the file; what was read is float32
    model = transformers.LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    tokenizer.save_pretrained(folder / "as-read")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("type", "mean", "most"), [("f16", 0.005, 0.03), ("bf16", 0.03, 0.3), ("q8_0", 0.15, 1.0)]
)
def test_smollm2(smollm2: Path, tmp_path: Path, type: str, mean: float, most: float) -> None:
    """As close as docs/export.md says; in F16 the very numbers of the file that it came from."""
    found = export_gguf(str(smollm2), tmp_path / "out.gguf", type)
    assert found.check is not None and found.check.notes == ()
    assert found.check.mean < mean and found.check.maximum < most
    assert found.check.same_first >= 0.9 * found.check.places
    if type != "f16":
        return
    import numpy as np

    from featherweight.engines.embedded import shipped_model

    source, ours = gguf.GGUFReader(shipped_model()), gguf.GGUFReader(found.path)
    theirs = {name: one.contents() for name, one in source.fields.items()}
    mine = {name: one.contents() for name, one in ours.fields.items()}
    for name, value in theirs.items():
        if name.startswith(("llama.", "tokenizer.ggml.")):
            assert mine[name] == value, name
    tensors = {one.name: one for one in ours.tensors}
    assert set(tensors) == {one.name for one in source.tensors}
    for one in source.tensors:
        wanted = gguf.quants.dequantize(one.data, one.tensor_type)
        got = gguf.quants.dequantize(tensors[one.name].data, tensors[one.name].tensor_type)
        assert np.array_equal(got, wanted.astype(np.float16 if wanted.ndim > 1 else np.float32))


def test_a_lora_over_smollm2(smollm2: Path, tmp_path: Path) -> None:
    import peft

    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2)
    settings = peft.LoraConfig(
        r=8, lora_alpha=16, use_rslora=True, target_modules="all-linear", init_lora_weights=False
    )
    tuned = peft.get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter *= 0.1
    tuned.save_pretrained(tmp_path / "lora")
    found = export_adapter(str(tmp_path / "lora"), tmp_path / "lora.gguf")
    assert found.check is not None and found.check.mean < 0.01
    merged = export_gguf(str(tmp_path / "lora"), tmp_path / "merged.gguf", "f16")
    assert merged.check is not None and merged.check.mean < 0.01
    assert merged.merge_difference is not None and merged.merge_difference < 0.01
    engine = load_engine(f"gguf:{tmp_path}/merged.gguf+{tmp_path}/lora.gguf", context_length=64)
    assert isinstance(engine, LlamaCppEngine)
    engine.close()
