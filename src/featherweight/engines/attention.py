"""How wide a model's attention is: what its operations over a context cost, told without weights.

The width is the sum over layers of query heads x head size. Reading one position of context costs
two dot products of that width in every layer (query with key, weight with value), so 4 x width
operations; `evaluate.cost.flops` counts them. `None` where a model's description does not tell, or
has layers for which this is not the cost: state-space and linear attention (no context to read),
latent attention (MLA, compressed keys). A sliding window is counted as if it saw everything.
"""

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
# config fields of layers that cost something else, where `layer_types` does not tell them apart
OTHER_LAYERS = ("kv_lora_rank", "layers_block_type", "attn_layer_period", "hybrid_override_pattern")


def width_of_config(config: Any) -> int | None:
    """The attention width by a transformers model's config."""
    if any(getattr(config, name, None) for name in OTHER_LAYERS):
        return None
    if getattr(config, "is_encoder_decoder", False):
        return _encoder_decoder(config)
    layers = getattr(config, "num_hidden_layers", None)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        if not all(kind in ATTENTION_LAYERS for kind in kinds):
            return None
        layers = len(kinds)
    return _stack(config, layers, getattr(config, "num_attention_heads", None))


def _encoder_decoder(config: Any) -> int | None:
    """One width that counts both stacks by the decoder-only rule, n^2/2 pairs of n = p + c tokens.

    The encoder looks both ways, p^2 pairs for p prompt tokens: it counts twice. The decoder's own
    c^2/2 pairs and its c x p pairs across are then in (p + c)^2/2 already, unless it is the far
    larger stack. So operations are never too low, and too high by the share of c in p + c at most.
    """
    encoder = _stack(
        config,
        _first(config, "encoder_layers", "num_layers", "num_hidden_layers"),
        _first(config, "encoder_attention_heads", "num_heads", "num_attention_heads"),
    )
    decoder = _stack(
        config,
        _first(config, "decoder_layers", "num_decoder_layers", "num_hidden_layers"),
        _first(config, "decoder_attention_heads", "num_heads", "num_attention_heads"),
    )
    return None if encoder is None or decoder is None else max(2 * encoder, decoder)


def _stack(config: Any, layers: Any, heads: Any) -> int | None:
    if not _whole(layers) or not _whole(heads):
        return None
    size = _first(config, "head_dim", "d_kv")
    if size is None:
        hidden = _first(config, "hidden_size", "d_model")
        size = hidden // heads if _whole(hidden) else None
    return layers * heads * size if _whole(size) else None


def _first(config: Any, *names: str) -> Any:
    return next((v for v in (getattr(config, n, None) for n in names) if v is not None), None)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def width_of_gguf(fields: Mapping[str, Any]) -> int | None:
    """The attention width by a GGUF file's metadata; head counts may differ from layer to layer."""
    architecture = fields.get("general.architecture")

    def field(name: str) -> Any:
        return fields.get(f"{architecture}.{name}")

    layers, heads, shared = map(
        field, ("block_count", "attention.head_count", "attention.head_count_kv")
    )
    if not _whole(layers) or field("attention.kv_lora_rank") or field("decoder_block_count"):
        return None
    if field("ssm.state_size") is not None and not isinstance(heads, tuple):
        return None  # which of the layers attend is not told
    by_layer = heads if isinstance(heads, tuple) else (heads,) * layers
    if isinstance(shared, tuple) and len(shared) == len(by_layer):
        # a layer without key heads does not attend (LFM2)
        by_layer = tuple(h if kv else 0 for h, kv in zip(by_layer, shared, strict=True))
    if len(by_layer) != layers or not all(isinstance(h, int) and h >= 0 for h in by_layer):
        return None
    if not (most := max(by_layer)):
        return None
    hidden = field("embedding_length")
    default = hidden // most if _whole(hidden) else None
    key: Any = field("attention.key_length") or default
    value: Any = field("attention.value_length") or default
    if not _whole(key) or not _whole(value):
        return None
    return int(sum(by_layer) * (key + value) // 2)


# GGUF value types: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_NUMBERS = dict(enumerate("BbHhIif?", 0)) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
LONGEST = 4096  # numbers of an array that are kept: one for each layer, not one for each token


def gguf_fields(path: Path) -> dict[str, Any]:
    """The metadata at the beginning of a GGUF file (version 2 or 3), without its tensors.

    Arrays of at most 4096 numbers come as tuples; longer ones and lists of texts (the vocabulary)
    are passed over. Raises `ValueError` for a file that is no whole GGUF header, `OSError` where
    it cannot be read. The `gguf` package reads the same in 1.7 s for the embedded model, since it
    makes an object of every token; this takes 0.03 s and no package.
    """
    fields: dict[str, Any] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            if data[:4] != b"GGUF":
                raise ValueError(f"{path} is not a GGUF file")
            version, _, count = struct.unpack_from("<IQQ", data, 4)
            if version not in (2, 3):
                raise ValueError(f"{path} is GGUF of version {version}, not 2 or 3")
            at = 24
            for _ in range(count):
                name, at = _text(data, at)
                (kind,) = struct.unpack_from("<I", data, at)
                value, at = _value(data, at + 4, kind)
                if value is not None:
                    fields[name] = value
        except (struct.error, KeyError) as error:
            raise ValueError(f"{path} has a damaged GGUF header ({error})") from None
    return fields


def _text(data: mmap.mmap, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + size
    if end > len(data):
        raise struct.error("a text goes on past the end")
    return data[at + 8 : end].decode(errors="replace"), end


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    """One value and where the next thing begins; `None` for one that is passed over."""
    if kind == _STRING:
        return _text(data, at)
    if kind != _ARRAY:
        code = "<" + _NUMBERS[kind]
        return struct.unpack_from(code, data, at)[0], at + struct.calcsize(code)
    of, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if of == _STRING:
        for _ in range(count):
            at += 8 + int.from_bytes(data[at : at + 8], "little")
            if at > len(data):
                raise struct.error("a list of texts goes on past the end")
        return None, at
    code = "<" + _NUMBERS[of]
    size = struct.calcsize(code)
    if at + count * size > len(data):
        raise struct.error("a list of numbers goes on past the end")
    kept = struct.unpack_from(f"<{count}{_NUMBERS[of]}", data, at) if count <= LONGEST else None
    return kept, at + count * size
