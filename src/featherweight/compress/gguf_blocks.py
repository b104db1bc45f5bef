"""Packed weights as llama.cpp's blocks of 32: 4 bits as Q4_1, 8 bits as Q8_0.

Q4_1: float16 scale and minimum, then 16 bytes, entry i in the low half of byte i and entry 16 + i
in the high half; weight = code * scale + minimum. Q8_0: float16 scale, then 32 signed bytes. Both
hold the grid's numbers exactly but for the minimum's and scale's rounding to float16.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from featherweight.engines.packed import Packed, unpack_bits

BLOCK = 32
KINDS = {4: "Q4_1", 8: "Q8_0"}


def kind_of(packed: Packed) -> str | None:
    """The type of block that says the same, `None` where there is none."""
    fits = packed.mask is None and packed.bits is not None and (packed.group or 0) % BLOCK == 0
    return KINDS.get(packed.bits or 0) if fits else None


def blocks(packed: Packed, order: Callable[[Any], Any] = lambda rows: rows) -> Any:
    """uint8 [R, bytes of a row] in `kind_of`'s type; `order` permutes rows, as q's and k's must be.

    Raises `ValueError` for scales that float16 cannot hold.
    """
    rows, columns = packed.shape
    assert packed.bits and packed.group and packed.codes is not None
    assert packed.scales is not None and packed.zeros is not None
    codes = unpack_bits(packed.codes, packed.bits, rows * columns).numpy().reshape(rows, -1)
    zeros = unpack_bits(packed.zeros, packed.bits, packed.scales.numel()).numpy()
    scales = order(packed.scales.float().numpy())
    repeated = packed.group // BLOCK
    wide = np.repeat(scales, repeated, axis=1)
    lows = np.repeat(-order(zeros.reshape(rows, -1).astype(np.float32)) * scales, repeated, axis=1)
    if max(np.abs(wide).max(), np.abs(lows).max()) > np.finfo(np.float16).max:
        raise ValueError("a scale is too large for float16")
    grouped = order(codes).reshape(rows, -1, BLOCK)
    head = wide.astype("<f2")[..., None].view(np.uint8)
    if packed.bits == 8:
        signed = (grouped.astype(np.int16) - 128).astype(np.int8).view(np.uint8)
        return np.concatenate([head, signed], axis=2).reshape(rows, -1)
    minimum = lows.astype("<f2")[..., None].view(np.uint8)
    halves = grouped[..., :16] | (grouped[..., 16:] << 4)
    return np.concatenate([head, minimum, halves], axis=2).reshape(rows, -1)
