"""One objective, every training method: SFT, LoRA, KD, NEO, CAT, Gatekeeper; and the way out.

`train` teaches a student, `teach` lets a large model read the data once for it, `export_*` write
what was trained as merged safetensors, as GGUF, or as a GGUF adapter.
"""

from featherweight.distill.export import (
    Exported,
    export_adapter,
    export_compressed_tensors,
    export_gguf,
    export_safetensors,
)
from featherweight.distill.gguf_check import Check, check_gguf_against
from featherweight.distill.objective import Objective
from featherweight.distill.settings import Settings
from featherweight.distill.teach import Taught, teach, teach_text
from featherweight.distill.train import Trained, train

__all__ = [
    "Check",
    "Exported",
    "Objective",
    "Settings",
    "Taught",
    "Trained",
    "check_gguf_against",
    "export_adapter",
    "export_compressed_tensors",
    "export_gguf",
    "export_safetensors",
    "teach",
    "teach_text",
    "train",
]
