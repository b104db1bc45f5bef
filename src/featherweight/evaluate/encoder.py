"""A local encoder for metrics: opened as safely as an engine, with the limit it really has.

torch is imported when a model is opened, not before.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.engines.load import missing
from featherweight.errors import EngineError
from featherweight.files import sha256

LIMIT = 512  # tokens, where neither tokenizer nor config names a limit


@dataclass(frozen=True)
class Encoder:
    """A model without a language head, its tokenizer, and what identifies the two.

    `limit` is in tokens, special ones included. `layer` is the last layer kept, counted from 1.
    """

    name: str
    model: Any
    tokenizer: Any
    limit: int
    layer: int
    dtype: str
    weights: str  # sha256 of the weights, the first 12 hex digits

    @property
    def device(self) -> Any:
        return self.model.device


def open_encoder(
    name: str, *, layer: int | None = None, dtype: str = "fp32", device: str | None = None
) -> Encoder:
    """Open a directory, or a name in the local Hugging Face cache, for embeddings at `layer`.

    The default is the last layer; layers above the one asked for are never built, which is what
    bert-score does (a model with a last norm applies it to what is left). `dtype` is fp32 or bf16.
    Raises `EngineError` where torch is not installed or the model cannot be opened, is not whole
    or is no encoder.
    """
    # A pooler sits on top of the last layer and nothing here reads it; checkpoints that come from
    # masked-language training have none.
    return _open(name, "AutoModel", "encoder", lambda key: "pooler." in key, layer, dtype, device)


def open_classifier(name: str, *, dtype: str = "fp32", device: str | None = None) -> Encoder:
    """The same with a classification head, every tensor of which must be in the file."""
    auto, what = "AutoModelForSequenceClassification", "classification model"
    return _open(name, auto, what, lambda key: False, None, dtype, device)


def _open(
    name: str,
    auto: str,
    what: str,
    harmless: Callable[[str], bool],
    layer: int | None,
    dtype: str,
    device: str | None,
) -> Encoder:
    try:
        import torch
        import transformers

        from featherweight.engines import hf_open
    except ImportError as error:
        raise missing(error, "train") from None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen, _ = hf_open.choose_dtype(dtype, device)
    with hf_open.opening(name):
        folder = hf_open.model_folder(name)
        hf_open.check_weights(name, folder, what, "model*.safetensors")
        config = hf_open.load_config(folder)
        if what == "encoder" and config.is_encoder_decoder:
            raise EngineError(f"{name} is an encoder-decoder; give an encoder such as RoBERTa.")
        layers = int(config.num_hidden_layers)
        if layer is not None and not 1 <= layer <= layers:
            raise EngineError(f"{name} has layers 1 to {layers}; layer {layer} is none of them.")
        if layer is not None and layer < layers:
            config = hf_open.load_config(folder, num_hidden_layers=layer)
        model = hf_open.load_weights(
            getattr(transformers, auto), name, folder, config, chosen, what, harmless
        )
        tokenizer = hf_open.load_tokenizer(name, folder)
        _check_tokenizer(name, tokenizer, config)
        model = model.eval().to(device)
    return Encoder(
        name=folder.resolve().name if Path(name).expanduser().is_dir() else name,
        model=model,
        tokenizer=tokenizer,
        limit=token_limit(model, tokenizer),
        layer=layer or layers,
        dtype=str(chosen).removeprefix("torch."),
        weights=weights_hash(folder),
    )


def _check_tokenizer(name: str, tokenizer: Any, config: Any) -> None:
    if tokenizer.pad_token_id is None:
        raise EngineError(
            f"{name}: its tokenizer has no padding token; give an encoder such as RoBERTa."
        )
    if len(tokenizer) > config.vocab_size:
        raise EngineError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens but the model only "
            f"{config.vocab_size}; copy the tokenizer that belongs to it."
        )


def token_limit(model: Any, tokenizer: Any) -> int:
    """How many tokens one input may have, special ones included.

    The smaller of what the tokenizer states and what the position table holds. Some tokenizers
    (DeBERTa's under transformers 5) state no limit, as a number of thirty digits. RoBERTa and its
    kin number positions from the padding id + 1, so that many rows of their table are never used.
    """
    stated = int(tokenizer.model_max_length)
    rows = int(getattr(model.config, "max_position_embeddings", None) or LIMIT)
    if rows < 1:  # XLNet and kin say -1: no table
        rows = LIMIT
    for key, module in model.named_modules():
        if key.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            rows = min(rows, module.num_embeddings - module.padding_idx - 1)
    return min(stated, rows)


def weights_hash(folder: Path) -> str:
    """sha256 of the weights, 12 digits: the file's own, or over the digests of the shards."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return sha256(whole)[:12]
    digests = "".join(sha256(shard) for shard in sorted(folder.glob("model*.safetensors")))
    return hashlib.sha256(digests.encode()).hexdigest()[:12]
