"""Packed weights in the layout that compressed-tensors calls pack-quantized, which vLLM reads.

A weight `NAME.weight` [R, C] becomes NAME.weight_packed int32 [R, C*bits/32], codes from the lowest
bits up, NAME.weight_scale [R, C/group] in the model's type, and NAME.weight_shape int64 [2]. All
layers alike, 4 or 8 bits, zero in the middle: zero points have a place in the layout, but version
0.19.0 of the library cannot open them in transformers (it expects them unpacked).
https://github.com/vllm-project/compressed-tensors
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featherweight.engines.packed import Packed, unpack_bits
from featherweight.errors import CompressError

BITS = (4, 8)


def scheme(name: str, packed: Mapping[str, Packed]) -> tuple[int, int]:
    """Bits and group of all weights; raises `CompressError` where the layout has no such."""
    found = {(one.bits, one.group, one.mask is None, _symmetric(one)) for one in packed.values()}
    if len(found) == 1:
        [(bits, group, whole, symmetric)] = found
        if bits in BITS and group and whole and symmetric:
            return bits, group
    raise CompressError(
        f"{name} is not written as compressed-tensors, which holds symmetric weights of 4 or 8 "
        "bits without a mask; compress with gptq:bits=8, or gptq:bits=4,symmetric=true."
    )


def _symmetric(packed: Packed) -> bool:
    if packed.bits is None or packed.zeros is None or packed.scales is None:
        return False
    zeros = unpack_bits(packed.zeros, packed.bits, packed.scales.numel())
    return bool((zeros == 2 ** (packed.bits - 1)).all())


def tensors(weight: str, packed: Packed, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors that stand for `weight`; scales in `dtype`, the model's.

    Raises `CompressError` where `dtype` does not hold the scales.
    """
    rows, columns = packed.shape
    assert packed.bits and packed.codes is not None and packed.scales is not None
    codes = unpack_bits(packed.codes, packed.bits, rows * columns).view(rows, columns)
    if not torch.equal(packed.scales.to(dtype).float(), packed.scales.float()):
        raise CompressError(
            f"{weight}: its scales are too small or too large for {dtype}, the model's type, in "
            "which compressed-tensors keeps them; export it as safetensors, or compress a copy in "
            "bfloat16."
        )
    return {
        f"{weight}_packed": _words(codes, packed.bits),
        f"{weight}_scale": packed.scales.to(dtype),
        f"{weight}_shape": torch.tensor([rows, columns]),
    }


def quantization_config(bits: int, group: int, ignored: list[str]) -> dict[str, Any]:
    """What config.json says."""
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": group,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ignored,
    }


def _words(codes: Tensor, bits: int) -> Tensor:
    """Rows of codes [R, C] as int32 [R, ceil(C*bits/32)], the first in the lowest bits."""
    rows, columns = codes.shape
    each = 32 // bits
    padded = np.zeros((rows, -(-columns // each) * each), np.uint32)
    padded[:, :columns] = codes.numpy()
    shifts = np.arange(each, dtype=np.uint32) * np.uint32(bits)
    words = (padded.reshape(rows, -1, each) << shifts).sum(2, dtype=np.uint32)
    return torch.from_numpy(words.view(np.int32))
