"""Packed weights: what is written is what is read, and what is not whole is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_stacks import save_tiny  # noqa: E402

from featherweight.compress import compress, parse_recipe  # noqa: E402
from featherweight.engines import Request, load_engine  # noqa: E402
from featherweight.engines.hf_open import open_model  # noqa: E402
from featherweight.engines.identity import identity  # noqa: E402
from featherweight.engines.packed import (  # noqa: E402
    FILE,
    Packed,
    dense_state,
    is_packed,
    pack_bits,
    read_packed,
    unpack_bits,
)
from featherweight.errors import EngineError  # noqa: E402


@given(st.sampled_from([1, 2, 3, 4, 8]), st.data())
def test_bits_come_back(bits: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    packed = pack_bits(torch.tensor(numbers, dtype=torch.float32), bits)
    assert packed.dtype == torch.uint8 and len(packed) == -(-len(numbers) * bits // 8)
    assert unpack_bits(packed, bits, len(numbers)).tolist() == numbers
    stream = "".join(f"{number:0{bits}b}" for number in numbers)
    stream += "0" * (-len(stream) % 8)
    assert packed.tolist() == [int(stream[i : i + 8], 2) for i in range(0, len(stream), 8)]


def test_bits_of_a_matrix_are_in_row_order() -> None:
    assert pack_bits(torch.tensor([[3, 0], [1, 2]]), 2).tolist() == [0b11000110]
    assert pack_bits(torch.tensor([[True, False], [True, True]]), 1).tolist() == [0b10110000]


@given(
    st.sampled_from([None, 2, 3, 4, 8]),
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([1, 3, 8]),
    st.integers(0, 2**31),
)
def test_a_weight_is_made_of_its_parts(
    bits: int | None, sparse: bool, rows: int, groups: int, group: int, seed: int
) -> None:
    """Against one entry at a time."""
    torch.manual_seed(seed)
    columns = groups * group
    shape = (rows, columns)
    mask = torch.rand(shape) < 0.5 if sparse else torch.ones(shape).bool()
    packed_mask = pack_bits(mask, 1) if sparse else None
    if bits is None:
        values = torch.randn(int(mask.sum())).bfloat16()
        packed = Packed(shape, mask=packed_mask, values=values)
        entries = iter(values.tolist())
        expected = [[next(entries) if kept else 0.0 for kept in row] for row in mask.tolist()]
    else:
        codes = torch.randint(0, 2**bits, shape)
        scales = torch.rand(rows, groups).bfloat16()
        zeros = torch.randint(0, 2**bits, (rows, groups))
        packed = Packed(
            shape,
            bits,
            group,
            mask=packed_mask,
            codes=pack_bits(codes[mask], bits),
            scales=scales,
            zeros=pack_bits(zeros, bits),
        )
        expected = [
            [
                (int(codes[r, c]) - int(zeros[r, c // group])) * float(scales[r, c // group])
                if mask[r, c]
                else 0.0
                for c in range(columns)
            ]
            for r in range(rows)
        ]
    dense = packed.dense()
    assert dense.dtype == torch.float32 and dense.shape == shape
    assert dense.tolist() == expected  # python's floats: nothing was rounded on the way
    assert packed.kept() == int(mask.sum())
    assert packed.nbytes() == sum(
        len(part.view(torch.uint8).flatten()) for part in packed.parts().values()
    )


def test_only_packed_directories_are_packed(tmp_path: Path) -> None:
    assert not is_packed(tmp_path)
    for config, packed in (
        ("{", False),
        ("[]", False),
        ("{}", False),
        ('{"quantization_config": {"quant_method": "gptq"}}', False),
        ('{"quantization_config": null}', False),
        ('{"quantization_config": {"quant_method": "featherweight"}}', True),
    ):
        (tmp_path / "config.json").write_text(config)
        assert is_packed(tmp_path) is packed


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model, and what two recipes without texts make of it."""
    home = tmp_path_factory.mktemp("packed")
    source = save_tiny("tied llama", home / "source")
    texts = ["rtn:bits=4,group=16", "magnitude:sparsity=0.5"]
    made = compress(f"hf:{source}", [parse_recipe(text) for text in texts], home / "made")
    return {"source": source, "rtn": made[0].folder, "magnitude": made[1].folder}


