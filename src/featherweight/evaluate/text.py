"""One way to cut text for every metric, so that no two disagree about what a sentence is."""

import re

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def sentences(text: str) -> list[str]:
    """White space collapsed, then cut after `.`, `!` and `?` that white space follows."""
    collapsed = " ".join(text.split())
    return [part for part in _SENTENCE_END.split(collapsed) if part]


def words(text: str) -> list[str]:
    """White-space words."""
    return text.split()
