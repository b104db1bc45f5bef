"""Instruction and transcript in, a summary with checked evidence out.

Chunks lose nothing, strategies decide what the model reads, and code, not the model, decides which
point is supported.
"""

from featherweight.summarize.evidence import Evidence, EvidenceFinder, Support
from featherweight.summarize.summarizer import summarize_transcript
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
    "summarize_transcript",
]
