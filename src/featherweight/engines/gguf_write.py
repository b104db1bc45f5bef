"""A GGUF file from plain fields and tensors, with one tensor in memory at a time.

The `gguf` package knows the format and the number types; here is what this house writes of it:
matrices in one type, vectors in float32. It is imported late, since only writing needs it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_1")
LARGEST_F16 = 65504.0

# the writer sets its own
WRITTEN_BY_ITSELF = ("general.architecture", "general.file_type", "general.quantization_version")


@dataclass(frozen=True)
class Field:
    """A value with its GGUF type; `of` is the type of an array's items."""

    value: Any
    kind: Any
    of: Any = None


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: `values` gives float32 of `shape` [out, in] when its turn comes.

    With `raw` it gives the bytes of each row as `kind` keeps them: uint8 [out, bytes].
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    values: Callable[[], Any]
    raw: bool = False


def field(value: bool | int | float | str | Sequence[str] | Sequence[int]) -> Field:
    """A field of the type that llama.cpp expects for such a value."""
    from gguf import GGUFValueType as Kind

    if isinstance(value, bool):
        return Field(value, Kind.BOOL)
    if isinstance(value, int):
        return Field(value, Kind.UINT32)
    if isinstance(value, float):
        return Field(value, Kind.FLOAT32)
    if isinstance(value, str):
        return Field(value, Kind.STRING)
    texts = not value or isinstance(value[0], str)
    return Field(list(value), Kind.ARRAY, Kind.STRING if texts else Kind.INT32)


def fields_of(reader: Any) -> dict[str, Field]:
    """The fields of a `gguf.GGUFReader` but those that every writer sets itself."""
    from gguf import GGUFValueType

    found = {}
    for one in reader.fields.values():
        if one.name.startswith("GGUF.") or one.name in WRITTEN_BY_ITSELF:
            continue
        of = one.types[-1] if one.types[0] == GGUFValueType.ARRAY else None
        found[one.name] = Field(one.contents(), one.types[0], of)
    return found


def kind_of(shape: Sequence[int], kind: str) -> str:
    """The type of one tensor in a file of `kind`: vectors F32, rows that no block fits F16."""
    if len(shape) == 1:
        return "F32"
    return "F16" if kind == "Q8_0" and shape[-1] % 32 else kind


def write_gguf(
    path: Path, architecture: str, fields: Mapping[str, Field], tensors: Sequence[Tensor], kind: str
) -> None:
    """Write and sync `path`; `kind` is what the header calls the file as a whole.

    Raises `ImportError` without the `gguf` package, `OSError` where the file cannot be written and
    `ValueError` for a number that the tensor's type cannot hold.
    """
    import gguf
    import numpy as np

    quantise: Callable[..., Any] = gguf.quants.quantize
    writer = gguf.GGUFWriter(path, architecture)
    try:
        for name, one in fields.items():
            writer.add_key_value(name, one.value, one.kind, one.of)
        named = "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"
        writer.add_file_type(gguf.LlamaFileType[named])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for tensor in tensors:
            raw = gguf.GGMLQuantizationType[tensor.kind]
            shape = gguf.quants.quant_shape_to_byte_shape(tensor.shape, raw)
            size = int(np.prod(shape, dtype=np.int64))
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), size, raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            if tensor.raw:
                writer.write_tensor_data(np.ascontiguousarray(tensor.values()))
                continue
            values = np.ascontiguousarray(tensor.values(), dtype=np.float32)
            check_values(tensor.name, values, tensor.kind)
            writer.write_tensor_data(quantise(values, gguf.GGMLQuantizationType[tensor.kind]))
        writer.flush()
    finally:
        writer.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def check_values(name: str, values: Any, kind: str) -> None:
    """Raise `ValueError` for numbers that `kind` cannot hold."""
    import numpy as np

    largest = float(np.abs(values).max(initial=0.0))  # nan stays nan
    if not np.isfinite(largest):
        raise ValueError(f"{name} holds numbers that are not finite")
    # Q8_0 keeps each block's scale, its largest number / 127, as F16
    limit = {"F16": LARGEST_F16, "Q8_0": 127 * LARGEST_F16}.get(kind)
    if limit is not None and largest > limit:
        raise ValueError(f"{name} holds {largest:g}, too large for {kind}")
