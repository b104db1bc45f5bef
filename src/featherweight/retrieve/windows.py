"""Cut consecutive texts into overlapping windows, and pick the best ones for a budget."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .bm25 import BM25


class Locator(Protocol):
    """Whatever can say which of some texts matters for a query.

    `name` identifies it and its weights. `window` and `stride` are the words it works best with.
    """

    @property
    def name(self) -> str: ...
    @property
    def window(self) -> int: ...
    @property
    def stride(self) -> int: ...

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts)], higher is better; comparable within one call only."""
        ...


class BM25Locator:
    """Word match alone; nothing is fitted but the windows, on QMSum's val split."""

    name = "bm25"
    window, stride = 300, 100

    def scores(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        return BM25(texts).scores(query)


def windows(lengths: Sequence[int], size: int, stride: int) -> list[tuple[int, int]]:
    """Ranges [first, end) of texts with about `size` words each, one about every `stride` words.

    `lengths` are the texts' words. A window holds whole texts: it grows while it is at most `size`
    words long and always holds one text, so a longer text is a window of its own. Every text is
    in at least one window, and no window lies inside another.
    """
    if size < 1 or not 1 <= stride <= size:
        raise ValueError(f"windows need 1 <= stride <= size, not stride {stride} and size {size}")
    found: list[tuple[int, int]] = []
    first = 0
    while first < len(lengths):
        end, words = first + 1, lengths[first]
        while end < len(lengths) and words + lengths[end] <= size:
            words += lengths[end]
            end += 1
        if not found or end > found[-1][1]:
            found.append((first, end))
        step = lengths[first]
        first += 1
        # Never step over a text that no window holds yet.
        while first < end and step < stride:
            step += lengths[first]
            first += 1
    return found


def pack(
    spans: Sequence[tuple[int, int]],
    scores: NDArray[np.float32],
    lengths: Sequence[int],
    budget: int,
) -> list[int]:
    """Texts of the best-scored windows that fit `budget` words together, in reading order.

    Greedy: best window first (ties: the earlier one); a text that two windows share is paid once;
    a window that no longer fits is passed over, so a smaller one may still fill the rest.
    """
    taken: set[int] = set()
    left = budget
    for index in np.argsort(-np.asarray(scores), kind="stable"):
        new = [text for text in range(*spans[index]) if text not in taken]
        cost = sum(lengths[text] for text in new)
        if cost <= left:
            taken.update(new)
            left -= cost
    return sorted(taken)
