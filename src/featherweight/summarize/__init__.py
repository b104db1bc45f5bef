"""Instruction and transcript in, a summary with checked evidence out.

Chunks lose nothing, strategies decide what the model reads, and code, not the model, decides which
point is supported.
"""

import sys
from types import ModuleType
from typing import Any

from featherweight.summarize.evidence import (
    Evidence,
    EvidenceFinder,
    Support,
    SupportRate,
    support_rate,
)
from featherweight.summarize.summarizer import summarize
from featherweight.summarize.types import Focus, Length, Point, Strategy, Summary

__all__ = [
    "Evidence",
    "EvidenceFinder",
    "Focus",
    "Length",
    "Point",
    "Strategy",
    "Summary",
    "Support",
    "SupportRate",
    "summarize",
    "support_rate",
]


class _Callable(ModuleType):
    """`from featherweight import summarize` gives this room once it is imported, for Python binds
    a package's submodules to their names; so calling the room is calling the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Summary:
        return summarize(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
