"""Instruction and transcript in, a summary with checked evidence out."""

from .evidence import Evidence, EvidenceFinder, Support, SupportRate, support_rate
from .support import stated, stated_owner

__all__ = [
    "Evidence",
    "EvidenceFinder",
    "Support",
    "SupportRate",
    "stated",
    "stated_owner",
    "support_rate",
]
