"""From what a solver left to what lies on disk, and how large that should be."""

import torch

from featherweight.compress.solve import Swept
from featherweight.engines.packed import Packed, pack_bits


def pack(swept: Swept, bits: int | None, group: int | None, values: torch.dtype) -> Packed:
    """`swept` as codes where it has them, else as `values` (a 16-bit type) of what is kept."""
    rows, columns = swept.weight.shape
    mask = None if swept.mask is None else swept.mask.cpu()
    packed_mask = None if mask is None else pack_bits(mask, 1)
    if bits is None:
        assert mask is not None
        kept = swept.weight.cpu()[mask].to(values)
        return Packed((rows, columns), mask=packed_mask, values=kept)
    assert swept.codes is not None and swept.scales is not None and swept.zeros is not None
    codes = swept.codes.cpu()
    return Packed(
        (rows, columns),
        bits,
        group,
        mask=packed_mask,
        codes=pack_bits(codes if mask is None else codes[mask], bits),
        scales=swept.scales.cpu().bfloat16().contiguous(),
        zeros=pack_bits(swept.zeros.cpu(), bits),
    )


def bytes_theory(
    rows: int, columns: int, bits: int | None, group: int | None, kept: int | None
) -> float:
    """What a weight's information takes: a bit an entry for a mask, `bits` (else 16) an entry kept,
    16 + `bits` a group."""
    entries = rows * columns if kept is None else kept
    found = entries * (bits or 16) + (0 if kept is None else rows * columns)
    if bits and group:
        found += rows * columns // group * (16 + bits)
    return found / 8
