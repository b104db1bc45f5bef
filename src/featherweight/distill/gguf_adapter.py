"""A LoRA as a GGUF adapter, which llama.cpp adds to any GGUF of the same base.

llama.cpp computes W x + (alpha / r) B (A x) with one alpha for the file and r read from B. peft's
own factor may be another (rsLoRA: alpha / sqrt(r)) and may differ by module (alpha_pattern), so the
file's alpha is the first module's factor x r, and every other B is multiplied by what is left over.
Of q and k the rows of B are permuted as the base's rows are; A meets no rotated rows.
"""

from functools import partial
from pathlib import Path
from typing import Any

from featherweight.distill.gguf_model import gguf_module, permute, rotated_heads
from featherweight.distill.merge import adapter_keys, adapter_settings
from featherweight.engines.gguf_write import Field, Tensor, field
from featherweight.errors import EngineError

INITS = (True, False, "gaussian")
"""Ways to begin that leave the base alone; PiSSA and its kin move a part of it into the LoRA."""


def check_plain_lora(name: str, folder: Path, tied: bool) -> None:
    """Raise `EngineError` for what llama.cpp's adapters cannot hold, before anything is loaded."""
    settings = adapter_settings(folder)
    what = None
    if settings.get("use_dora"):
        what = "DoRA"
    elif settings.get("modules_to_save"):
        what = f"whole trained modules ({', '.join(settings['modules_to_save'])})"
    elif settings.get("trainable_token_indices"):
        what = "trained tokens"
    elif settings.get("init_lora_weights", True) not in INITS:
        what = f"a base changed by {settings['init_lora_weights']!r}"
    else:
        for key in sorted(adapter_keys(folder)):
            if tied and ".lm_head." in key:
                what = "a LoRA on lm_head, whose weights the base shares with its embeddings,"
            elif not key.endswith((".lora_A.weight", ".lora_B.weight")):
                what = f"a tensor {key.removeprefix('base_model.model.')}"
            else:
                continue
            break
    if what:
        raise EngineError(
            f"{name} has {what} which a GGUF adapter cannot hold; "
            "leave --adapter out: then it is merged into the model."
        )


def adapter_fields(name: str, alpha: float) -> dict[str, Field]:
    """What says that a file is a LoRA, and how strong."""
    return {
        "general.type": field("adapter"),
        "general.name": field(name),
        "adapter.type": field("lora"),
        "adapter.lora.alpha": field(alpha),
    }


def adapter_tensors(name: str, tuned: Any, kind: str) -> tuple[float, list[Tensor]]:
    """alpha and the pairs A [r, in], B [out, r] of a peft model over a Llama.

    Raises `EngineError` for a LoRA on a module that no Llama in GGUF has.
    """
    base = tuned.get_base_model()
    pairs = []
    for module, layer in base.named_modules():
        if not hasattr(layer, "lora_A") or not hasattr(layer, "scaling"):
            continue
        target = gguf_module(module)
        if target is None:
            raise EngineError(
                f"{name} has a LoRA on {module}, which no Llama in GGUF has; leave --adapter out."
            )
        (adapter,) = layer.active_adapters
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        strength = float(layer.scaling[adapter]) * a.shape[0]
        pairs.append((target, a, b, strength, rotated_heads(module, base.config)))
    # 0 would be read as "do not scale"
    alpha = next((strength for *_, strength, _ in pairs if strength), None)
    if alpha is None:
        raise EngineError(f"{name} changes nothing in its base; check the adapter's settings.")
    tensors = []
    for target, a, b, strength, heads in pairs:
        for letter, weight, factor, rows in (
            ("a", a, 1.0, None),
            ("b", b, strength / alpha, heads),
        ):
            values = partial(_values, weight, factor, rows)
            tensors.append(
                Tensor(f"{target}.weight.lora_{letter}", tuple(weight.shape), kind, values)
            )
    return alpha, tensors


def _values(weight: Any, factor: float, heads: int | None) -> Any:
    values = weight.detach().float().numpy() * factor
    return values if heads is None else permute(values, heads)
