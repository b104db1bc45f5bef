"""Random banks of soft prompts, and tiny models whose every layer sees the whole context."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_llama import save_tiny_llama
from tiny_stacks import SIZES
from torch import Tensor

from featherweight.distill.soft import save_bank
from featherweight.engines.hf_bank import Selection, Stored
from featherweight.engines.hf_open import WEIGHTS
from featherweight.files import digest

M, N, WIDTH, LAYERS = 3, 4, 32, 4
WHOLE: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"layer_types": ["full_attention"] * LAYERS},
}


def tiny_whole(kind: str) -> Any:
    """In eval mode, float32; biases and norms are random too."""
    settings = {**SIZES, "num_hidden_layers": LAYERS, **WHOLE[kind]}
    torch.manual_seed(4)
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def save_tiny_whole(folder: Path, kind: str = "llama") -> Path:
    """A directory for `hf:` with a byte-level tokenizer."""
    save_tiny_llama(folder)
    (folder / "model.safetensors").unlink()
    tiny_whole(kind).save_pretrained(folder)
    return folder


def random_prompts(m: int = M, n: int = N, width: int = WIDTH, seed: int = 0) -> Tensor:
    """[m, n, width], of another length each."""
    found = torch.randn(m, n, width, generator=torch.Generator().manual_seed(seed))
    return found * torch.linspace(0.4, 1.2, m)[:, None, None]


def save_tiny_bank(
    folder: Path, base: Path, prompts: Tensor | None = None, **selection: Any
) -> Path:
    """A bank of random prompts over the model in `base`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"prompts": random_prompts() if prompts is None else prompts}
    weights = digest(base.glob(WEIGHTS))
    save_bank(Stored(str(base.resolve()), weights, Selection(**selection), tensors), folder)
    return folder
