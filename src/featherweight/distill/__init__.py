"""One objective, every training method: SFT, LoRA, KD, NEO, CAT, Gatekeeper; and the way out.

`export` writes what was trained as merged safetensors, as GGUF, or as a GGUF adapter.
"""

from featherweight.distill.export import Exported, export_adapter, export_gguf, export_safetensors
from featherweight.distill.gguf_check import Check, check_gguf_against

__all__ = [
    "Check",
    "Exported",
    "check_gguf_against",
    "export_adapter",
    "export_gguf",
    "export_safetensors",
]