@pytest.mark.model
@pytest.mark.parametrize("kind", ["rtn", "magnitude"])
def test_the_engine_opens_it_and_answers(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    packed = folders[kind]
    plain = shutil.copytree(packed, tmp_path / "plain")
    save_file(dense_state("m", packed), plain / "model.safetensors", {"format": "pt"})
    (plain / FILE).unlink()
    config = json.loads((plain / "config.json").read_text())
    del config["quantization_config"]
    (plain / "config.json").write_text(json.dumps(config))
    answers = []
    for folder in (packed, plain):
        engine = load_engine(f"hf:{folder}", dtype="fp32", device="cpu")
        assert engine.params == load_engine(f"hf:{folders['source']}", device="cpu").params
        [answer] = engine.generate([Request("Question:", max_tokens=8)])
        [score] = engine.score([("Question:", " yes, no")])
        answers.append((answer.token_ids, [*answer.token_logprobs, *score]))
        engine.close()
    assert answers[0][0] == answers[1][0] and answers[0][0]
    # where a tensor begins in memory decides how products are summed
    assert answers[0][1] == pytest.approx(answers[1][1], rel=1e-5)
    model, _ = open_model(str(packed), torch.bfloat16, "cpu")
    assert model.dtype == torch.bfloat16 and model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.model
def test_plain_transformers_refuses_it(folders: dict[str, Path]) -> None:
    """With a file of its name it would warn, and make up the weights."""
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        transformers.AutoModelForCausalLM.from_pretrained(folders["rtn"])


@pytest.mark.model
def test_it_has_an_identity_of_its_own(folders: dict[str, Path]) -> None:
    source, packed = (identity(f"hf:{folders[kind]}") for kind in ("source", "rtn"))
    assert source["weights"] != packed["weights"] and source["config"] != packed["config"]
    assert source["tokenizer"] == packed["tokenizer"]


@pytest.mark.model
def test_what_is_packed_is_small_and_named(folders: dict[str, Path]) -> None:
    tensors, packed = read_packed("m", folders["magnitude"])
    assert len(packed) == 6 * 7 and not set(tensors) & set(packed)
    assert "model.embed_tokens.weight" in tensors
    size = (folders["rtn"] / FILE).stat().st_size
    assert size < (folders["source"] / "model.safetensors").stat().st_size / 2


def damage(folder: Path, copy: Path, change: Any) -> Path:
    """A copy whose tensors `change` changed."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / FILE)
    change(tensors)
    save_file(tensors, copy / FILE, {"format": "pt"})
    return copy


LAYER = "model.layers.3.mlp.up_proj.weight"


@pytest.mark.model
@pytest.mark.parametrize(
    ("kind", "part", "change"),
    [
        ("rtn", "codes", lambda found: found[:-1]),
        ("rtn", "codes", lambda found: torch.cat([found, found[:1]])),
        ("rtn", "scales", lambda found: found[:-1]),
        ("rtn", "zeros", lambda found: found[1:]),
        ("rtn", "zeros", None),
        ("rtn", "codes", None),
        ("magnitude", "values", lambda found: found[:-1]),
        ("magnitude", "values", None),
        ("magnitude", "mask", lambda found: found[:-1]),
        ("magnitude", "mask", lambda found: found ^ 128),  # other numbers of entries
        ("magnitude", "mask", None),
    ],
)
def test_a_part_that_is_not_whole_is_refused(
    folders: dict[str, Path], kind: str, part: str, change: Any, tmp_path: Path
) -> None:
    def cut(tensors: dict[str, Any]) -> None:
        found = tensors.pop(f"{LAYER}.{part}")
        if change:
            tensors[f"{LAYER}.{part}"] = change(found)

    copy = damage(folders[kind], tmp_path / "copy", cut)
    with pytest.raises(EngineError, match=rf"is not whole: {LAYER} should have .*again\.$"):
        load_engine(f"hf:{copy}", device="cpu")


@pytest.mark.model
def test_a_file_that_ends_early_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["rtn"], tmp_path / "copy")
    raw = (copy / FILE).read_bytes()
    (copy / FILE).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(EngineError, match="cannot be opened"):
        load_engine(f"hf:{copy}", device="cpu")
    (copy / FILE).unlink()
    with pytest.raises(EngineError, match="holds no model weights"):
        load_engine(f"hf:{copy}", device="cpu")


@pytest.mark.model
def test_another_version_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["rtn"], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"]["version"] = 2
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        EngineError, match=r"was packed as version 2, .* reads 1; compress it again"
    ):
        load_engine(f"hf:{copy}", device="cpu")


@pytest.mark.model
def test_a_layer_that_nothing_says_how_to_read_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(folders["rtn"], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    del config["quantization_config"]["layers"][LAYER]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match=f"1 tensors are missing .*{LAYER}"):
        load_engine(f"hf:{copy}", device="cpu")
