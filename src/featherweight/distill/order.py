"""In which order examples are seen: the same for every way to cut a step into micro-batches.

An optimiser step sees a *window* of `batch` examples. Windows are drawn from shuffled examples
sorted by length among a few hundred neighbours, so that a micro-batch has little padding, and
depend on seed, epoch and `batch` alone: 1 x 8, 8 x 1 and 2 processes x 4 learn from the same
windows. The last window is filled up with blanks, which have no label, so that every process has
equally many micro-batches.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

NEIGHBOURS = 50  # windows whose examples are sorted together


def epoch_order(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> list[int]:
    """Indices of all examples, window after window; -1 are blanks that fill the last one."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    windows: list[list[int]] = []
    for start in range(0, len(shuffled), batch * NEIGHBOURS):
        near = sorted(shuffled[start : start + batch * NEIGHBOURS], key=lambda i: -lengths[i])
        windows += [near[a : a + batch] for a in range(0, len(near), batch)]
    # a short window comes last, where the trainer expects it; the others in any order
    short = [window for window in windows if len(window) < batch]
    full = [window for window in windows if len(window) == batch]
    mixed = [full[i] for i in torch.randperm(len(full), generator=generator).tolist()]
    return [i for window in mixed + short for i in window]


class Order(Sampler[int]):  # type: ignore[misc]
    """`epoch_order` as a sampler; a round of micro-batches takes `multiple` examples."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, multiple: int) -> None:
        self._lengths, self._batch, self._seed = lengths, batch, seed
        self._blanks = -len(lengths) % multiple
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths) + self._blanks

    def __iter__(self) -> Iterator[int]:
        yield from epoch_order(self._lengths, self._batch, self._seed, self._epoch)
        yield from [-1] * self._blanks
