"""The grid that weights are rounded to: in each group of neighbours, 2^bits even steps.

A grid spans its group's smallest to largest weight and always holds 0, so a pruned weight stays
one. weight = (code - zero) * scale; scales are bfloat16, as they lie on disk. With 8 bits zero is
the middle, 128, as in GGUF's Q8_0, which can then say the same numbers.
"""

import torch
from torch import Tensor

SMALLEST = torch.finfo(torch.bfloat16).tiny


def fit(weights: Tensor, bits: int, symmetric: bool = False) -> tuple[Tensor, Tensor]:
    """The grids of groups [..., group]: scales (float32, exactly bfloat16) and zeros, both [...].

    Zeros are whole numbers in float32; of a symmetric grid the middle.
    """
    low = weights.amin(-1).clamp(max=0)
    high = weights.amax(-1).clamp(min=0)
    top = 2**bits - 1
    middle = 2 ** (bits - 1)
    if symmetric or bits == 8:
        # half a step beyond the highest code costs less than a coarser grid, but Q8_0 has none
        reach = 127 if bits == 8 else middle - 0.5
        scale = (torch.maximum(high, -low) / reach).clamp(min=SMALLEST).bfloat16().float()
        return scale, torch.full_like(scale, middle)
    scale = ((high - low) / top).clamp(min=SMALLEST).bfloat16().float()
    return scale, (-low / scale).round_().clamp_(0, top)


def encode(
    weights: Tensor, scale: Tensor, zero: Tensor, bits: int, out: Tensor | None = None
) -> Tensor:
    """The nearest codes, whole numbers in float32; scale and zero broadcast against weights."""
    return torch.div(weights, scale, out=out).round_().add_(zero).clamp_(0, 2**bits - 1)


def rtn(
    weight: Tensor, bits: int, group: int, symmetric: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Every weight to its nearest code: codes [R, C], scales and zeros [R, C/group], float32."""
    grouped = weight.view(weight.shape[0], -1, group)
    scale, zero = fit(grouped, bits, symmetric)
    codes = encode(grouped, scale[..., None], zero[..., None], bits)
    return codes.view(weight.shape), scale, zero
