"""The two types that carry a meeting."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """One uninterrupted piece of speech, as the file states it.

    `start` and `end` are seconds (a clock time counts from midnight); `None` means that the file
    does not say. Nothing here is ever guessed.
    """

    speaker: str | None
    text: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """A meeting in file order. A turn's index in `turns` is what evidence cites."""

    turns: tuple[Turn, ...]
    source: str
    format: str
