"""Packed weights: codes of 2, 3, 4 or 8 bits, kept entries beside a bitmask, or both.

`compress` writes them into `packed.safetensors` of a model's directory; config.json says what lies
there. Plain transformers looks for a file of another name and refuses the directory: of a method
that it does not know it would warn, and go on with random weights. A weight `NAME` of R rows and C
columns is kept as

    NAME.mask    uint8 [ceil(R*C / 8)]   one bit an entry, 1 = kept; sparse weights only
    NAME.codes   uint8 [ceil(K*bits/8)]  K kept entries (all, where there is no mask) in row order
    NAME.scales  bfloat16 [R, C/group]   weight = (code - zero) * scale
    NAME.zeros   uint8 [ceil(R*C/group * bits/8)]
    NAME.values  16-bit float [K]        instead of codes, scales and zeros: not quantised

Bits fill each byte from the highest down, one number after the other.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from featherweight.errors import EngineError

METHOD, VERSION = "featherweight", 1
FILE = "packed.safetensors"
PARTS = ("mask", "codes", "scales", "zeros", "values")


@dataclass(frozen=True)
class Packed:
    """One weight [R, C] as it lies on disk; parts that it does not have are `None`."""

    shape: tuple[int, int]
    bits: int | None = None
    group: int | None = None
    mask: Tensor | None = None
    codes: Tensor | None = None
    scales: Tensor | None = None
    zeros: Tensor | None = None
    values: Tensor | None = None

    def parts(self) -> dict[str, Tensor]:
        """The tensors that there are, by the end of their names."""
        return {part: found for part in PARTS if (found := getattr(self, part)) is not None}

    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.numel() * part.element_size() for part in self.parts().values())

    def kept(self) -> int:
        """How many entries are not pruned."""
        total = self.shape[0] * self.shape[1]
        return total if self.mask is None else int(unpack_bits(self.mask, 1, total).sum())

    def entries(self) -> Tensor | None:
        """Which of the weight's entries, in row order, are not pruned: bool [R*C]."""
        if self.mask is None:
            return None
        return unpack_bits(self.mask, 1, self.shape[0] * self.shape[1]).bool()

    def dense(self) -> Tensor:
        """The weight [R, C] in float32, exactly as the compressing run computed it."""
        rows, columns = self.shape
        count = self.kept()
        kept = self.entries()
        if self.values is not None:
            entries = self.values.float()
        else:
            assert self.bits and self.group and self.codes is not None
            assert self.scales is not None and self.zeros is not None
            entries = unpack_bits(self.codes, self.bits, count)
        if kept is None:
            full = entries
        else:
            full = torch.zeros(rows * columns, dtype=entries.dtype)
            full[kept] = entries
        full = full.view(rows, columns)
        if self.values is not None:
            return full
        assert self.bits and self.group and self.scales is not None and self.zeros is not None
        zeros = unpack_bits(self.zeros, self.bits, rows * columns // self.group)
        weight = on_grid(full, self.scales, zeros.view(rows, -1))
        return weight if kept is None else weight * kept.view(rows, columns)

    def facts(self) -> dict[str, Any]:
        """What config.json says of it."""
        return {"shape": list(self.shape), "bits": self.bits, "group": self.group}


def on_grid(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """(code - zero) * scale in float32: codes [R, C], scales and zeros [R, G] -> [R, C].

    Exact: 8 bits times a bfloat16's 8 bits fit into float32.
    """
    rows, columns = codes.shape
    grouped = codes.view(rows, scales.shape[1], -1).float()
    found = (grouped - zeros.float()[..., None]) * scales.float()[..., None]
    return found.view(rows, columns)


def pack_bits(numbers: Tensor, bits: int) -> Tensor:
    """Whole numbers below 2^bits, in row order, as a stream of bits: uint8 [ceil(n*bits/8)]."""
    flat = numbers.to(torch.uint8).flatten()
    if 8 % bits:
        shifts = np.arange(bits - 1, -1, -1, dtype=np.uint8)
        return torch.from_numpy(np.packbits((flat.numpy()[:, None] >> shifts) & 1))
    each = 8 // bits  # so many in a byte
    places = torch.nn.functional.pad(flat, (0, -len(flat) % each)).view(-1, each)
    packed = places[:, 0].clone()
    for place in places.T[1:]:
        packed.bitwise_left_shift_(bits).bitwise_or_(place)
    return packed


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` numbers of `pack_bits`' stream: uint8 [count]."""
    if 8 % bits:
        stream = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
        weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint8)
        return torch.from_numpy(stream @ weights)
    shifts = torch.arange(8 - bits, -1, -bits, dtype=torch.uint8)
    return ((packed[:, None] >> shifts) & (2**bits - 1)).flatten()[:count]


def is_packed(folder: Path) -> bool:
    """Whether a model's directory holds packed weights."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return isinstance(found, dict) and found.get("quant_method") == METHOD


def packing(facts: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of a directory's packed weights: each one's `facts` by its name."""
    return {"quant_method": METHOD, "version": VERSION, "layers": facts}


def read_packed(name: str, folder: Path) -> tuple[dict[str, Tensor], dict[str, Packed]]:
    """A directory's dense tensors, and its packed ones, by the weights' names.

    Raises `EngineError` for a file that is not whole or of another version.
    """
    facts = json.loads((folder / "config.json").read_text())["quantization_config"]
    if facts.get("version") != VERSION:
        raise EngineError(
            f"{name} was packed as version {facts.get('version')}, this featherweight reads "
            f"{VERSION}; compress it again."
        )
    tensors = load_file(folder / FILE)
    packed = {}
    for layer, fact in facts["layers"].items():
        parts = {part: tensors.pop(f"{layer}.{part}", None) for part in PARTS}
        packed[layer] = Packed(tuple(fact["shape"]), fact["bits"], fact["group"], **parts)
        _check(name, layer, packed[layer])
    return tensors, packed


def _check(name: str, layer: str, packed: Packed) -> None:
    rows, columns = packed.shape
    total = rows * columns
    sizes: dict[str, int] = {}
    kept = total
    if packed.mask is not None:
        sizes["mask"] = -(-total // 8)
        if packed.mask.numel() == sizes["mask"]:
            kept = packed.kept()
    if packed.bits is None:
        sizes["values"] = kept
    else:
        groups = total // (packed.group or total)
        sizes["codes"] = -(-kept * packed.bits // 8)
        sizes["scales"] = groups
        sizes["zeros"] = -(-groups * packed.bits // 8)
    found = {part: tensor.numel() for part, tensor in packed.parts().items()}
    if found != sizes:
        raise EngineError(
            f"{name} is not whole: {layer} should have parts of {sizes} numbers and has {found}; "
            "compress the model again."
        )


def dense_state(name: str, folder: Path) -> dict[str, Tensor]:
    """All tensors of a packed directory as a plain model has them, packed ones in float32."""
    tensors, packed = read_packed(name, folder)
    return tensors | {layer: one.dense() for layer, one in packed.items()}
