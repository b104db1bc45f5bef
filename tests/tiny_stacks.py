"""Tiny random models of six layers in many architectures, with a tokenizer where one is saved."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_llama import save_tiny_llama

LAYERS = 6
SIZES: dict[str, Any] = {
    "vocab_size": 360,
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
SLIDING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
MORE: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 8, "layer_types": SLIDING},
    "gemma3_text": {"sliding_window": 8, "layer_types": SLIDING},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0, 1, 1]},
    "olmo2": {},
    "granite": {},
    "phi3": {},
}
"""Decoder-only models, with what makes each differ from layer to layer."""

T5 = {"t5": "relu", "gated t5": "gated-gelu"}


def tiny(kind: str) -> Any:
    """A model in eval mode, float32; the same one each time."""
    torch.manual_seed(3)
    if kind in T5:
        config = transformers.T5Config(
            vocab_size=360,
            d_model=32,
            d_kv=8,
            d_ff=128,
            num_layers=LAYERS,
            num_decoder_layers=LAYERS - 1,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
            feed_forward_proj=T5[kind],
        )
        return transformers.T5ForConditionalGeneration(config).eval()
    config = transformers.AutoConfig.for_model(kind.split()[-1], **{**SIZES, **MORE[kind]})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def save_tiny(kind: str, folder: Path) -> Path:
    """A directory for `hf:` with a byte-level tokenizer."""
    save_tiny_llama(folder)
    (folder / "model.safetensors").unlink()
    tiny(kind).save_pretrained(folder)
    return folder
