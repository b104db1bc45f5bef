"""Packed weights in other programs' formats: the same numbers, or a refusal."""

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

from safetensors import SafetensorError  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_llama import save_tiny_llama  # noqa: E402

from featherweight.compress import compress, gguf_blocks, grid, parse_recipe  # noqa: E402
from featherweight.compress.packing import pack  # noqa: E402
from featherweight.compress.solve import Swept  # noqa: E402
from featherweight.distill import (  # noqa: E402
    export_compressed_tensors,
    export_gguf,
    export_safetensors,
)
from featherweight.engines import Request, load_engine  # noqa: E402
from featherweight.engines.packed import Packed, read_packed  # noqa: E402
from featherweight.errors import CompressError, EngineError, OutputError  # noqa: E402

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bfloat16; rows of 32 and 64, which blocks of 32 divide."""
    folder = save_tiny_llama(
        tmp_path_factory.mktemp("base"), tie_word_embeddings=True, intermediate_size=64
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def packed(base: Path, output: Path, recipe: str) -> Path:
    compress(f"hf:{base}", [parse_recipe(recipe)], output, device="cpu")
    return output


def one(bits: int, group: int, **how: Any) -> tuple[Packed, Any]:
    weight = torch.randn(6, 128) * torch.rand(6, 1)
    codes, scales, zeros = grid.rtn(weight, bits, group, **how)
    shape = (*scales.shape, -1)
    rounded = ((codes.view(shape) - zeros[..., None]) * scales[..., None]).view(6, 128)
    return pack(Swept(rounded, codes, scales, zeros), bits, group, torch.bfloat16), rounded


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 32), (8, 128)])
def test_blocks_say_what_the_grid_says(bits: int, group: int) -> None:
    torch.manual_seed(0)
    found, rounded = one(bits, group)
    kind = gguf_blocks.kind_of(found)
    assert kind == {4: "Q4_1", 8: "Q8_0"}[bits]
    raw = gguf_blocks.blocks(found)
    assert raw.shape == (6, 128 // 32 * {"Q4_1": 20, "Q8_0": 34}[kind])
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    if bits == 8:
        assert torch.from_numpy(theirs).equal(rounded)
        return
    # the minimum is a product of 4 and 8 bits in a float16's 11
    off = (torch.from_numpy(theirs) - rounded).abs()
    assert float((off / rounded.abs().amax(1, keepdim=True)).max()) <= 2**-11
    symmetric, rounded = one(bits, group, symmetric=True)
    theirs = gguf.quants.dequantize(gguf_blocks.blocks(symmetric), gguf.GGMLQuantizationType[kind])
    assert torch.from_numpy(theirs).equal(rounded)


def test_blocks_of_permuted_rows_are_permuted_blocks() -> None:
    found, _ = one(4, 32)
    backwards = gguf_blocks.blocks(found, lambda rows: rows[::-1])
    assert (backwards == gguf_blocks.blocks(found)[::-1]).all()


@pytest.mark.parametrize(
    ("bits", "group", "mask"), [(3, 32, False), (2, 64, False), (4, 16, False), (4, 32, True)]
)
def test_what_no_block_can_say_has_no_kind(bits: int, group: int, mask: bool) -> None:
    found, _ = one(bits, group)
    if mask:
        found = Packed(**vars(found) | {"mask": torch.zeros(6 * 16, dtype=torch.uint8)})
    assert gguf_blocks.kind_of(found) is None


def test_a_scale_beyond_float16_is_refused() -> None:
    weight = torch.full((1, 32), 1e30)
    codes, scales, zeros = grid.rtn(weight, 4, 32)
    found = pack(Swept(weight, codes, scales, zeros), 4, 32, torch.bfloat16)
    with pytest.raises(ValueError, match="too large for float16"):
        gguf_blocks.blocks(found)


@pytest.mark.parametrize("recipe", ["rtn:bits=4,group=32", "rtn:bits=8,group=32"])
def test_llama_cpp_answers_as_the_packed_model_does(
    base: Path, tmp_path: Path, recipe: str
) -> None:
    folder = packed(base, tmp_path / "packed", recipe)
    found = export_gguf(str(folder), tmp_path / "m.gguf")
    assert (found.format, found.type, found.notes) == ("gguf", "packed", ())
    # llama.cpp rounds activations to 8 bits; rows in a wrong order differ by whole units
    assert found.check is not None and found.check.mean < 0.15
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == {"4": "Q4_1", "8": "Q8_0"}[recipe[9]]
    assert kinds["token_embd.weight"] == "F16" and kinds["output_norm.weight"] == "F32"


def test_what_gguf_cannot_pack_is_written_whole_and_said(base: Path, tmp_path: Path) -> None:
    folder = packed(base, tmp_path / "packed", "rtn:bits=3,group=32")
    found = export_gguf(str(folder), tmp_path / "m.gguf")
    assert found.type == "f16" and "were written whole" in found.notes[0]
    with pytest.raises(EngineError, match="leave --type out to write it whole"):
        export_gguf(str(folder), tmp_path / "n.gguf", "packed")
    with pytest.raises(EngineError, match="is not packed in 4 or 8 bits"):
        export_gguf(str(base), tmp_path / "n.gguf", "packed")
    assert not (tmp_path / "n.gguf").exists()


@pytest.mark.parametrize("recipe", ["rtn:bits=4,group=16,symmetric=true", "rtn:bits=8,group=32"])
def test_plain_transformers_opens_compressed_tensors_with_the_same_logits(
    base: Path, tmp_path: Path, recipe: str
) -> None:
    pytest.importorskip("compressed_tensors")
    folder = packed(base, tmp_path / "packed", recipe)
    found = export_compressed_tensors(str(folder), tmp_path / "out")
    assert (found.written_difference, found.notes) == (0.0, ())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.bfloat16
    )
    engine = load_engine(f"hf:{folder}", dtype="bf16", device="cpu")
    [ours] = engine.generate([Request("The meeting", max_tokens=6)])
    engine.close()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("The meeting", return_tensors="pt").input_ids
    wanted = theirs.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    assert list(ours.token_ids or ()) == wanted.tolist()
    dense, layers = read_packed("m", folder)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in layers.items():
        bits = weight.bits or 0
        words = weight.shape[1] * bits // 32
        assert stored[f"{name}_packed"].shape == (weight.shape[0], words)
        assert stored[f"{name}_shape"].tolist() == list(weight.shape)
    for name, tensor in dense.items():
        assert stored[name].equal(tensor)


def test_a_full_disk_under_compressed_tensors(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = packed(base, tmp_path / "packed", "rtn:bits=8,group=32")

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("featherweight.distill.export.save_file", full)
    with pytest.raises(OutputError, match=r"cannot write .*out: .*No space left.*has room"):
        export_compressed_tensors(str(folder), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_scales_that_the_models_type_does_not_hold(base: Path, tmp_path: Path) -> None:
    small = shutil.copytree(base, tmp_path / "small")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
    model.model.layers[0].mlp.up_proj.weight.data[:8] *= 1e-4
    model.save_pretrained(small)
    folder = packed(small, tmp_path / "packed", "rtn:bits=8,group=32")
    with pytest.raises(CompressError, match=r"too small or too large for torch\.float16"):
        export_compressed_tensors(str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_packed_model_is_exported_in_its_own_type(base: Path, tmp_path: Path) -> None:
    """Most of what is stored are packed values in bfloat16; the model is of float32."""
    whole = shutil.copytree(base, tmp_path / "whole")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.save_pretrained(whole)
    for recipe in ("magnitude:sparsity=0.1", "rtn:bits=3,group=32"):
        folder = packed(whole, tmp_path / recipe, recipe)
        found = export_safetensors(str(folder), tmp_path / f"out {recipe}")
        assert (found.type, found.written_difference) == ("f32", 0.0)


def test_compressed_tensors_refuses_what_it_has_no_place_for(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for recipe in ("rtn:bits=4,group=32", "rtn:bits=3,group=32", "magnitude:sparsity=0.5"):
        folder = packed(base, tmp_path / recipe, recipe)
        with pytest.raises(CompressError, match="holds symmetric weights of 4 or 8 bits"):
            export_compressed_tensors(str(folder), out)
    with pytest.raises(EngineError, match="is not packed; make it with"):
        export_compressed_tensors(str(base), out)
    (out / "there").mkdir(parents=True)
    with pytest.raises(OutputError, match="there already"):
        export_compressed_tensors(str(base), out)


def test_a_prompt_bank_is_neither_compressed_nor_exported(base: Path, tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "bank.json").write_text("{}")
    spec = f"hf:{tmp_path / 'bank'}"
    with pytest.raises(CompressError, match="is a prompt bank, not a whole model; name its base"):
        compress(spec, [parse_recipe("rtn:bits=4")], tmp_path / "out")
    with pytest.raises(EngineError, match="is a prompt bank, which only hf: reads"):
        export_gguf(str(tmp_path / "bank"), tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]
