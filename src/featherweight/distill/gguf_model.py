"""A Llama as GGUF: hyperparameters and tensors under llama.cpp's names, q and k in its row order.

transformers rotates the first half of a head with the second, llama.cpp (as Meta's own weights)
each even row with the odd row after it; so the rows of q and k are interleaved head by head.
Names and layout: https://github.com/ggml-org/llama.cpp/blob/master/docs/development/HOWTO-add-model.md
and `LlamaModel` in its convert_hf_to_gguf.py.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from featherweight.compress import gguf_blocks
from featherweight.engines.gguf_write import Field, Tensor, field, kind_of
from featherweight.engines.packed import Packed
from featherweight.errors import EngineError

ARCHITECTURE = "llama"
ROPE_KINDS = ("default", "linear", "llama3")
TOP = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def check_llama(name: str, config: Any) -> None:
    """Raise `EngineError` for a model that would be written wrongly, and say what it is."""
    kind = (getattr(config, "architectures", None) or [config.model_type])[0]
    if config.model_type != "llama" or kind not in ("LlamaForCausalLM", "llama"):
        raise EngineError(
            f"{name} is a {kind}, but GGUF is written for LlamaForCausalLM only; export it as "
            "safetensors (`featherweight export`) and give that to llama.cpp's own converter."
        )
    rope, act = _rope(config), config.hidden_act
    if rope["rope_type"] not in ROPE_KINDS:
        what = f"rope scaling of the kind {rope['rope_type']!r}"
    elif rope.get("partial_rotary_factor", 1.0) != 1.0:
        what = "a partial rotary factor"
    elif act not in ("silu", "swish"):
        what = f"the activation {act!r}"
    elif getattr(config, "quantization_config", None):
        what = "weights that are quantised already"
    else:
        return
    raise EngineError(
        f"{name} has {what}, which is not written to GGUF here; "
        "convert it with llama.cpp's own converter."
    )


def model_fields(config: Any) -> dict[str, Field]:
    """The hyperparameters, from the model's own config."""
    heads, head_dim = config.num_attention_heads, _head_dim(config)
    rope = _rope(config)
    found: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": _kv_heads(config),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if rope["rope_type"] == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    return {f"{ARCHITECTURE}.{name}": field(value) for name, value in found.items()}


def model_tensors(
    name: str, model: Any, kind: str, packed: Mapping[str, Packed] | None = None
) -> list[Tensor]:
    """Every tensor of a `LlamaForCausalLM` whose weights are float32; tied embeddings once.

    Weights in `packed` are written as the blocks that say the same, whatever `kind` is. Raises
    `EngineError` for a tensor that has no place in a Llama's GGUF.
    """
    config = model.config
    tensors = []
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module, _, leaf = key.rpartition(".")
        target = gguf_module(module)
        if target is None or leaf not in ("weight", "bias"):
            raise EngineError(
                f"{name} has a tensor {key}, which no Llama in GGUF has; "
                "export the directory before it was changed."
            )
        shape, heads = tuple(weight.shape), rotated_heads(module, config)
        if packed and key in packed:
            one, order = packed[key], partial(permute, heads=heads) if heads else _as_they_are
            block = gguf_blocks.KINDS[one.bits or 0]
            values = partial(gguf_blocks.blocks, one, order)
            tensors.append(Tensor(f"{target}.{leaf}", shape, block, values, raw=True))
            continue
        values = partial(_values, weight, heads)
        tensors.append(Tensor(f"{target}.{leaf}", shape, kind_of(shape, kind), values))
    if _rope(config)["rope_type"] == "llama3":
        tensors.insert(0, _rope_factors(model))
    return tensors


def gguf_module(module: str) -> str | None:
    """llama.cpp's name for a module: model.layers.3.mlp.up_proj is blk.3.ffn_up."""
    if module in TOP:
        return TOP[module]
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    inner = IN_LAYER.get(found[2]) if found else None
    return f"blk.{found[1]}.{inner}" if found and inner else None


def rotated_heads(module: str, config: Any) -> int | None:
    """How many heads a module's rows make where they are rotated (q and k), else `None`."""
    if module.endswith(".q_proj"):
        return int(config.num_attention_heads)
    return _kv_heads(config) if module.endswith(".k_proj") else None


def permute(rows: Any, heads: int) -> Any:
    """Rows [heads x head_dim, ...] from transformers' order to llama.cpp's, array or torch tensor.

    Within each head row i of the first half goes to 2i, row i of the second half to 2i + 1.
    """
    return (
        rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
        .swapaxes(1, 2)
        .reshape(rows.shape)
    )


def _as_they_are(rows: Any) -> Any:
    return rows


def _values(weight: Any, heads: int | None) -> Any:
    values = weight.detach().float().numpy()
    return values if heads is None else permute(values, heads)


def _rope_factors(model: Any) -> Tensor:
    """What llama.cpp divides each frequency by; Llama 3's scaling is given to it as numbers.

    Taken from the model's own frequencies, so that it is what transformers computes.
    """
    import numpy as np

    config = model.config
    size = _head_dim(config)
    plain = _rope(config)["rope_theta"] ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    used = model.model.rotary_emb.inv_freq.detach().double().numpy()
    return Tensor("rope_freqs.weight", (size // 2,), "F32", lambda: plain / used)


def _rope(config: Any) -> dict[str, Any]:
    """Theta, type and what belongs to it: of transformers 5's one dict."""
    return {"rope_type": "default", "rope_theta": 10000.0, **(config.rope_parameters or {})}


def _head_dim(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _kv_heads(config: Any) -> int:
    return int(config.num_key_value_heads or config.num_attention_heads)
