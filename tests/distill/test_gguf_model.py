"""A Llama under llama.cpp's names, its heads in llama.cpp's order."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

from tiny_llama import save_tiny_llama  # noqa: E402

from featherweight.distill.gguf_model import (  # noqa: E402
    check_llama,
    gguf_module,
    model_fields,
    model_tensors,
    permute,
    rotated_heads,
)
from featherweight.errors import EngineError  # noqa: E402


def llama(folder: Path, **changes: Any) -> Any:
    save_tiny_llama(folder, **changes)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def config(**changes: Any) -> Any:
    return transformers.LlamaConfig(architectures=["LlamaForCausalLM"], **changes)


# ---- rows of q and k


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))


@given(SHAPES)
def test_each_row_goes_where_llama_cpp_looks_for_it(shape: tuple[int, int, int]) -> None:
    heads, half, width = shape
    rows = torch.arange(heads * 2 * half * width).reshape(heads * 2 * half, width)
    new = permute(rows, heads)
    for head in range(heads):
        first = head * 2 * half
        for i in range(half):
            assert torch.equal(new[first + 2 * i], rows[first + i])
            assert torch.equal(new[first + 2 * i + 1], rows[first + half + i])
    # the way back, as transformers reads llama.cpp's files
    back = new.reshape(heads, half, 2, width).swapaxes(1, 2).reshape(rows.shape)
    assert torch.equal(back, rows)
    assert (permute(rows.numpy(), heads) == new.numpy()).all()
    assert torch.equal(permute(rows[:, 0], heads), new[:, 0])  # a bias


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 500))
def test_rotations_agree_after_it(heads: int, half: int, position: int) -> None:
    """transformers turns halves of a head against each other, llama.cpp neighbours: the same."""
    torch.manual_seed(heads * 100 + half)
    x = torch.randn(heads, 2 * half, dtype=torch.float64)
    angle = position * 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    turned = torch.cat([-x[:, half:], x[:, :half]], dim=1)
    theirs = x * angle.cos().repeat(2) + turned * angle.sin().repeat(2)
    pairs = permute(x.reshape(-1, 1), heads).reshape(heads, half, 2)
    even = pairs[..., 0] * angle.cos() - pairs[..., 1] * angle.sin()
    odd = pairs[..., 0] * angle.sin() + pairs[..., 1] * angle.cos()
    ours = torch.stack([even, odd], dim=-1).reshape(heads, 2 * half)
    assert torch.allclose(ours, permute(theirs.reshape(-1, 1), heads).reshape(heads, -1))


def test_which_rows_are_rotated() -> None:
    of = config(num_attention_heads=8, num_key_value_heads=2)
    assert rotated_heads("model.layers.0.self_attn.q_proj", of) == 8
    assert rotated_heads("model.layers.0.self_attn.k_proj", of) == 2
    assert rotated_heads("model.layers.0.self_attn.v_proj", of) is None
    assert rotated_heads("model.embed_tokens", of) is None


# ---- names, tensors, fields


def test_names_are_those_of_the_gguf_package(tmp_path: Path) -> None:
    model = llama(tmp_path, attention_bias=True, mlp_bias=True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for key in model.state_dict():
        module, _, leaf = key.rpartition(".")
        assert f"{gguf_module(module)}.{leaf}" == names.get_name(key, (".weight", ".bias"))
    assert gguf_module("model.layers.0.mlp") is None
    assert gguf_module("model.layers.x.mlp.up_proj") is None


def test_tied_embeddings_are_written_once(tmp_path: Path) -> None:
    tied = model_tensors("x", llama(tmp_path / "a", tie_word_embeddings=True), "F16")
    untied = model_tensors("x", llama(tmp_path / "b"), "F16")
    assert {one.name for one in untied} - {one.name for one in tied} == {"output.weight"}
    assert len(untied) == 3 + 2 * 9


def test_values_shapes_and_types(tmp_path: Path) -> None:
    model = llama(tmp_path, num_attention_heads=4, num_key_value_heads=1)
    weights = model.state_dict()
    found = {one.name: one for one in model_tensors("x", model, "Q8_0")}
    for name, key, heads in (
        ("blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", 4),
        ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", 1),
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", None),
        ("output_norm.weight", "model.norm.weight", None),
    ):
        wanted = weights[key] if heads is None else permute(weights[key], heads)
        assert found[name].shape == tuple(wanted.shape)
        assert (found[name].values() == wanted.numpy()).all()
    kinds = {name: one.kind for name, one in found.items()}
    assert kinds["blk.0.attn_norm.weight"] == kinds["output_norm.weight"] == "F32"
    assert kinds["token_embd.weight"] == kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_down.weight"] == "F16"  # rows of 48


def test_fields() -> None:
    found = model_fields(
        config(
            vocab_size=500,
            hidden_size=96,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=777,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0},
        )
    )
    values = {name.removeprefix("llama."): one.value for name, one in found.items()}
    assert values == {
        "vocab_size": 500,
        "block_count": 3,
        "context_length": 777,
        "embedding_length": 96,
        "feed_forward_length": 160,
        "attention.head_count": 6,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 32,
        "rope.freq_base": 5e5,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 4.0,
    }


def test_llama_3_scaling_is_given_as_factors(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = llama(tmp_path, rope_parameters=rope, num_attention_heads=2, num_key_value_heads=2)
    tensors = {one.name: one for one in model_tensors("x", model, "F16")}
    factors = tensors["rope_freqs.weight"]
    assert factors.kind == "F32" and factors.shape == (8,)
    wanted = []  # as llama.cpp's converter computes them
    for i in range(8):
        length = 2 * math.pi * 500.0 ** (i / 8)
        if length < 64 / 4:
            wanted.append(1.0)
        elif length > 64 / 1:
            wanted.append(8.0)
        else:
            smooth = (64 / length - 1) / (4 - 1)
            wanted.append(1 / ((1 - smooth) / 8 + smooth))
    assert factors.values() == pytest.approx(wanted, rel=1e-5)
    assert 1.0 < wanted[2] < 8.0  # all three cases are in it


# ---- what is not written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "the activation 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights that are quantised already"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "rope scaling of the kind 'yarn'",
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope scaling of the kind 'dynamic'",
        ),
    ],
)
def test_kinds_of_llama_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=f"m has {message}.*llama.cpp's own converter"):
        check_llama("m", config(**changes))
    check_llama("m", config())


def test_a_partial_rotation_is_refused() -> None:
    of = config()
    of.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    with pytest.raises(EngineError, match="partial rotary"):
        check_llama("m", of)


def test_other_architectures_are_refused_by_name() -> None:
    with pytest.raises(EngineError, match="m is a Qwen2ForCausalLM, but"):
        check_llama("m", transformers.Qwen2Config(architectures=["Qwen2ForCausalLM"]))
    with pytest.raises(EngineError, match="m is a mistral, but"):
        check_llama("m", transformers.MistralConfig())
    other = transformers.LlamaConfig(architectures=["LlamaForSequenceClassification"])
    with pytest.raises(EngineError, match="LlamaForSequenceClassification"):
        check_llama("m", other)


def test_a_tensor_that_no_llama_has(tmp_path: Path) -> None:
    model = llama(tmp_path)
    model.model.layers[1].mlp.gate_proj.register_buffer("mask", torch.ones(48, 32))
    with pytest.raises(EngineError, match=r"x has a tensor model\.layers\.1\.mlp\.gate_proj\.mask"):
        model_tensors("x", model, "F16")
