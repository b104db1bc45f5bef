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

from featherweight.engines.hf_open import model_folder
from featherweight.engines.packed import FILE, Packed, is_packed, read_packed
from featherweight.errors import TrainingError

SCALE = 2.0  # as LoRA's here, alpha / r
SPP_RANK = 16  # the paper's


class Multiplier(nn.Module):  # type: ignore[misc]
    """W' - W of a linear layer's W: its outputs are added to the layer's own.

    W' itself would be rounded in bfloat16 to W as long as the factor is within 0.2 % of 1.
    """

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
        """W' - W in the dtype of `weight` [rows, columns]."""
        out: Tensor = _Difference.apply(weight, self.a, self.b)
        return out


def _hook(linear: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + nn.functional.linear(inputs[0], linear.spp(linear.weight))


class _Difference(torch.autograd.Function):  # type: ignore[misc]
    """Keeps nothing of W's size for backward but W, which is there anyway."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(weight, a, b)
        factor = SCALE * b.view(len(a), -1, 1) * a[:, None]
        return (factor * _grouped(weight, a)).view_as(weight).to(weight.dtype)

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
        module.spp = Multiplier(name, module.weight, rank)
        module.register_forward_hook(_hook)
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
    """Write the packed base into `folder` with the values that were learnt, and its config.

    Most learnt changes are smaller than a step of bfloat16, and rounding to nearest would undo them
    all: each value is rounded up or down by chance (seeded), right on average.
    """
    base: str = model.pruned_base
    source = model_folder(base)
    tensors, packed = read_packed(base, source)
    chance = torch.Generator().manual_seed(0)
    for name, one in packed.items():
        kept = one.entries()
        if kept is not None and one.values is not None:
            module = model.get_submodule(name.removesuffix(".weight"))
            before, learnt = one.dense(), (module.spp.a.detach().cpu(), module.spp.b.detach().cpu())
            weight = before + _Difference.apply(before, *learnt)
            one = replace(one, values=_rounded(weight.flatten()[kept], one.values.dtype, chance))
        tensors |= {f"{name}.{part}": tensor for part, tensor in one.parts().items()}
    save_file(tensors, folder / FILE, {"format": "pt"})
    for name in ("config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _rounded(values: Tensor, dtype: torch.dtype, chance: torch.Generator) -> Tensor:
    """float32 `values` in `dtype`, each one of its two neighbours there, the nearer more likely."""
    near = values.to(dtype)
    if dtype == torch.float32:
        return near
    outward = values.abs() > near.float().abs()  # the next number from 0 is one more as an integer
    other = (near.view(torch.int16) + torch.where(outward, 1, -1).short()).view(dtype)
    share = (values - near.float()) / (other.float() - near.float())
    return torch.where(torch.rand(values.shape, generator=chance) < share, other, near)
