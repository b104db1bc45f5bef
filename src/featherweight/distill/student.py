"""The model that learns: opened, given LoRA, and written so that `load_engine` and PEFT open it.

| kind | what it is | saved as |
| --- | --- | --- |
| lora | W + (alpha/r) B A | itself |
| rslora | alpha/sqrt(r) instead (arXiv 2312.03732) | itself |
| dora | direction and length apart (arXiv 2402.09353) | itself |
| pissa | starts from W's main singular vectors (arXiv 2404.02948) | difference from W, rank 2r |
| moslora | B M A with a square mixer M (arXiv 2406.11909) | B M as B |
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from featherweight.distill.soft import Soft, save_bank
from featherweight.distill.spp import save_multiplied
from featherweight.engines.dequantised import dequantised
from featherweight.engines.hf_bank import is_bank
from featherweight.engines.hf_open import is_adapter, model_folder, open_model, opening
from featherweight.engines.load import parse
from featherweight.errors import TrainingError

LoraKind = Literal["lora", "rslora", "dora", "pissa", "moslora"]
LORA_KINDS: tuple[str, ...] = get_args(LoraKind)
# what PEFT calls a B with a mixer: its own shortening of names does not reach that deep
_MIXED = re.compile(r"(.*\.lora_B)(?:\.default)?\.parametrizations\.weight\.original")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def open_base(spec: str, dtype: torch.dtype, device: str) -> tuple[Any, Any, str]:
    """Model, tokenizer and directory of a local spec (hf:, gguf: or the embedded model).

    GGUF weights are dequantised once into the cache. Raises `EngineError` where it is not here,
    `TrainingError` for what cannot be trained.
    """
    kind, rest = parse(spec)
    if kind == "openai":
        raise TrainingError(
            f"{spec} is a server, whose weights are not here; use it to write texts "
            "(`featherweight teach --keep text`), or name a local model (hf:DIR)."
        )
    name = rest if kind == "hf" else str(dequantised(spec))
    with opening(spec):
        if is_adapter(model_folder(name)):
            raise TrainingError(
                f"{spec} is an adapter; merge it first with `featherweight export {name} --output "
                "DIR` (an encoder-decoder's with PEFT), then name that directory."
            )
        if is_bank(model_folder(name)):
            raise TrainingError(f"{spec} is a prompt bank, not a whole model; name its base.")
        model, tokenizer = open_model(name, dtype, device)
    return model, tokenizer, name


def adapt(
    model: Any, base: str, kind: LoraKind, rank: int, alpha: float, dropout: float, targets: str
) -> Any:
    """`model` inside PEFT, with A and B in float32 on `targets` (all-linear, or names with commas).

    Raises `TrainingError` where no layer has such a name.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets if targets == "all-linear" else targets.split(","),
        use_rslora=kind == "rslora",
        use_dora=kind == "dora",
        init_lora_weights="pissa" if kind == "pissa" else True,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    try:
        model = get_peft_model(model, config)
    except ValueError as error:
        raise TrainingError(f"no LoRA for {base}: {' '.join(str(error).split())[:300]}") from None
    # opened from anywhere, not from this working directory alone
    config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    if kind == "moslora":
        _mix(model, rank)
    if kind == "pissa":
        model.pissa_start = {k: v.clone() for k, v in _adapter_state(model).items()}
    return model


class Mixer(nn.Module):  # type: ignore[misc]
    """B M in place of B: what the layer, and PEFT's merge, see as its `weight`."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(nn.init.orthogonal_(torch.empty(rank, rank)))

    def forward(self, b: Tensor) -> Tensor:
        with torch.autocast(b.device.type, enabled=False):
            return b @ self.mix


def _mix(model: Any, rank: int) -> None:
    layers = [m.lora_B["default"] for m in model.modules() if getattr(m, "lora_B", None)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Mixer(rank).to(layer.weight.device))


def _adapter_state(model: Any) -> dict[str, Tensor]:
    """The adapter as PEFT names it, a mixer folded into B, tensors on the CPU."""
    from peft import get_peft_model_state_dict

    found = {}
    raw = get_peft_model_state_dict(model, save_embedding_layers=False)
    for key, value in raw.items():
        if mixed := _MIXED.fullmatch(key):
            mix = raw[key.removesuffix("original") + "0.mix"]
            found[f"{mixed[1]}.weight"] = value @ mix
        elif ".parametrizations." not in key:
            found[key] = value
    return {key: value.detach().cpu().contiguous() for key, value in found.items()}


def save_student(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write model (in `dtype`, or packed), adapter or prompt, and tokenizer, into `folder`."""
    if isinstance(model, Soft):
        save_bank(model.stored(), folder)
        return  # the tokenizer is the base's
    if hasattr(model, "pruned_base"):
        save_multiplied(model, folder)
    elif not hasattr(model, "peft_config"):
        kept = model.dtype
        model.to(dtype).save_pretrained(folder)
        model.to(kept)  # the last use of it: rounded now
    else:
        _save_adapter(model, folder)
    tokenizer.save_pretrained(folder)


def _save_adapter(model: Any, folder: Path) -> None:
    config = model.peft_config["default"]
    state = _adapter_state(model)
    settings = json.loads(json.dumps(config.to_dict(), default=_plain))
    settings["inference_mode"] = True
    start = getattr(model, "pissa_start", None)
    if start is not None:
        state = _difference(state, start)
        settings |= {"r": 2 * config.r, "lora_alpha": 2 * config.lora_alpha}
        settings["init_lora_weights"] = True
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))


def _difference(now: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """B A - B0 A0 as one product of twice the rank: [B, -B0] [A; A0]."""
    return {
        key: torch.cat([now[key], start[key]], 0)
        if "lora_A" in key
        else torch.cat([now[key], -start[key]], 1)
        for key in now
    }


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_trainable(model: nn.Module, path: Path) -> None:
    """What a checkpoint needs beside the base: exact, in the precision that it learns in."""
    save_file({k: v.detach().cpu().contiguous() for k, v in trainable(model).items()}, path)


def load_trainable(model: nn.Module, path: Path) -> None:
    """Put a checkpoint's parameters in place; raises `TrainingError` where they are others."""
    found, wanted = load_file(path), trainable(model)
    shapes = {k: v.shape for k, v in found.items()}
    if shapes != {k: v.shape for k, v in wanted.items()}:
        raise TrainingError(
            f"{path} is of another model or another LoRA; choose another output folder."
        )
    with torch.no_grad():
        for key, value in wanted.items():
            value.copy_(found[key])


def counted(model: nn.Module) -> tuple[int, int]:
    """Parameters that learn, and all."""
    return (
        sum(p.numel() for p in trainable(model).values()),
        sum(p.numel() for p in model.parameters()),
    )


def alpha_of(kind: LoraKind, rank: int, scale: float = 2.0) -> float:
    """lora_alpha for a scale of B A: alpha/r, or alpha/sqrt(r) where rank-stabilised."""
    return scale * (math.sqrt(rank) if kind == "rslora" else rank)
