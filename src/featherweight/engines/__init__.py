"""Where tokens come from: one contract, three engines.

`load_engine(spec)` opens a GGUF file (llama.cpp), a transformers directory, or a remote server;
whoever holds the `Engine` never asks which.
"""

from featherweight.engines.load import load_engine
from featherweight.engines.types import (
    Delta,
    Engine,
    Generation,
    Message,
    Prompt,
    Request,
    TopLogprob,
)

__all__ = [
    "Delta",
    "Engine",
    "Generation",
    "Message",
    "Prompt",
    "Request",
    "TopLogprob",
    "load_engine",
]
