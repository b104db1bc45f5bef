"""SPP: what a pruned model kept learns, what it lost stays lost (arXiv 2405.16057).

    W' = W (.) (1 + s repeat(A) b),  A [r, columns], b [rows], s = 2

Each row of A counts for rows/r neighbouring rows of W. A starts as LoRA's does and b as zeros. It
multiplies, so a zero stays one; what is saved is the packed model with other values.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from featherweight.engines.hf_open import model_folder
from featherweight.engines.packed import FILE, Packed, is_packed, read_packed
from featherweight.errors import TrainingError

SCALE = 2.0  # as LoRA's here, alpha / r
SPP_RANK = 16  # the paper's


class Multiplier(nn.Module):  # type: ignore[misc]
    """What W is multiplied by: a parametrization of a linear layer's weight."""

    def __init__(self, name: str, weight: Tensor, rank: int) -> None:
        """Raises `TrainingError` where `rank` does not divide the weight's rows."""
        super().__init__()
        rows, columns = weight.shape
        if rows % rank:
            raise TrainingError(
                f"rank {rank} does not divide the {rows} rows of {name}; choose another --rank."
            )
        start = nn.init.kaiming_uniform_(torch.empty(rank, columns), a=5**0.5)
        self.a = nn.Parameter(start.to(weight.device))
        self.b = nn.Parameter(torch.zeros(rows, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """W' in the dtype of `weight` [rows, columns]."""
        out: Tensor = _Multiplied.apply(weight, self.a, self.b)
        return out


class _Multiplied(torch.autograd.Function):  # type: ignore[misc]
    """Keeps nothing of W's size for backward but W, which is there anyway."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(weight, a, b)
        grouped = _grouped(weight, a).to(a.dtype, copy=True)
        factor = b.view(len(a), -1, 1) * a[:, None]
        grouped.addcmul_(grouped, factor, value=SCALE)
        return grouped.view_as(weight).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        weight, a, b = ctx.saved_tensors
        of_factor = _grouped(gradient, a).to(a.dtype) * _grouped(weight, a)
        of_a = torch.einsum("grc,gr->gc", of_factor, b.view(len(a), -1))
        of_b = torch.einsum("grc,gc->gr", of_factor, a)
        return None, SCALE * of_a, SCALE * of_b.flatten()


def _grouped(weight: Tensor, a: Tensor) -> Tensor:
    """[rows, columns] as [r, rows/r, columns]."""
    return weight.view(len(a), -1, weight.shape[1])


def multiply(model: Any, base: str, rank: int) -> Any:
    """`model`, frozen, with a `Multiplier` at each weight that was pruned when it was packed.

    Raises `TrainingError` where nothing was, or where kept weights are codes, which a product
    leaves.
    """
    packed = _pruned(base)
    model.requires_grad_(False)
    for name in packed:
        module = model.get_submodule(name.removesuffix(".weight"))
        multiplier = Multiplier(name, module.weight, rank)
        parametrize.register_parametrization(module, "weight", multiplier)
    model.pruned_base = base
    return model


def _pruned(base: str) -> dict[str, Packed]:
    folder = model_folder(base)
    packed = read_packed(base, folder)[1] if is_packed(folder) else {}
    found = {name: one for name, one in packed.items() if one.mask is not None}
    if not found:
        raise TrainingError(
            f"{base} holds no weights that `featherweight compress` pruned (sparsegpt, wanda, "
            "magnitude), whose mask spp keeps; use lora."
        )
    if any(one.values is None for one in found.values()):
        raise TrainingError(
            f"{base} is pruned and quantised, and what spp multiplies is on no grid any more; use "
            "lora, or prompts."
        )
    return found


def save_multiplied(model: Any, folder: Path) -> None:
    """Write the packed base into `folder` with the values that were learnt, and its config."""
    base: str = model.pruned_base
    source = model_folder(base)
    tensors, packed = read_packed(base, source)
    for name, one in packed.items():
        kept = one.entries()
        if kept is not None and one.values is not None:
            module = model.get_submodule(name.removesuffix(".weight"))
            learnt = module.parametrizations.weight[0]
            factors = (learnt.a.detach().cpu(), learnt.b.detach().cpu())
            weight = _Multiplied.apply(one.dense(), *factors)
            one = replace(one, values=weight.flatten()[kept].to(one.values.dtype))
        tensors |= {f"{name}.{part}": tensor for part, tensor in one.parts().items()}
    save_file(tensors, folder / FILE, {"format": "pt"})
    for name in ("config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
