"""Where tokens come from: llama.cpp, transformers, or any OpenAI-compatible server.

All take `Request`s and give `Generation`s, batched and in order; nobody downstream asks which one
answers. `load_engine` opens one by its spec.
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
